"""TensorBoard in a training loop of one's own: how far each optimizer step moves the parameters."""

from __future__ import annotations

from itertools import chain, count
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor

from optzoo.unwrapping import unwrapped

from ._names import Names
from .update_norms import UpdateNorms

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_logs: WeakSet[UpdateNormLog] = WeakSet()


class UpdateNormLog(UpdateNorms):
    """What :func:`log_update_norms` returns."""

    writer: Any = None

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
    prefix: str | None = None,
    **settings: Any,
) -> UpdateNormLog:
    """Write to TensorBoard how far each step of an optimizer moves the parameters.

    Gradients are those that ``step`` sees, so they are logged as ``grad_norm_clipped``; for ``grad_norm`` call
    ``before_clipping()`` of what this returns between ``backward()`` and clipping.

    Args:
        optimizer: any; a wrapper outermost. One that Accelerate or Lightning has prepared too.
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or what has its ``add_scalar`` and ``add_histogram``, such
            as tensorboardX's. Where ranks share the parameters all of them must measure; give those that do not write
            None.
        every_n_steps: steps of the optimizer from one point to the next, >= 1. Default 50.
        names: the model, its ``named_parameters()``, or a dict. Default None: the names the optimizer was made with,
            else group and position, ``pg1.0``.
        initial_step: steps made before, where a run is resumed. Default 0.
        prefix: what every tag begins with, such as ``"generator/"``. Default None: none for the first log on a writer,
            then the optimizer's class with a number: ``AdamW-1/``.
        **settings: the other arguments of :class:`optzoo.integrations.update_norms.UpdateNorms`, which says what is
            logged.

    Raises:
        ValueError: an argument out of its range, named with its value; a pattern that matches nothing; a prefix that
            another log on the same writer has.
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
    norms = UpdateNormLog(every_n_steps, prefix=_prefix(prefix, optimizer, writer), **settings)
    untyped: Any = writer

    def write(scalars: dict[str, float], histograms: dict[str, Tensor], step: int) -> None:
        if untyped is None:
            return
        for key, value in scalars.items():
            untyped.add_scalar(key, value, step)
        for key, values in histograms.items():
            untyped.add_histogram(key, values, step)

    norms.watch([optimizer], names, write, at_step=True, steps={"": initial_step})
    norms.writer = writer
    _logs.add(norms)
    return norms


def _prefix(given: str | None, optimizer: torch.optim.Optimizer, writer: SummaryWriter | None) -> str:
    """The prefix given, or one that no other log on the writer has: their tags would else be the same."""
    taken = {log.prefix for log in _logs if writer is not None and log.writer is writer and log._watches}
    if given is not None:
        if given in taken:
            raise ValueError(
                f"log_update_norms: prefix={given!r} is that of another log on this writer, and both would write "
                "update_norm/total; give each its own, or remove() the other first"
            )
        return given
    name = type(unwrapped(optimizer)).__name__
    return next(prefix for prefix in chain([""], (f"{name}-{i}/" for i in count(1))) if prefix not in taken)
