"""Parameters and gradients to step over, the same in every mode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optzoo.optimizers.core.closures import step_on_gradients

SHAPES = [(), (1,), (5,), (3, 4), (16, 33), (2, 3, 4, 5)]


def tensors(
    shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """Normal random tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def gradients(
    steps: int, shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float64
) -> list[list[Tensor | None]]:
    """Gradients of changing sign, with zeros among them; the third tensor has none in every third step."""
    result: list[list[Tensor | None]] = []
    for step in range(steps):
        grads: list[Tensor | None] = []
        for i, g in enumerate(tensors(shapes, torch.float64, seed=100 + step)):
            g = torch.where(g.abs() < 0.1, 0.0, g) if g.numel() > 1 else g
            grads.append(None if i == 2 and step % 3 == 1 else g.to(dtype))
        result.append(grads)
    return result


def trajectory(
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    grads: Sequence[Sequence[Tensor | None]],
    curvature: float = 0.0,
) -> list[list[Tensor]]:
    """The parameters after each step on the given gradients; curvature is for those who ask for a second one."""
    path = []
    for row in grads:
        for p, g in zip(params, row, strict=True):
            p.grad = None if g is None else g.clone()
        step_on_gradients(optimizer, curvature)
        path.append([p.detach().clone() for p in params])
    return path
