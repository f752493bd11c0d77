"""Loops with a scheduler, and the learning rates every framework must use."""

from __future__ import annotations

import copy
from typing import Any

import torch

from optzoo.schedulers import Schedule

EXACT = [0, 0.05, 0.1, 0.1, 0.1, 0.1, 0.0553, 0.0368, 0.0225, 0.0106]
"""lr 0.1, total 10: warm-up 0.2, hold, and to 0 over 0.5 as sqrt."""
EXACT_SCHEDULE = Schedule(start=0).to(1, 0.2).hold().to(0, 0.5, shape="sqrt")


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(2))


def sgd(lr: Any = 0.1, groups: int = 1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [parameter()], "lr": lr} for _ in range(groups)], lr=lr, **options)


def run(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int, key: str = "lr", group: int = 0) -> list[Any]:
    """The values the steps of a loop use."""
    used = []
    for _ in range(steps):
        used.append(copy.deepcopy(optimizer.param_groups[group][key]))
        for g in optimizer.param_groups:
            for p in g["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
    return used
