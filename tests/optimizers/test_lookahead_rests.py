"""Lookahead leaves alone what does not train, and starts anew when it is told that weights were loaded."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from optzoo.optimizers import AdamW, DoG, Lookahead, PolynomialDecayAverager
from support.problems import gradients, tensors

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
SGD = partial(torch.optim.SGD, lr=1.0, momentum=0.5)


def scalars(*values: float, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([value], dtype=dtype)) for value in values]


def step(optimizer: torch.optim.Optimizer, *grads: float | None) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else torch.full_like(p, g)
    optimizer.step()


def slow(optimizer: Lookahead, p: nn.Parameter) -> float:
    value: float = optimizer.state[p]["lookahead_slow"].item()
    return value


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_layer_frozen_within_a_cycle_stays_where_it_is(dtype: torch.dtype) -> None:
    """And its slow weights join it: trained again, its cycle begins there."""
    p, q = scalars(8.0, 8.0, dtype=dtype)
    optimizer = Lookahead([p, q], torch.optim.SGD, k=2, lr=1.0)
    step(optimizer, 1.0, 1.0)
    p.requires_grad_(False)
    step(optimizer, None, 1.0)
    assert (p.item(), slow(optimizer, p), q.item()) == (7.0, 7.0, 7.0)
    for _ in range(4):
        step(optimizer, None, 1.0)
    assert (p.item(), q.item()) == (7.0, 5.0)
    p.requires_grad_(True)
    step(optimizer, 2.0, 1.0)
    step(optimizer, 2.0, 1.0)
    assert (p.item(), slow(optimizer, p)) == (5.0, 5.0)


def test_what_had_a_gradient_since_the_last_sync_takes_part_in_the_next() -> None:
    """An expert of a mixture that no sample has reached in the last step of the cycle."""
    p, q = scalars(8.0, 8.0)
    optimizer = Lookahead([p, q], torch.optim.SGD, k=2, lr=1.0)
    step(optimizer, 1.0, 1.0)
    step(optimizer, None, 1.0)
    assert (p.item(), q.item()) == (7.5, 7.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_weights_written_to_what_had_no_gradient_since_the_last_sync_stay(dtype: torch.dtype) -> None:
    p, q = scalars(8.0, 8.0, dtype=dtype)
    optimizer = Lookahead([p, q], torch.optim.SGD, k=2, lr=1.0)
    for _ in range(2):
        step(optimizer, 1.0, 1.0)
    with torch.no_grad():
        p.fill_(100.0)
    for _ in range(2):
        step(optimizer, None, 1.0)
    assert (p.item(), slow(optimizer, p)) == (100.0, 100.0)


@pytest.mark.parametrize("momentum", ["none", "pullback"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_run_resumed_in_a_cycle_goes_on_bit_for_bit_where_a_tensor_rests(dtype: torch.dtype, momentum: str) -> None:
    """What rests is not in the checkpoint, and need not be."""
    shapes, ends = [(5,), (3, 4)], []
    rows = [[None if 4 <= i < 9 else row[0], row[1]] for i, row in enumerate(gradients(12, shapes, dtype))]
    for resumed in (False, True):
        params = [nn.Parameter(t) for t in tensors(shapes, dtype)]
        make = partial(Lookahead, base=partial(AdamW, lr=0.01), k=3, pullback_momentum=momentum)
        optimizer: Any = make(params)
        for i, row in enumerate(rows):
            if resumed and i == 7:
                state_dict = copy.deepcopy(optimizer.state_dict())
                params = [nn.Parameter(p.detach().clone()) for p in params]
                optimizer = make(params)
                optimizer.load_state_dict(state_dict)
            for p, g in zip(params, row, strict=True):
                p.grad = g
            optimizer.step()
        ends.append((params, [optimizer.state[p]["lookahead_slow"] for p in params]))
    exactly(*ends)


def test_reset_starts_from_the_weights_as_they_are() -> None:
    """Loaded weights would else be pulled half-way back by the next sync."""
    p = scalars(8.0)[0]
    optimizer = Lookahead([p], torch.optim.SGD, k=3, lr=0.0)
    for _ in range(4):
        step(optimizer, 1.0)
    with torch.no_grad():
        p.fill_(100.0)
    optimizer.reset()
    assert optimizer.param_groups[0]["lookahead_step"] == 0
    for _ in range(7):
        step(optimizer, 1.0)
    assert (p.item(), slow(optimizer, p)) == (100.0, 100.0)


def test_reset_keeps_the_momentum_and_starts_its_pullback_there() -> None:
    p = scalars(8.0)[0]
    optimizer = Lookahead([p], SGD, k=2, pullback_momentum="pullback")
    step(optimizer, 1.0)
    optimizer.reset()
    state = optimizer.state[p]
    assert (p.item(), state["lookahead_slow"].item()) == (7.0, 7.0)
    assert state["momentum_buffer"].item() == state["lookahead_slow_momentum_buffer"].item() == 1.0
    step(optimizer, 1.0)
    step(optimizer, 1.0)
    assert p.item() == 7.0 - (1.5 + 1.75) / 2
    assert state["momentum_buffer"].item() == (1.0 + 1.75) / 2


def test_reset_is_refused_while_the_slow_weights_are_in_the_model() -> None:
    optimizer = Lookahead(scalars(8.0), torch.optim.SGD, k=2)
    with optimizer.slow_weights(), pytest.raises(RuntimeError, match=r"reset\(\) within evaluation_weights\(\)"):
        optimizer.reset()


def test_its_siblings_start_anew_too() -> None:
    p = scalars(1.0)[0]
    averager = PolynomialDecayAverager([p])
    for value in (1.0, 2.0, 5.0):
        p.data.fill_(value)
        averager.update()
    p.data.fill_(100.0)
    averager.reset()
    averager.update()
    with averager.averaged_parameters():
        assert p.item() == 100.0
    optimizer = Lookahead([p], DoG, k=2)
    step(optimizer, 1.0)
    p.data.fill_(50.0)
    optimizer.reset()
    assert isinstance(optimizer.base_optimizer, DoG)
    optimizer.base_optimizer.reset()  # takes the slow weights with it, which begin at the next step
    step(optimizer, 1.0)
    assert optimizer.state[p]["x0"].item() == slow(optimizer, p) == 50.0
