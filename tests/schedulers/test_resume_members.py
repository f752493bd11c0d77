"""Resuming where a scheduler is one of several, and where the state is of another library's scheduler."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_lr
from transformers import optimization as hf

from optzoo.schedulers import (
    WSD,
    ConstantWarmup,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseSqrt,
    Linear,
    OneCycle,
    Polynomial,
    Scheduler,
)
from support.scheduled import run, sgd

Make = Callable[[torch.optim.Optimizer], Any]

SEQUENCES: dict[str, list[Make]] = {
    "torch alone": [lambda o: torch_lr.ExponentialLR(o, 0.7), lambda o: torch_lr.ConstantLR(o, 1.0)],
    "ends at the base lr": [lambda o: Exponential(o, gamma=0.7), lambda o: ConstantWarmup(o)],
    "cosine, wsd": [lambda o: Cosine(o, 8), lambda o: WSD(o, 30)],
    "the same again": [lambda o: Linear(o, 30, 3), lambda o: Linear(o, 30, 3)],
    "ours, torch's": [lambda o: Cosine(o, 8), lambda o: torch_lr.ConstantLR(o, 1.0)],
    "torch's, ours": [lambda o: torch_lr.LinearLR(o, 0.25, total_iters=3), lambda o: WSD(o, 30)],
    "three": [lambda o: Linear(o, 9, 3), lambda o: torch_lr.ConstantLR(o, 0.5, 2), lambda o: Cosine(o, 20)],
}


@pytest.mark.parametrize("members", SEQUENCES.values(), ids=SEQUENCES)
def test_sequential_resumed_at_any_step_is_unbroken(members: list[Make]) -> None:
    def fresh() -> tuple[torch.optim.SGD, Any]:
        optimizer = sgd(0.05)
        return optimizer, torch_lr.SequentialLR(
            optimizer, [make(optimizer) for make in members], [6, 12][: len(members) - 1]
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The epoch parameter")  # SequentialLR of torch 2.8 sets it itself
        warnings.filterwarnings("ignore", "the schedule ended at")
        optimizer, scheduler = fresh()
        expected = run(optimizer, scheduler, 25)
        for at in range(22):
            optimizer, scheduler = fresh()
            run(optimizer, scheduler, at)
            saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
            optimizer, scheduler = fresh()
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
            assert run(optimizer, scheduler, 25 - at) == expected[at:], at


def test_a_member_that_was_not_in_charge_keeps_its_last_values() -> None:
    optimizer = sgd(0.05)
    first, second = Cosine(optimizer, 8), WSD(optimizer, 30)
    sequence = torch_lr.SequentialLR(optimizer, [first, second], [6])
    run(optimizer, sequence, 9)
    states = first.state_dict(), second.state_dict()
    assert [state["in_charge"] for state in states] == [False, True]
    fresh = sgd(0.05)
    resumed = Cosine(fresh, 8)
    fresh.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(states[0])
    assert resumed.get_last_values() == first.get_last_values()
    assert fresh.param_groups[0]["lr"] == 0.05


def test_states_of_before_are_read() -> None:
    """Which do not say who was in charge."""
    optimizer = sgd()
    scheduler = Linear(optimizer, 10)
    run(optimizer, scheduler, 5)
    state = {key: value for key, value in scheduler.state_dict().items() if key not in ("in_charge", "lr")}
    fresh = sgd()
    Linear(fresh, 10).load_state_dict(state)
    assert fresh.param_groups[0]["lr"] == 0.05


OTHERS: dict[str, tuple[Make, Make]] = {
    "OneCycleLR": (lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=100), lambda o: OneCycle(o, 100)),
    "CosineAnnealingLR": (lambda o: torch_lr.CosineAnnealingLR(o, 100), lambda o: Cosine(o, 100)),
    "WarmRestarts": (
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, 10, 2),
        lambda o: CosineRestarts(o, first=10, stretch=2),
    ),
    "ExponentialLR": (lambda o: torch_lr.ExponentialLR(o, 0.97), lambda o: Exponential(o, gamma=0.97)),
    "PolynomialLR": (lambda o: torch_lr.PolynomialLR(o, 100, 2.0), lambda o: Polynomial(o, 100, power=2)),
    "LinearLR": (
        lambda o: torch_lr.LinearLR(o, 0.25, 1.0, 20),
        lambda o: Scheduler(o, [{"start": 0.25, "to": 1, "steps": 20}, {"hold": "rest"}]),
    ),
    "CyclicLR": (
        lambda o: torch_lr.CyclicLR(o, 0.01, 0.1, 20, cycle_momentum=False),
        lambda o: Scheduler(o, [{"start": 0.1, "to": 1, "steps": 20}, {"to": 0.1, "steps": 20}], 40),
    ),
    "constant": (
        lambda o: hf.get_constant_schedule_with_warmup(o, 10),
        lambda o: ConstantWarmup(o, None, 10, compat="hf"),
    ),
    "linear": (lambda o: hf.get_linear_schedule_with_warmup(o, 10, 100), lambda o: Linear(o, 100, 10, compat="hf")),
    "cosine": (lambda o: hf.get_cosine_schedule_with_warmup(o, 10, 100), lambda o: Cosine(o, 100, 10, compat="hf")),
    "inverse_sqrt": (lambda o: hf.get_inverse_sqrt_schedule(o, 10), lambda o: InverseSqrt(o, None, 10, compat="hf")),
}


@pytest.mark.parametrize(("theirs", "ours"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("at", [0, 5, 17, 37])
def test_a_run_goes_on_from_another_librarys_state(theirs: Make, ours: Make, at: int) -> None:
    optimizer = sgd(0.1)
    scheduler = theirs(optimizer)
    run(optimizer, scheduler, at)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    fresh = sgd(0.1)
    resumed = ours(fresh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.load_state_dict(saved[0])
        resumed.load_state_dict(saved[1])
        steps = 40 - at if "max_lrs" in saved[1] else 60
        assert run(fresh, resumed, steps) == pytest.approx(run(optimizer, scheduler, steps), rel=1e-9, abs=1e-15)


def test_one_cycle_without_the_optimizers_state() -> None:
    """The peak is in the groups alone; then it is the lr of the optimizer there is."""
    optimizer = sgd(0.1)
    scheduler = torch_lr.OneCycleLR(optimizer, 0.1, total_steps=100)
    run(optimizer, scheduler, 37)
    fresh = sgd(0.1)
    resumed = OneCycle(fresh, 100)
    resumed.load_state_dict(scheduler.state_dict())
    assert fresh.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
