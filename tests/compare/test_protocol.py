"""Choosing a learning rate, on runs that are made up: what is asked of the runner, and what is chosen."""

import math
from collections.abc import Callable

import pytest

from optzoo.compare.protocol import make_protocol, tune_and_evaluate
from optzoo.compare.results import Stage, Trial

PROTOCOL = make_protocol(quick=True)
GRID = [10 ** (k / 2) for k in range(-3, 4)]  # around a default lr of 1


class Runs:
    """Stands in for training: `hit(lr, seed)` is the number of evaluations to the target, None for a miss."""

    def __init__(self, make, hit: Callable[[float, int], int | None], final: Callable[[float], float] = lambda lr: 0.5):
        self.make, self.hit, self.final = make, hit, final
        self.asked: list[tuple[Stage, float, int]] = []

    def __call__(self, lr: float, seed: int, stage: Stage) -> Trial:
        self.asked.append((stage, lr, seed))
        hit = self.hit(lr, seed)
        metrics = [9.0] * 4 + [9 * self.final(lr)] if hit is None else [9.0] * hit + [0.5, self.final(lr)]
        return self.make.trial(metrics, lr=lr, seed=seed, stage=stage)

    def lrs(self, stage: Stage) -> list[float]:
        return sorted({lr for asked, lr, _ in self.asked if asked == stage})

    def seeds(self, stage: Stage) -> set[int]:
        return {seed for asked, _, seed in self.asked if asked == stage}


def distance(lr: float, best: float) -> int:
    """Half-decades between two learning rates."""
    return round(abs(2 * math.log10(lr / best)))


def test_an_inner_best_needs_no_extension(make):
    runs = Runs(make, hit=lambda lr, seed: 2 + distance(lr, 1))
    outcome = tune_and_evaluate(runs, 1.0, PROTOCOL)
    assert outcome.lr == 1.0
    assert runs.lrs("screen") == pytest.approx(GRID)
    assert runs.lrs("retest") == pytest.approx(GRID[2:5])
    assert runs.lrs("evaluate") == [1.0]
    assert (runs.seeds("screen"), runs.seeds("retest"), runs.seeds("evaluate")) == ({0}, {1, 2}, {100, 101, 102})
    assert len(runs.asked) == len(outcome.trials) == 7 + 3 * 2 + 3


@pytest.mark.parametrize(
    ("best", "screened"),
    [
        (GRID[-1], [*GRID, 10**2]),  # at the end: one more shows that it is the best
        (10**2, [*GRID, 10**2, 10**2.5]),
        (10**4, [*GRID, 10**2, 10**2.5]),  # two extensions and no more
        (GRID[0], [10**-2, *GRID]),
        (10**-4, [10**-2.5, 10**-2, *GRID]),
    ],
)
def test_the_grid_grows_at_most_twice_while_its_best_is_at_an_end(make, best, screened):
    runs = Runs(make, hit=lambda lr, seed: 2 + distance(lr, best))
    tune_and_evaluate(runs, 1.0, PROTOCOL)
    assert runs.lrs("screen") == pytest.approx(screened)


def test_the_grid_is_centred_on_the_default(make):
    runs = Runs(make, hit=lambda lr, seed: 2 + distance(lr, 1e-3))
    tune_and_evaluate(runs, 1e-3, PROTOCOL)
    assert runs.lrs("screen") == pytest.approx([1e-3 * factor for factor in GRID])


def test_a_lucky_screening_seed_does_not_decide(make):
    """The fastest lr on the screening seed fails on both others: the reliable one is chosen."""
    runs = Runs(make, hit=lambda lr, seed: (1 if seed == 0 else None) if lr == 1.0 else 3 + distance(lr, GRID[4]))
    assert tune_and_evaluate(runs, 1.0, PROTOCOL).lr == pytest.approx(GRID[4])


def test_hits_go_before_the_metric_and_the_metric_breaks_ties(make):
    """Between lrs 0.3, 1 and 3: equal hits at 1 and 3, the lowest metric of all at 0.3."""
    finals = dict(zip(GRID, [0.9, 0.9, 0.1, 0.4, 0.3, 0.9, 0.9], strict=True))
    runs = Runs(make, hit=lambda lr, seed: 2 if lr in GRID[3:5] else 3, final=finals.__getitem__)
    assert tune_and_evaluate(runs, 1.0, PROTOCOL).lr == GRID[4]


def test_without_any_hit_the_lowest_metric_is_chosen(make):
    runs = Runs(make, hit=lambda lr, seed: None, final=lambda lr: 1 + distance(lr, GRID[2]))
    assert tune_and_evaluate(runs, 1.0, PROTOCOL).lr == pytest.approx(GRID[2])


def test_quick_and_full_differ_in_length_and_seeds_alone():
    quick, full = make_protocol(quick=True), make_protocol(quick=False)
    assert (quick.stop_at_hit, quick.evaluation_seeds) == (True, (100, 101, 102))
    assert (full.stop_at_hit, full.evaluation_seeds) == (False, (100, 101, 102, 103, 104))
    assert make_protocol(quick=True, seeds=1).evaluation_seeds == (100,)
    assert not set(full.evaluation_seeds) & set(full.tuning_seeds)
    for said in ("7 values", "up to 2 more", "best 3", "seeds 1, 2", "seeds 100, 101, 102,", "confirmed hit"):
        assert said in quick.describe()
    assert "at full length" in full.describe()
