"""TensorBoard in a training loop of one's own: how far each optimizer step moves the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._names import Names
from .update_norms import UpdateNorms

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class UpdateNormLog(UpdateNorms):
    """What :func:`log_update_norms` returns."""

    def before_clipping(self) -> None:
        """Call it when the gradients are complete and not clipped yet, for ``grad_norm``; free on most steps.

        With a GradScaler after ``scaler.unscale_(optimizer)``, which clipping needs too.
        """
        for watch in self._watches:
            watch.before_clipping()

    def remove(self) -> None:
        """Stop logging; the optimizer is as it was."""
        self.unwatch()


def log_update_norms(
    optimizer: torch.optim.Optimizer,
    writer: SummaryWriter | None,
    every_n_steps: int = 50,
    names: Names | None = None,
    *,
    initial_step: int = 0,
    **settings: Any,
) -> UpdateNormLog:
    """Write to TensorBoard how far each step of an optimizer moves the parameters.

    Gradients are those that ``step`` sees, so they are logged as ``grad_norm_clipped``; for ``grad_norm`` call
    ``before_clipping()`` of what this returns between ``backward()`` and clipping.

    Args:
        optimizer: any; a wrapper outermost.
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or what has its ``add_scalar`` and ``add_histogram``, such
            as tensorboardX's. Where ranks share the parameters all of them must measure; give those that do not write
            None.
        every_n_steps: steps of the optimizer from one point to the next, >= 1. Default 50.
        names: the model, its ``named_parameters()``, or a dict. Default None: the names the optimizer was made with,
            else group and position, ``pg1.0``.
        initial_step: steps made before, where a run is resumed. Default 0.
        **settings: the other arguments of :class:`optzoo.integrations.update_norms.UpdateNorms`, which says what is
            logged.

    Raises:
        ValueError: an argument out of its range, named with its value; a pattern that matches nothing.
        TypeError: a writer that has no ``add_scalar``; an unknown argument.

    >>> import tempfile, torch
    >>> from torch.utils.tensorboard import SummaryWriter
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> norms = log_update_norms(optimizer, SummaryWriter(tempfile.mkdtemp()), every_n_steps=10, names=model)
    >>> for _ in range(20):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> norms.remove()
    """
    if writer is not None and not hasattr(writer, "add_scalar"):
        raise TypeError(
            f"log_update_norms: writer must be a torch.utils.tensorboard.SummaryWriter, got {type(writer).__name__}; "
            "it comes with pip install 'optzoo[tensorboard]'"
        )
    norms = UpdateNormLog(every_n_steps, **settings)
    untyped: Any = writer

    def write(scalars: dict[str, float], histograms: dict[str, Tensor], step: int) -> None:
        if untyped is None:
            return
        for key, value in scalars.items():
            untyped.add_scalar(key, value, step)
        for key, values in histograms.items():
            untyped.add_histogram(key, values, step)

    norms.watch([optimizer], names, write, at_step=True, steps={"": initial_step})
    return norms
