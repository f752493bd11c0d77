"""Going on with another optimizer in the middle of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from optzoo.unwrapping import unwrapped

from .core import Optimizer, checkpoints
from .core.wrapper import OptimizerWrapper


def adopt(optimizer: Optimizer | OptimizerWrapper, source: torch.optim.Optimizer | Mapping[str, Any]) -> None:
    """Take over the moments and step counts of ``source``, and keep the options ``optimizer`` was made with.

    For a switch in the middle of a run, say from torch's AdamW to AdEMAMix, where the new lr, betas and alpha are
    meant. (To resume a run as it was, ``optimizer.load_state_dict``: there the checkpoint's options win.) Moments that
    only ``optimizer`` has start afresh; AdEMAMix counts its warm-ups from here (``schedule_start``).

    Args:
        optimizer: one of the optimizers or wrappers here, over the same parameters in the same groups and order as
            ``source``'s.
        source: an optimizer, or the state_dict of one. It is copied, never changed or shared.

    Raises:
        ValueError: parameters, shapes or moments do not fit; ``optimizer`` is then as it was.
        TypeError: ``optimizer`` is of another library.

    Where a framework loads the checkpoint: :func:`adopt_on_load`.

    >>> import torch
    >>> from optzoo.optimizers import AdEMAMix
    >>> model = torch.nn.Linear(2, 1)
    >>> before = torch.optim.AdamW(model.parameters())
    >>> for _ in range(3):
    ...     before.zero_grad(); model(torch.ones(1, 2)).sum().backward(); before.step()
    >>> after = AdEMAMix(model.parameters(), lr=3e-4, alpha=2.0)
    >>> adopt(after, before.state_dict())
    >>> after.state[model.bias]["step"].item(), after.param_groups[0]["schedule_start"], after.param_groups[0]["lr"]
    (3.0, 3, 0.0003)
    """
    target, source = _checked(optimizer, "adopt"), unwrapped(source)
    saved = source.state_dict() if isinstance(source, torch.optim.Optimizer) else source
    target.load_state_dict({**saved, checkpoints.ADOPT: True})


def adopt_on_load(optimizer: Optimizer | OptimizerWrapper) -> RemovableHandle:
    """From now on ``optimizer.load_state_dict`` adopts what another optimizer wrote, and resumes from its own.

    For frameworks that load checkpoints themselves: a run that changes its optimizer and goes on from ``ckpt_path``
    or ``resume_from_checkpoint``, and may be interrupted and resumed again later. In Lightning there is
    :class:`optzoo.integrations.lightning.AdoptCallback`, for Hugging Face's Trainer
    :class:`optzoo.integrations.huggingface.AdoptMixin`.

    Args:
        optimizer: one of the optimizers or wrappers here.

    Returns:
        A handle whose ``remove()`` ends it.

    Raises:
        TypeError: ``optimizer`` is of another library.

    >>> import torch
    >>> from optzoo.optimizers import AdEMAMix, AdamW
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> w.grad = torch.ones(2)
    >>> before, after = AdamW([w], lr=1e-3), AdEMAMix([w], lr=3e-4)
    >>> before.step()
    >>> handle = adopt_on_load(after)
    >>> after.load_state_dict(before.state_dict()); after.param_groups[0]["lr"]
    0.0003
    """
    target = _checked(optimizer, "adopt_on_load")

    def hook(loading: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
        another = checkpoints.is_of_another(loading, state_dict)
        return {**state_dict, checkpoints.ADOPT: True} if another else None

    return target.register_load_state_dict_pre_hook(hook)


def _checked(optimizer: Any, action: str) -> Optimizer | OptimizerWrapper:
    optimizer = unwrapped(optimizer)
    if not isinstance(optimizer, (Optimizer, OptimizerWrapper)):
        raise TypeError(
            f"{action}: optimizer must be one of optzoo's, got {type(optimizer).__name__}; others take every option "
            "from what they load"
        )
    return optimizer
