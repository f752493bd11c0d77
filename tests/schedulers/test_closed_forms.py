"""Values of the named schedules against closed forms, and against torch's and transformers' schedulers."""

from __future__ import annotations

import math
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
    Power,
    Schedule,
    Scheduler,
)

pytestmark = pytest.mark.filterwarnings("ignore:the schedule ended at")

HF: Any = dict(warmup=10, compat="hf")

CLOSED_FORMS: dict[str, tuple[Schedule, int | None, dict[int, float]]] = {
    "linear": (
        Linear.schedule(**HF),
        100,
        {
            0: 0,
            5: 0.5,
            10: 1,
            11: 0.9888888889,
            32: 0.7555555556,
            55: 0.5,
            77: 0.2555555556,
            99: 0.0111111111,
            100: 0,
            200: 0,
        },
    ),
    "cosine": (
        Cosine.schedule(**HF),
        100,
        {11: 0.9996954135, 32: 0.8596699002, 55: 0.5, 77: 0.1526708148, 99: 0.0003045865, 100: 0, 150: 0},
    ),
    "wsd": (WSD.schedule(**HF), 100, {79: 1, 81: 0.95, 85: 0.75, 90: 0.5, 95: 0.25, 99: 0.05, 100: 0}),
    "wsd 1-sqrt": (
        WSD.schedule(**HF, shape="1-sqrt"),
        100,
        {81: 0.7763932023, 85: 0.5, 90: 0.2928932188, 95: 0.1339745962, 99: 0.0253205655},
    ),
    "wsd cosine": (
        WSD.schedule(**HF, shape="cosine"),
        100,
        {81: 0.9938441703, 85: 0.8535533906, 95: 0.1464466094, 99: 0.0061558297},
    ),
    "wsd 1-square": (
        WSD.schedule(**HF, shape="1-square"),
        100,
        {81: 0.9975, 85: 0.9375, 90: 0.75, 95: 0.4375, 99: 0.0975},
    ),
    "wsd mirror-cosine": (
        WSD.schedule(**HF, shape="mirror-cosine"),
        100,
        {81: 0.9061558297, 85: 0.6464466094, 90: 0.5, 99: 0.0938441703},
    ),
    "inverse sqrt": (InverseSqrt.schedule(**HF), None, {40: 0.5, 90: 1 / 3, 160: 0.25, 1000: 0.1}),
    "poly 2": (
        Polynomial.schedule(**HF, power=2, end=0.1),
        100,
        {32: 0.6137777778, 55: 0.325, 77: 0.1587777778, 99: 0.1001111111, 100: 0.1},
    ),
    "exponential": (Exponential.schedule(**HF), 100, {55: 0.316227766017, 100: 0.1}),
    "sgdr 10 x2": (
        CosineRestarts.schedule(first=10, stretch=2),
        None,
        {5: 0.5, 9: 0.024471742, 10: 1, 20: 0.5, 29: 0.006155830, 30: 1, 50: 0.5, 69: 0.001541333, 70: 1},
    ),
    "sgdr 3 x3": (CosineRestarts.schedule(first=3, stretch=3), None, {363: 1}),
    "one-cycle": (
        OneCycle.schedule(),
        100,
        {0: 0.04, 15: 0.54598668, 29: 1, 30: 0.99949654, 64: 0.500002, 99: 4e-6},
    ),
    "constant": (ConstantWarmup.schedule(**HF), None, {0: 0, 5: 0.5, 10: 1, 999: 1}),
    "open warm-up": (ConstantWarmup.schedule(warmup=4), None, {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1}),
    "power": (
        Power.schedule(warmup=10, stable=30, power=0.5, cooldown=100, compat="hf"),
        1000,
        {5: 0.5, 25: 1, 40: 1, 160: 0.5, 640: 0.25, 900: math.sqrt(40 / 900), 950: math.sqrt(40 / 900) / 2, 1000: 0},
    ),
    "rex": (Schedule().to(0, shape="rex"), 100, {50: 0.5 / 0.75, 99: 0.01 / 0.505}),
    "smoothstep": (Schedule().to(0, shape="smoothstep"), 100, {25: 0.84375, 50: 0.5}),
    "exp0": (Schedule().to(0, shape="exp0(0.01)"), 100, {50: 1 - 0.9 / 0.99, 100: 0}),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_form(name: str) -> None:
    schedule, total, expected = CLOSED_FORMS[name]
    curve = schedule.resolve(total)
    digits = 1e-9 if name not in ("sgdr 10 x2", "one-cycle") else 1e-8  # printed with fewer
    assert {t: curve(t) for t in expected} == pytest.approx(expected, abs=digits)


@pytest.mark.parametrize(
    ("schedule", "area"),
    [
        (Linear.schedule(100, compat="hf"), 500),
        (Cosine.schedule(100, compat="hf"), 500),
        (WSD.schedule(100, compat="hf"), 850),
        (WSD.schedule(100, shape="sqrt", compat="hf"), 816.6811581093),
    ],
)
def test_area(schedule: Schedule, area: float) -> None:
    assert schedule.resolve(1000).array().sum() == pytest.approx(area, abs=1e-6)


def test_grids() -> None:
    def values(grid: str) -> list[float]:
        return list(Schedule(start=0).to(1, 4, grid=grid).hold().resolve().array(5))

    assert values("left") == [0, 0.25, 0.5, 0.75, 1]
    assert values("open") == pytest.approx([0.2, 0.4, 0.6, 0.8, 1], abs=1e-15)
    assert values("right") == [0.25, 0.5, 0.75, 1, 1]
    assert values("closed") == pytest.approx([0, 1 / 3, 2 / 3, 1, 1], abs=1e-15)


def test_halflife_is_that_of_ademamix() -> None:
    """β3(t) = h⁻¹((1-s)·h(β1) + s·h(β3)) with h(b) = ln ½ / ln b - 1, at t = 0, 1, 100, ... of the paper's count."""
    f = Schedule(start=0.9).to(0.9999, 1000, space="halflife").hold().resolve()
    expected = {0: 0.9, 1: 0.94996374, 100: 0.99900891, 500: 0.9998002, 900: 0.9998889, 1000: 0.9999, 2000: 0.9999}
    assert {t: f(t) for t in expected} == pytest.approx(expected, abs=5e-9)
    b1, b3 = 0.9, 0.9999
    for s in (0.1, 0.37, 0.8):
        h1, h3 = (math.log(0.5) / math.log(b) - 1 for b in (b1, b3))
        assert f(1000 * s) == pytest.approx(0.5 ** (1 / ((1 - s) * h1 + s * h3 + 1)), abs=1e-12)


# Equal to torch and transformers where they do the same


def _torch(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, lrs = make(optimizer), []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


def _assert_equal(theirs: Callable[[Any], Any], ours: Callable[[Any], Scheduler], steps: int) -> None:
    lrs = [torch.tensor(_torch(make, steps), dtype=torch.float64) for make in (ours, theirs)]
    torch.testing.assert_close(*lrs, rtol=1e-12, atol=1e-14)


TORCH: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Scheduler], int]] = {
    "cosine": (lambda o: torch_lr.CosineAnnealingLR(o, 90, eta_min=0.1), lambda o: Cosine(o, 90, end=0.1), 91),
    "sgdr": (
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, 7, 2, eta_min=0.05),
        lambda o: CosineRestarts(o, None, first=7, stretch=2, end=0.05),
        300,
    ),
    "exponential": (lambda o: torch_lr.ExponentialLR(o, 0.97), lambda o: Exponential(o, None, gamma=0.97), 200),
    "linear": (
        lambda o: torch_lr.LinearLR(o, start_factor=0.25, end_factor=0.75, total_iters=40),
        lambda o: Scheduler(o, Schedule(0.25).to(0.75, 40).hold()),
        60,
    ),
    "polynomial": (lambda o: torch_lr.PolynomialLR(o, 50, power=3), lambda o: Polynomial(o, 50, power=3), 51),
    "constant": (
        lambda o: torch_lr.ConstantLR(o, 0.5, 10),
        lambda o: Scheduler(o, Schedule(0.5).hold(10).jump(1).hold()),
        20,
    ),
    "step": (
        lambda o: torch_lr.StepLR(o, 10, gamma=0.3),
        lambda o: Scheduler(o, Schedule().repeat(Schedule(1).hold(10), scale=0.3)),
        45,
    ),
    "one-cycle": (
        lambda o: torch_lr.OneCycleLR(o, 1.0, total_steps=100, cycle_momentum=False),
        lambda o: OneCycle(o, 100),
        100,
    ),
    "one-cycle linear": (
        lambda o: torch_lr.OneCycleLR(
            o, 1.0, total_steps=50, pct_start=0.2, anneal_strategy="linear", cycle_momentum=False
        ),
        lambda o: OneCycle(o, 50, 0.2, warmup_shape="linear", shape="linear"),
        50,
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_equal_to_torch(name: str) -> None:
    _assert_equal(*TORCH[name])


TRANSFORMERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Scheduler], int]] = {
    "constant": (
        lambda o: hf.get_constant_schedule_with_warmup(o, 10),
        lambda o: ConstantWarmup(o, None, **HF),
        50,
    ),
    "linear": (lambda o: hf.get_linear_schedule_with_warmup(o, 10, 100), lambda o: Linear(o, 100, **HF), 110),
    "cosine": (lambda o: hf.get_cosine_schedule_with_warmup(o, 10, 100), lambda o: Cosine(o, 100, **HF), 101),
    "cosine_min_lr": (
        lambda o: hf.get_cosine_with_min_lr_schedule_with_warmup(o, 10, 100, min_lr_rate=0.1),
        lambda o: Cosine(o, 100, end=0.1, **HF),
        101,
    ),
    "polynomial": (
        lambda o: hf.get_polynomial_decay_schedule_with_warmup(o, 10, 100, lr_end=1e-3, power=2.0),
        lambda o: Polynomial(o, 100, power=2.0, end=1e-3, **HF),
        110,
    ),
    "inverse_sqrt": (
        lambda o: hf.get_inverse_sqrt_schedule(o, 10),
        lambda o: InverseSqrt(o, None, **HF),
        300,
    ),
    "inverse_sqrt without warm-up": (
        lambda o: hf.get_inverse_sqrt_schedule(o, 0),
        lambda o: InverseSqrt(o),
        300,
    ),
    "restarts": (
        lambda o: hf.get_cosine_with_hard_restarts_schedule_with_warmup(o, 10, 100, num_cycles=3),
        lambda o: CosineRestarts(o, 100, first=30, **HF),
        101,
    ),
    **{
        f"wsd {theirs}": (
            lambda o, theirs=theirs: hf.get_wsd_schedule(
                o, num_warmup_steps=10, num_decay_steps=20, num_training_steps=100, decay_type=theirs
            ),
            lambda o, ours=ours: WSD(o, 100, cooldown=20, shape=ours, **HF),
            110,
        )
        for theirs, ours in (("linear", "linear"), ("cosine", "cosine"), ("1-sqrt", "sqrt"))
    },
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_equal_to_transformers(name: str) -> None:
    _assert_equal(*TRANSFORMERS[name])
