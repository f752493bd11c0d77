"""Profile, score and sensitivity against cases worked by hand."""

import dataclasses
import math

import numpy as np
import pytest

from optzoo.compare import statistics
from optzoo.compare.results import StepTime
from optzoo.compare.statistics import Times, times_of

INF = math.inf
OPTIMIZERS = ("a", "b", "c")


def times(rows: list[list[float]], weights: list[float] | None = None) -> Times:
    values = np.array(rows, dtype=float)
    count = values.shape[1]
    even = np.full(count, 1 / count) if weights is None else np.array(weights)
    return Times(OPTIMIZERS[: len(rows)], tuple(f"p{index}" for index in range(count)), values, even)


HAND = times([[10, 20, INF], [20, 10, 30], [40, 50, INF]])  # best: 10, 10, 30


def test_ratios_and_profile_of_three_optimizers_on_three_problems():
    assert statistics.ratios(HAND).tolist() == [[1, 2, INF], [2, 1, 1], [4, 5, INF]]
    at = statistics.profile(HAND, np.array([1.0, 1.9, 2.0, 4.0, 5.0, 16.0]))
    thirds = [[1, 1, 2, 2, 2, 2], [2, 2, 3, 3, 3, 3], [0, 0, 0, 1, 2, 2]]
    assert at == pytest.approx(np.array(thirds) / 3)


def test_score_is_the_integral_of_the_profile_up_to_4():
    # a: (1 + 2/3 + 0)/3, b: (2/3 + 1 + 1)/3, c: at ratio 4 nothing is left, beyond it nothing either
    assert statistics.scores(HAND) == pytest.approx([5 / 9, 8 / 9, 0])
    taus = np.linspace(1, 4, 30001)
    integral = np.trapezoid(statistics.profile(HAND, taus), taus, axis=1) / 3
    assert statistics.scores(HAND) == pytest.approx(integral, abs=1e-4)


def test_the_score_does_not_depend_on_the_slowest_ratio():
    """AlgoPerf's code normalises by the largest ratio in the data unless told otherwise; this always by 4."""
    slow = times([[10, 10], [20, 1e6]])
    assert statistics.scores(slow) == pytest.approx([1, (2 / 3 + 0) / 2])


def test_nobody_solves_a_problem_or_all_are_there_at_once():
    unsolved = times([[INF, 10], [INF, 20]])
    assert statistics.scores(unsolved) == pytest.approx([0.5, 0.5 * 2 / 3])
    assert statistics.wins(unsolved) == [1, 0]
    assert statistics.solved(unsolved) == [1, 1]
    assert statistics.scores(times([[0, 10], [0, 20]])) == pytest.approx([1, 0.5 + 0.5 * 2 / 3])


def test_wins_solved_order_and_speedup():
    assert statistics.wins(HAND) == [1, 2, 0]
    assert statistics.solved(HAND) == [2, 3, 2]
    assert statistics.order(HAND) == ("b", "a", "c")
    assert statistics.speedup(HAND, "a", "b") == (pytest.approx(math.sqrt(2 * 0.5)), 2)
    assert statistics.speedup(HAND, "c", "b") == (pytest.approx(math.sqrt(0.5 * 0.2)), 2)
    assert statistics.speedup(times([[INF], [1]]), "a", "b").problems == 0


def test_every_family_has_one_vote(make):
    fast, slow = [9, 1, 0.5], [9, 9, 1, 0.5]
    convex, matrix = ("q1", "q2", "q3"), ("m",)
    studies = [
        make.study(fast if (optimizer == "x") == (problem in convex) else slow, problem=problem, optimizer=optimizer)
        for problem in (*convex, *matrix)
        for optimizer in ("x", "y")
    ]
    found = times_of(make.comparison(*studies, families={**dict.fromkeys(convex, "convex"), "m": "matrix"}))
    assert found.weights == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert statistics.scores(found) == pytest.approx([5 / 6, 5 / 6])  # 1/2 + 1/2 · 2/3: three quadratics weigh as one


