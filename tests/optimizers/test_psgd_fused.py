"""PSGD with fused=True: the compiled functions give what the others give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import PSGD
from optzoo.optimizers.core.fused import SMALLEST

SHAPES = [(192, 192), (192, 192)]

pytestmark = [pytest.mark.slow, pytest.mark.compiled]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(**options: Any) -> list[Tensor]:
    params = [nn.Parameter(normal(shape, i)) for i, shape in enumerate(SHAPES)]
    optimizer = PSGD(params, lr=0.01, weight_decay=0.1, **options)
    for step in range(4):
        for i, p in enumerate(params):
            p.grad = normal(SHAPES[i], 10 * step + i)
        if step == 2:
            params[0].grad[3, 4] = torch.nan
            params[1].grad.zero_()
        for group in optimizer.param_groups:  # a compiled function may take no option for a constant
            group["damping"] *= 2
            group["lr_preconditioner"] *= 0.9
        optimizer.step()
    return [p.detach() for p in params] + [optimizer.state[p]["Q0"] for p in params]


@pytest.mark.parametrize("options", [{}, {"geometry": "EQ", "clip": None, "cache_preconditioner": True}], ids=str)
def test_equals_the_eager_step(options: dict[str, Any]) -> None:
    assert all(torch.Size(shape).numel() >= SMALLEST for shape in SHAPES)  # else it would not be compiled
    for ours, theirs in zip(trained(fused=True, **options), trained(**options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
