"""The bound's closed forms and tables, the lr it predicts, and whether that holds on a convex problem."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from optzoo.schedulers import Schedule
from optzoo.schedulers.bounds import Array
from optzoo.schedulers.theory import best_lr, bound, compare, plan_extension, transfer_lr
from support.convex import Median, best


def linear(total: int) -> Array:
    return 1 - np.arange(total) / total


def cosine(total: int) -> Array:
    return 0.5 + 0.5 * np.cos(np.pi * np.arange(total) / total)


def wsd(total: int, cooldown: float, shape: Callable[[Array], Array] = lambda p: p) -> Array:
    """Constant, then a cooldown of round(c (T+1)) steps to zero, which is met one step after the last."""
    n = round(cooldown * (total + 1))
    return 1 - shape(np.maximum(0, np.arange(total) - (total - n)) / max(n, 1))


def test_constant_schedule_in_closed_form() -> None:
    harmonic = sum(1 / k for k in range(1, 400))
    found = bound(np.ones(400))
    assert found.d == pytest.approx(0.00125, rel=1e-12)
    assert found.n == pytest.approx((1 + harmonic) / 2, rel=1e-12) == pytest.approx(3.78371485, abs=5e-9)
    assert found.best_lr() == pytest.approx(1 / math.sqrt(400 * (1 + harmonic)), rel=1e-12)
    assert found.best_value(3.0) == pytest.approx(3 / 20 * math.sqrt(1 + harmonic), rel=1e-12)
    assert found.value(0.01, 2.0) == pytest.approx(4 * found.d / 0.01 + 0.01 * found.n, rel=1e-12)


@pytest.mark.parametrize(
    ("eta", "lr", "value"),
    [
        (np.ones(400), 0.01818, 0.13754),
        (linear(400), 0.04956, 0.10063),
        (cosine(400), 0.04824, 0.10339),
        (wsd(400, 0.2), 0.02537, 0.10932),
        (wsd(400, 0.2, np.sqrt), 0.02685, 0.10729),
    ],
)
def test_values_at_400_steps(eta: Array, lr: float, value: float) -> None:
    assert bound(eta).best_lr() == pytest.approx(lr, abs=6e-6)
    assert bound(eta).best_value() == pytest.approx(value, abs=6e-6)
    assert best_lr(eta, norms=2.0, distance=3.0) == pytest.approx(1.5 * bound(eta).best_lr(), rel=1e-12)


def test_sums_as_they_are_written() -> None:
    """With norms that vary, against the double sum."""
    rng = np.random.default_rng(0)
    eta, g = rng.random(50), rng.random(50) + 0.1
    s = [sum(eta[k:]) for k in range(50)]
    q = [sum(eta[k:] ** 2 * g[k:] ** 2) for k in range(50)]
    n = q[0] / (2 * s[0]) + 0.5 * sum(eta[k] / s[k + 1] * q[k] / s[k] for k in range(49))
    assert bound(eta, norms=g) == pytest.approx((1 / (2 * s[0]), n), rel=1e-12)


def test_what_a_schedule_may_be() -> None:
    schedule = Schedule().to(0)
    expected = bound(linear(100))
    assert bound(Schedule().to(0, 100)) == bound(schedule.resolve(100)) == pytest.approx(expected, rel=1e-12)
    assert bound(schedule, 100) == bound(lambda t: 1 - t / 100, 100) == pytest.approx(expected, rel=1e-12)
    assert bound(linear(100).tolist(), 100) == expected
    assert bound([*linear(100), 0.0, 0.0]) == expected  # steps that do nothing
    assert bound(linear(100), norms=[2.0] * 7) == pytest.approx((expected.d, 4 * expected.n), rel=1e-12)


RATIOS = {  # cooldown: lr and bound over those of linear decay; linear, then 1-sqrt
    0: (0.311, 1.607, 0.311, 1.607),
    0.05: (0.4245, 1.208, 0.4365, 1.185),
    0.1: (0.461, 1.142, 0.478, 1.121),
    0.2: (0.514, 1.081, 0.543, 1.063),
    0.3: (0.561, 1.049, 0.6035, 1.036),
    0.4: (0.607, 1.029, 0.668, 1.021),
    0.5: (0.656, 1.017, 0.740, 1.013),
    0.6: (0.708, 1.009, 0.825, 1.010),
    0.8: (0.8325, 1.001, 1.059, 1.012),
    1: (1, 1, 1.490, 1.007),
}


@pytest.mark.parametrize("cooldown", RATIOS)
def test_ratios_at_6400_steps(cooldown: float) -> None:
    rows = compare({"linear": linear(6400), "wsd": wsd(6400, cooldown), "sqrt": wsd(6400, cooldown, np.sqrt)}).rows
    found = [rows[1].lr, rows[1].bound, rows[2].lr, rows[2].bound]
    assert found == pytest.approx(RATIOS[cooldown], rel=1e-3)
    assert transfer_lr(0.1, linear(6400), wsd(6400, cooldown)) == pytest.approx(0.1 * rows[1].lr, rel=1e-12)


def test_cosine_and_transfer() -> None:
    row = compare({"linear": linear(6400), "cosine": cosine(6400)}).rows[1]
    assert (row.lr, row.bound) == pytest.approx((0.971, 1.030), rel=1e-3)
    assert transfer_lr(1.0, wsd(6400, 0.2), linear(6400)) == pytest.approx(1.94, abs=0.01)
    assert transfer_lr(1.0, wsd(6400, 0.2), cosine(6400)) == pytest.approx(1.89, abs=0.01)
    decay = Schedule().to(0)
    assert transfer_lr(1.0, decay, decay, 1000, 4000) == pytest.approx(0.5, rel=0.005)
    assert transfer_lr(1.0, decay, decay, 1000) == pytest.approx(1.0, rel=1e-12)
    short, long = Schedule().to(0, 1000), Schedule().to(0, 4000)
    assert transfer_lr(1.0, short, long) == transfer_lr(1.0, decay, linear(4000), 1000)


@pytest.mark.parametrize("shape", [cosine, lambda total: wsd(total, 0.2), linear])
def test_best_lr_falls_as_the_root_of_the_horizon(shape: Callable[[int], Array]) -> None:
    totals = [200 * 2**k for k in range(8)]
    slope = np.polyfit(np.log(totals), [math.log(bound(shape(total)).best_lr()) for total in totals], 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.006)


def test_linear_decay_is_nearly_the_least_bound() -> None:
    """Minimising over all schedules of 100 steps gives linear decay but for its last steps."""
    log_eta = torch.log(torch.linspace(1, 0.01, 100, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.LBFGS([log_eta], max_iter=2000, history_size=100, line_search_fn="strong_wolfe",
                                  tolerance_grad=1e-12, tolerance_change=1e-14)  # fmt: skip

    def value() -> torch.Tensor:
        optimizer.zero_grad()
        eta = log_eta.exp()
        s, q = eta.flip(0).cumsum(0).flip(0), (eta**2).flip(0).cumsum(0).flip(0)
        least = (q[0] / s[0] + (eta[:-1] / s[1:] * q[:-1] / s[:-1]).sum()) / s[0]  # 4 d n
        least.backward()
        return least

    optimizer.step(value)  # type: ignore[arg-type]
    eta = log_eta.detach().exp().numpy()
    least = bound(eta).best_value()
    assert 0.2000 <= least <= 0.2003
    assert bound(linear(100)).best_value() == pytest.approx(0.20361, abs=5e-5)
    assert np.abs(eta / eta[:50].max() - linear(100))[:95].max() < 0.02


@pytest.mark.parametrize(
    ("times", "c1", "rho", "bounds"),
    [
        (1.5, 0.45, 0.637, (0.946, 0.959, 1.021)),
        (2, 0.63, 0.533, (0.932, 0.956, 1.060)),
        (2.5, 0.77, 0.473, (0.927, 0.959, 1.106)),
        (3, 0.88, 0.431, (0.926, 0.964, 1.154)),
        (3.5, 0.96, 0.400, (0.926, 0.969, 1.202)),
        (4, 1.0, 0.375, (0.926, 0.974, 1.249)),
    ],
)
def test_extension(times: float, c1: float, rho: float, bounds: tuple[float, float, float]) -> None:
    """From 4000 steps with 20 % cooldown. From t = 0 the cooldown may be as long as the lr asks for; from where the
    old one began, no longer than what is left."""
    short, new_total = wsd(4000, 0.2), round(4000 * times)
    plans, free = plan_extension(short, None, new_total), plan_extension(short, None, new_total, at=0)
    assert free.cooldown.cooldown_steps / new_total == pytest.approx(c1, abs=0.02)
    assert free.cooldown.bound == pytest.approx(bounds[0], abs=1.5e-3)
    assert plans.step.factor == pytest.approx(rho, abs=0.005)
    assert plans.step.lr_ratio == pytest.approx(1, abs=1e-3)
    assert (plans.step.bound, plans.unchanged.bound) == pytest.approx(bounds[1:], abs=1.5e-3)
    assert plans.at == 3200
    feasible = 1 - 3200 / new_total
    assert plans.cooldown.cooldown_steps / new_total == pytest.approx(min(c1, feasible), abs=0.02)
    assert (plans.cooldown.lr_ratio == pytest.approx(1, abs=1e-3)) == (c1 < feasible)
    assert plans.optimal.bound <= min(plans.cooldown.bound, plans.step.bound, plans.unchanged.bound)


@pytest.mark.parametrize("given", ["schedule", "multipliers"])
def test_plans_are_schedules_that_keep_what_was_trained(given: str) -> None:
    trunk = Schedule(0).to(1, 50).hold().to(0.1, 0.2, shape="sqrt")
    old = trunk.resolve(1000).array()
    plans = plan_extension(trunk if given == "schedule" else old, 1000 if given == "schedule" else None, 1500)
    assert plans.at == 800
    for plan in (plans.cooldown, plans.step, plans.optimal, plans.unchanged):
        values = plan.schedule.resolve(1500).array()
        np.testing.assert_allclose(values[:800], old[:800], rtol=0, atol=1e-12)
        begin = 1500 - plan.cooldown_steps
        np.testing.assert_allclose(values[800 : begin + 1], plan.factor, rtol=1e-12)
        middle = begin + plan.cooldown_steps // 4
        p = (middle - begin) / plan.cooldown_steps
        assert values[middle] == pytest.approx(plan.factor * (1 - 0.9 * math.sqrt(p)), rel=5e-3)
        assert values[-1] == pytest.approx(0.1 * plan.factor, rel=0.1)
        distance = 1 / bound(old).best_lr()
        reference = bound(plans.unchanged.schedule, 1500).best_value(distance)
        assert plan.bound == pytest.approx(bound(values).value(1.0, distance) / reference, rel=2e-3)
    assert "longer cooldown" in str(plans)


def test_going_on_from_within_the_cooldown() -> None:
    """From its level there, to the same part of it."""
    trunk = Schedule().hold().to(0.1, 0.2)
    old = trunk.resolve(1000).array()
    plans, sames = plan_extension(trunk, 1000, 1500, at=900), plan_extension(old, None, 1500, at=900)
    for name in ("cooldown", "step", "optimal", "unchanged"):
        plan, same = getattr(plans, name), getattr(sames, name)
        values = plan.schedule.resolve(1500).array()
        np.testing.assert_allclose(values, same.schedule.resolve(1500).array(), rtol=0, atol=5e-3)
        np.testing.assert_array_equal(values[:900], old[:900])
        assert values[900] == pytest.approx(0.55 * plan.factor)
        assert values[-1] == pytest.approx(0.055 * plan.factor, rel=0.1)


def test_refined_weights_are_never_worse_than_linear_decay() -> None:
    """(D² + Σ w² G²) / 2W at its best scale: √(Σ w² G²) / W."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        g = np.exp(rng.normal(0, rng.uniform(0, 2), int(rng.integers(8, 300))))
        w = g**-2
        refined = math.sqrt((w**2 * g**2).sum()) / w.sum()
        flat = math.sqrt((g**2).sum()) / len(g)
        assert refined <= flat * (1 + 1e-12)
        assert flat / refined == pytest.approx(math.sqrt((g**2).mean() * (g**-2).mean()), rel=1e-9)