def test_diagnoses_are_not_scored_and_missing_cells_are_misses(make):
    fast = [9, 1, 0.5]
    studies = (
        make.study(fast, problem="p"),
        make.study(fast, problem="p", optimizer="x"),
        make.study(fast, problem="q"),
    )
    comparison = make.comparison(*studies)
    found = times_of(comparison)
    assert found.values.tolist() == [[10, 10], [10, INF]]
    diagnosed = make.comparison(*studies, problems=(make.problem("p"), make.problem("q", "trap", scored=False)))
    assert times_of(diagnosed).problems == ("p",)
    unscored = make.comparison(*studies, problems=(make.problem("p", scored=False),))
    assert np.isnan(statistics.scores(times_of(unscored))).all()
    assert math.isnan(statistics.summarize(unscored)[0].score)


def test_leaving_one_out_can_change_the_order():
    """c is so fast on the first problem that neither a nor b counts there; without it a is twice as fast as b."""
    shown = times([[40, 12], [80, 10], [10, INF]])
    assert statistics.scores(shown) == pytest.approx([2.8 / 3 / 2, 1 / 2, 1 / 2])
    assert statistics.scores(shown.without("c")) == pytest.approx([(1 + 2.8 / 3) / 2, (2 / 3 + 1) / 2])
    assert statistics.leave_one_out(shown) == {"c": [("b", "a")]}


def lr_study(make, curves: dict[float, list[float]], default_lr: float = 0.1):
    screened = tuple(make.trial(curve, lr=lr, seed=0, stage="screen") for lr, curve in curves.items())
    return dataclasses.replace(make.study([9, 1, 0.5]), trials=screened, default_lr=default_lr)


def test_sensitivity_on_a_grid_worked_by_hand(make):
    study = lr_study(
        make,
        {
            0.01: [9, 9, 9, 5],  # misses
            0.1: [9, 9, 1, 0.5],  # the default: 20 steps
            1.0: [9, 1, 0.5, 1],  # the best: 10 steps
            10.0: [9, math.nan],  # diverges: l0 counts
        },
    )
    found = statistics.sensitivity(study)
    assert found.loss == pytest.approx(((5 - 0.5) + 0 + (1 - 0.5) + (9 - 0.5)) / 4 / (9 - 0.5))
    assert found.basin == pytest.approx(2.0)  # two points of a grid of decades
    assert found.default is True


def test_sensitivity_where_screening_does_not_tell(make):
    none = lr_study(make, {0.1: [9, 9, 9], 1.0: [9, 9, 7]})
    assert statistics.sensitivity(none).basin == 0
    assert statistics.sensitivity(none).default is False
    hit = lr_study(make, {0.1: [9, 9, 9, 9], 1.0: [9, 1, 0.5, 0.5]})
    assert statistics.sensitivity(hit).default is False
    stopped = statistics.sensitivity(hit, stopped_early=True)
    assert stopped == statistics.Sensitivity(None, None, False)
    assert statistics.sensitivity(none, stopped_early=True) == statistics.Sensitivity(None, None, False)
    assert statistics.sensitivity(lr_study(make, {0.1: [9, 9]})) == statistics.Sensitivity(None, None, None)


def test_summary(make):
    fast, slow = [9, 1, 0.5, 0.5], [9, 9, 1, 0.5]
    comparison = make.comparison(
        make.study(fast),
        make.study(slow, optimizer="x"),
        make.study(slow, problem="q"),
        make.study(fast, problem="q", optimizer="x"),
        timing={name: {"adamw": StepTime(1, 1, 8), "x": StepTime(1, 1, 2)} for name in ("rosenbrock", "q")},
    )
    x, adamw = statistics.summarize(comparison)[::-1]
    assert (x.optimizer, adamw.optimizer) == ("x", "adamw")  # equal scores keep the order given
    assert x.score == adamw.score == pytest.approx(5 / 6)
    assert x.score_cpu == pytest.approx(1.0)
    assert adamw.score_cpu == pytest.approx(
        ((4 - 10 / 8) / 3 + 0) / 2
    )  # 10 · 10 against 20 · 4; 20 · 10 against 10 · 4
    assert x.speedup == (pytest.approx(1.0), 2)
    assert (x.optimizer_us, x.state_ratio, x.solved, x.wins) == (2, 2.0, 2, 1)
    assert (x.lrs, x.lr_default) == ((0.1, 0.1), 0)
