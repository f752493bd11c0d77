"""PSGD with fused=True: the compiled functions give what the others give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import PSGD
from optzoo.optimizers.core.fused import SMALLEST

pytestmark = [pytest.mark.slow, pytest.mark.compiled]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(shapes: Sequence[tuple[int, ...]], **options: Any) -> list[Tensor]:
    params = [nn.Parameter(normal(shape, i)) for i, shape in enumerate(shapes)]
    optimizer = PSGD(params, lr=0.01, weight_decay=0.1, **options)
    for step in range(4):
        for i, p in enumerate(params):
            p.grad = normal(shapes[i], 10 * step + i)
        if step == 2:
            params[-1].grad.zero_()
            params[0].grad[3, 4] = torch.nan
        for group in optimizer.param_groups:  # a compiled function may take no option for a constant
            group["damping"] *= 2
            group["lr_preconditioner"] *= 0.9
        optimizer.step()
    return [p.detach() for p in params] + [optimizer.state[p]["Q0"] for p in params]


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ([(192, 192), (192, 192)], {}),  # in one batch
        ([(520, 520)], {"geometry": "EQ", "clip": None, "cache_preconditioner": True}),
    ],
    ids=["default", "EQ"],
)
def test_equals_the_eager_step(shapes: list[tuple[int, ...]], options: dict[str, Any]) -> None:
    assert all(torch.Size(shape).numel() >= SMALLEST for shape in shapes)  # else it would not be compiled
    for ours, theirs in zip(trained(shapes, fused=True, **options), trained(shapes, **options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