def test_predicted_lr_in_practice() -> None:
    """Median regression: the ratio of tuned lrs is that of the bound within 25 %, and longer cooldowns are better."""
    problem, total = Median(), 1000
    lrs = 2.0 ** np.arange(-9, -3.9, 0.5)
    of_linear = best(problem, linear(total), lrs, seeds=24)
    losses = []
    for cooldown in (0, 0.1, 0.2, 0.4, 0.6):
        eta = wsd(total, cooldown)
        lr, loss = best(problem, eta, lrs, seeds=24)
        losses.append(loss)
        if cooldown:
            predicted = transfer_lr(of_linear[0], linear(total), eta)
            assert lr / predicted == pytest.approx(1, rel=0.25), cooldown
    lr, _ = best(problem, cosine(total), lrs, seeds=24)
    assert lr / transfer_lr(of_linear[0], linear(total), cosine(total)) == pytest.approx(1, rel=0.25)
    assert np.all(np.diff([*losses, of_linear[1]]) < 0)


DECAY = Schedule().to(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bound([]), "multipliers must be >= 0 and not all 0"),
        (lambda: bound([0.0, 0.0]), "not all 0"),
        (lambda: bound([1.0, -0.5]), "got a minimum of -0.5"),
        (lambda: bound([1.0, math.nan]), "multipliers must be finite numbers, one per step, got nan"),
        (lambda: bound([[1.0]]), r"got shape \(1, 1\)"),
        (lambda: bound("linear"), "multipliers must be numbers, got 'linear'"),
        (lambda: bound([1.0, 0.5], 3), "total is 3, but there are 2 multipliers"),
        (lambda: bound([1.0], 0), "total must be a whole number of steps >= 1, got 0"),
        (lambda: bound([1.0], True), "got True"),
        (lambda: bound(DECAY), "total"),
        (lambda: bound(lambda t: 1.0), "total is needed"),
        (lambda: bound([1.0], norms=0.0), "norms must be > 0, got a minimum of 0"),
        (lambda: bound([1.0], norms=[]), "norms must be > 0"),
        (lambda: bound([1.0], norms=[math.inf]), "norms must be finite numbers"),
        (lambda: best_lr([1.0], distance=0.0), "distance must be a finite number > 0, got 0.0"),
        (lambda: transfer_lr(-1.0, [1.0], [1.0]), "lr must be a finite number > 0, got -1.0"),
        (lambda: transfer_lr("1e-3", [1.0], [1.0]), "got '1e-3'"),
        (lambda: compare({}), "there are no schedules"),
        (lambda: compare({"a": [1.0], "b": [1.0, 1.0]}), "different numbers of steps, {'a': 1, 'b': 2}"),
        (lambda: plan_extension(linear(10), None, 10), "new_total must be a whole number of steps > 10"),
        (lambda: plan_extension(linear(10), None, 20, at=10), "at must be a step of the old run, 0 to 9, got 10"),
        (lambda: plan_extension(np.ones(10), None, 20), "the schedule has no cooldown"),
        (lambda: plan_extension([0.0, 1.0, 0.5], None, 20, at=0), "go on from a step after the warmup"),
        (lambda: plan_extension([1.0, 0.5, 0.0], None, 20, at=2), "the multiplier there is 0"),
    ],
)
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_no_torch_is_needed() -> None:
    """For tools that plan runs: only the recorder imports it."""
    code = (
        "import sys; sys.modules['torch'] = None; from optzoo.schedulers import Schedule;"
        "from optzoo.schedulers.theory import plan_extension;"
        "from optzoo.schedulers.batch_scaling import batch_scaling;"
        "from optzoo.schedulers.refine import refine; s = refine([1.0] * 8, 'sgd').schedule;"
        "plan_extension(s, 8, 16); batch_scaling(dict(lr=1.0, betas=(0.9, 0.99), schedule=s), 2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_extend_of_a_schedule() -> None:
    wsd = Schedule(0).to(1, 50).hold().to(0, 0.2)
    plans = plan_extension(wsd, 1000, 1500, at=700)
    for plan in ("cooldown", "step", "optimal"):
        assert wsd.extend(1000, 1500, 700, plan=plan) == getattr(plans, plan).schedule
