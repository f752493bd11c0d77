"""Update norms of parameters of low precision are as exact as those of float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from optzoo.integrations.tensorboard import log_update_norms
from optzoo.optimizers import AdamW
from support.problems import tensors
from support.update_norms import Numbers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_differences_of_low_precision_parameters_are_not_rounded(dtype: torch.dtype) -> None:
    """In bfloat16 the norm of the rounded differences is 2e-5 off."""
    p, numbers = nn.Parameter(tensors([(300, 20)], dtype)[0]), Numbers()
    p.grad = tensors([(300, 20)], dtype, seed=1)[0]
    optimizer = AdamW([p], lr=0.03)
    norms = log_update_norms(optimizer, numbers, 1, histogram=True)  # type: ignore[arg-type]
    before = p.detach().double()
    optimizer.step()
    norms.remove()
    moved = p.detach().double() - before
    assert numbers.scalars[1]["update_norm/total"] == pytest.approx(moved.norm().item(), rel=1e-7)
    m = optimizer.state[p]["exp_avg"].double()
    cosine = -(moved * m).sum() / (moved.norm() * m.norm())
    assert numbers.scalars[1]["update_momentum_cos/total"] == pytest.approx(cosine.item(), rel=1e-6)
    assert torch.equal(numbers.histograms[1]["update/pg1.0"].double(), moved)
