"""Going on with another optimizer in the middle of a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from optzoo.schedulers.unwrapping import unwrapped

from .core import Optimizer


def adopt(optimizer: Optimizer, source: torch.optim.Optimizer | Mapping[str, Any]) -> None:
    """Take over the moments and step counts of ``source``, and keep the options ``optimizer`` was made with.

    For a switch in the middle of a run, say from torch's AdamW to AdEMAMix, where the new lr, betas and alpha are
    meant. (To resume a run as it was, ``optimizer.load_state_dict``: there the checkpoint's options win.) Moments that
    only ``optimizer`` has start afresh; AdEMAMix counts its warm-ups from here (``schedule_start``).

    Args:
        optimizer: one of the optimizers here, over the same parameters in the same groups and order as ``source``'s.
        source: an optimizer, or the state_dict of one. It is copied, never changed or shared.

    Raises:
        ValueError: parameters, shapes or moments do not fit; ``optimizer`` is then as it was.

    >>> import torch
    >>> from optzoo.optimizers import AdEMAMix
    >>> model = torch.nn.Linear(2, 1)
    >>> before = torch.optim.AdamW(model.parameters())
    >>> for _ in range(3):
    ...     before.zero_grad(); model(torch.ones(1, 2)).sum().backward(); before.step()
    >>> after = AdEMAMix(model.parameters(), lr=3e-4, alpha=2.0)
    >>> adopt(after, before.state_dict())
    >>> after.state[model.bias]["step"], after.param_groups[0]["schedule_start"], after.param_groups[0]["lr"]
    (tensor(3.), 3, 0.0003)
    """
    source = unwrapped(source)
    saved = source.state_dict() if isinstance(source, torch.optim.Optimizer) else source
    unwrapped(optimizer)._load(copy.deepcopy(dict(saved)), adopting=True)
