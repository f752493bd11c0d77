"""What is warned of at the first step: blocks of DoG that cannot move, parameters that are no model's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import AdamW, Cautious, DoG, LDoG, Lookahead, PolynomialDecayAverager

scopes = pytest.mark.parametrize("scope", ["all", "group", "param"])


def step(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], *grads: float) -> None:
    """One step on gradients that are one number for all coordinates of a tensor."""
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.full_like(p, g)
    optimizer.step()


def vector(*values: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def warnings_of(call: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


# Steps of DoG that are lost in rounding


@pytest.mark.parametrize("mixed", [True, False])
@scopes
def test_blocks_whose_steps_are_lost_in_rounding_are_warned_about(scope: str, mixed: bool) -> None:
    """Once, at the first step. A block that has a float32 tensor moves; precision may change after construction."""
    params = [vector(1.0, 2.0), vector(3.0), vector(1.0)]
    a, b, head = params
    optimizer = DoG([{"params": [("a", a), ("b", b)]}, {"params": [("head", head)]}], scope=scope)
    for p in (a, b) if mixed else params:
        p.data = p.data.bfloat16()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(100):
            step(optimizer, params, 1.0, 1.0, 1.0)
    texts = [str(warning.message) for warning in caught]
    if mixed and scope == "all":
        assert texts == []
        return
    (text,) = texts
    lost = {"all": "all parameters (", "group": "all parameters of group 0", "param": "parameter 'a', parameter 'b'"}
    assert text.startswith(f"DoG: {lost[scope]}")
    assert all(words in text for words in ("torch.bfloat16", "Keep them in float32", "raise reps_rel"))
    assert (a.tolist(), b.item()) == ([1.0, 2.0], 3.0)
    assert (head.item() == 1.0) is not mixed


@pytest.mark.parametrize("options", [{"reps_rel": 0.1}, {"init_eta": 0.5}], ids=str)
@scopes
def test_steps_of_low_precision_that_are_large_enough(scope: str, options: dict[str, float]) -> None:
    params = [vector(1.0, 2.0, dtype=torch.bfloat16), vector(0.0, dtype=torch.bfloat16)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = DoG(params, scope=scope, **options)
        step(optimizer, params, 1.0, 1.0)
    assert params[0].tolist() != [1.0, 2.0]


def test_a_first_step_without_lr_tells_nothing_of_rounding() -> None:
    """A warm-up, or the step by which torch.distributed.checkpoint makes state."""
    params = [vector(1.0, dtype=torch.bfloat16)]
    optimizer = LDoG(params)
    optimizer.param_groups[0]["lr"] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(optimizer, params, 1.0)
    optimizer.param_groups[0]["lr"] = 1.0
    with pytest.warns(UserWarning, match="did not move in the first step"):
        step(optimizer, params, 1.0)


# Parameters that are not the model's

OPTIMIZERS: list[Callable[..., torch.optim.Optimizer]] = [
    partial(AdamW, lr=0.1),
    partial(Lookahead, lr=0.1),
    partial(Lookahead, base=torch.optim.SGD, lr=0.1),
    partial(Cautious, base=torch.optim.SGD, lr=0.1),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_an_optimizer_of_parameters_that_were_replaced(make: Callable[..., Any]) -> None:
    """As by fully_shard. Once: later steps look no more."""
    model = nn.Linear(2, 1)
    optimizer = make(model.parameters())
    model.weight, model.bias = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1))
    model(torch.ones(1, 2)).sum().backward()
    (text,) = warnings_of(lambda: [optimizer.step() for _ in range(3)])
    assert "no parameter has a gradient in the first step" in text
    assert "make the optimizer after it" in text


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_first_steps_without_gradients_that_are_meant(make: Callable[..., Any]) -> None:
    """Of a model that waits for its turn, or is frozen; of some parameters that are not used."""
    model = nn.Linear(2, 1)
    assert warnings_of(make(model.parameters()).step) == []
    assert warnings_of(copy.deepcopy(make(model.parameters())).step) != []  # copies of parameters are no model's
    frozen = vector(1.0).requires_grad_(False)
    assert warnings_of(make([frozen]).step) == []
    used, unused = vector(1.0), vector(1.0)
    used.grad = torch.ones(1, dtype=torch.float64)
    assert warnings_of(make([used, unused]).step) == []


def test_an_averager_of_parameters_that_were_replaced() -> None:
    """Not of those that have moved, wherever they are, nor of a model that has not."""
    model = nn.Linear(2, 1)
    averager, other = PolynomialDecayAverager(model.parameters()), PolynomialDecayAverager([w := vector(1.0)])
    assert warnings_of(averager.update) == []
    w.data.add_(1.0)
    assert warnings_of(other.update) == []
    averager = PolynomialDecayAverager(model.parameters())
    model.weight, model.bias = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1))
    (text,) = warnings_of(lambda: [averager.update() for _ in range(3)])
    assert "make the averager after it" in text
