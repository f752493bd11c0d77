"""Training in the way of torch.amp.GradScaler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def scaled_steps(model: Any, optimizer: torch.optim.Optimizer, steps: int, inf_at: int) -> Iterator[bool]:
    """Train ``model`` by its ``loss(step)``; after every step tells whether it was taken: one has an inf gradient."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(steps):
        optimizer.zero_grad()
        scaler.scale(model.loss(step)).backward()
        if step == inf_at:
            model.weight.grad[1, 1] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        yield step != inf_at
    assert scaler.get_scale() == 2.0**9
