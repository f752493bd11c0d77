"""Choosing a learning rate, on runs that are made up: what is asked of the runner, and what is chosen."""

import math
from collections.abc import Callable

import pytest

from optzoo.compare import UsageError
from optzoo.compare.protocol import GivenUpError, make_protocol, study
from optzoo.compare.results import Stage, Trial

PROTOCOL = make_protocol(quick=False)
QUICK = make_protocol(quick=True)
GRID = [10 ** (k / 2) for k in range(-3, 4)]  # around a default lr of 1


class Runs:
    """Stands in for training: `hit(lr, seed)` is the number of evaluations to the target, None for a miss."""

    def __init__(self, make, hit: Callable[[float, int], int | None], final: Callable[[float], float] = lambda lr: 0.5):
        self.make, self.hit, self.final = make, hit, final
        self.asked: list[tuple[Stage, float, int]] = []
        self.stops: dict[Stage, set[tuple[bool, int | None]]] = {}

    def __call__(self, hyperparameters, seed, stage, stop_at_hit=False, limit=None) -> Trial:
        lr = hyperparameters["lr"]
        self.asked.append((stage, lr, seed))
        self.stops.setdefault(stage, set()).add((stop_at_hit, limit))
        hit = self.hit(lr, seed)
        late = limit is not None and hit is not None and 10 * hit > limit
        metrics = [9.0] * 4 + [9 * self.final(lr)] if hit is None or late else [9.0] * hit + [1.0, self.final(lr)]
        return self.make.trial(metrics, lr=lr, seed=seed, stage=stage, limit=limit)

    def lrs(self, stage: Stage) -> list[float]:
        return sorted({lr for asked, lr, _ in self.asked if asked == stage})

    def seeds(self, stage: Stage) -> set[int]:
        return {seed for asked, _, seed in self.asked if asked == stage}


def distance(lr: float, best: float) -> int:
    """Half-decades between two learning rates."""
    return round(abs(2 * math.log10(lr / best)))


def chosen(runs: Runs, default_lr: float = 1.0, protocol=PROTOCOL) -> float:
    return study(runs, default_lr, protocol)[0]["lr"]


def test_an_inner_best_needs_no_extension(make):
    runs = Runs(make, hit=lambda lr, seed: 2 + distance(lr, 1))
    setting, trials = study(runs, 1.0, PROTOCOL)
    assert setting == {"lr": 1.0}
    assert runs.lrs("screen") == pytest.approx(GRID)
    assert runs.lrs("retest") == pytest.approx(GRID[2:5])
    assert runs.lrs("evaluate") == [1.0]
    assert (runs.seeds("screen"), runs.seeds("retest"), runs.seeds("evaluate")) == ({0}, {1, 2}, {100, 101, 102})
    assert len(runs.asked) == len(trials) == 7 + 3 * 2 + 3
    assert runs.stops == {"screen": {(False, None)}, "retest": {(False, None)}, "evaluate": {(False, None)}}


@pytest.mark.parametrize(
    ("best", "screened"),
    [
        (GRID[-1], [*GRID, 10**2]),  # at the end: one more shows that it is the best
        (10**2, [*GRID, 10**2, 10**2.5]),
        (10**9, [*GRID, 10**2, 10**2.5, 10**3, 10**3.5]),  # four extensions and no more
        (GRID[0], [10**-2, *GRID]),
        (10**-9, [10**-3.5, 10**-3, 10**-2.5, 10**-2, *GRID]),
    ],
)
def test_the_grid_grows_while_its_best_is_at_an_end(make, best, screened):
    runs = Runs(make, hit=lambda lr, seed: 2 + distance(lr, best))
    chosen(runs)
    assert runs.lrs("screen") == pytest.approx(screened)


def test_the_grid_is_centred_on_the_default(make):
    runs = Runs(make, hit=lambda lr, seed: 2 + distance(lr, 1e-3))
    chosen(runs, 1e-3)
    assert runs.lrs("screen") == pytest.approx([1e-3 * factor for factor in GRID])


def test_a_lucky_screening_seed_does_not_decide(make):
    """The fastest lr on the screening seed fails on both others: the reliable one is chosen."""
    runs = Runs(make, hit=lambda lr, seed: (1 if seed == 0 else None) if lr == 1.0 else 3 + distance(lr, GRID[4]))
    assert chosen(runs) == pytest.approx(GRID[4])


def test_hits_go_before_the_metric_and_the_metric_breaks_ties(make):
    """Between lrs 0.3, 1 and 3: equal hits at 1 and 3, the lowest metric of all at 0.3."""
    finals = dict(zip(GRID, [0.9, 0.9, 0.1, 0.4, 0.3, 0.9, 0.9], strict=True))
    runs = Runs(make, hit=lambda lr, seed: 2 if lr in GRID[3:5] else 3, final=finals.__getitem__)
    assert chosen(runs) == GRID[4]


def test_without_any_hit_the_lowest_metric_is_chosen(make):
    runs = Runs(make, hit=lambda lr, seed: None, final=lambda lr: 1 + distance(lr, GRID[2]))
    assert chosen(runs) == pytest.approx(GRID[2])
    assert len(runs.lrs("retest")) == 3


def test_a_miss_is_not_retested_where_another_has_hit(make):
    runs = Runs(make, hit=lambda lr, seed: 3 if lr == 1.0 else None)
    assert chosen(runs) == 1.0
    assert runs.lrs("retest") == []  # and one alone needs no choice


def test_quick_walks_by_decades_and_ends_late_runs(make):
    """Default 1, best 10: 1 hits after 40 steps, so 10 has 80; it hits after 20, so 100 has 40; 0.1 is not tried."""
    runs = Runs(make, hit=lambda lr, seed: 2 + distance(lr, 10))
    setting, trials = study(runs, 1.0, QUICK)
    assert setting == {"lr": 10.0}
    assert runs.lrs("screen") == pytest.approx([1, 10, 100])
    screened = [trial for trial in trials if trial.stage == "screen"]
    assert [(trial.lr, trial.limit) for trial in sorted(screened, key=lambda trial: trial.lr)] == [
        (1.0, None),
        (10.0, 80),
        (100.0, 40),
    ]
    assert [asked for asked in runs.asked if asked[0] == "retest"] == [("retest", 10.0, 1)]  # it holds: no other
    assert runs.seeds("evaluate") == {100, 101, 102}
    assert runs.stops["retest"] == runs.stops["evaluate"] == {(False, None)}


def test_quick_leaves_a_lucky_learning_rate(make):
    """The fastest on the seed it was found on misses on the next, the second does too, the third holds."""
    held = {1.0: {0: 4, 1: 4}, 10.0: {0: 2}, 100.0: {0: 3}}
    runs = Runs(make, hit=lambda lr, seed: held.get(lr, {}).get(seed))
    assert chosen(runs, 1.0, QUICK) == 1.0
    assert [lr for stage, lr, _ in runs.asked if stage == "retest"] == [10.0, 100.0, 1.0]


def test_quick_walks_the_way_that_improves(make):
    downwards = Runs(make, hit=lambda lr, seed: 2 + distance(lr, 0.1))
    assert chosen(downwards, 1.0, QUICK) == pytest.approx(0.1)
    assert downwards.lrs("screen") == pytest.approx([0.01, 0.1, 1, 10])
    far = Runs(make, hit=lambda lr, seed: 20 - distance(lr, 1))
    assert chosen(far, 1.0, QUICK) == pytest.approx(1e5)


def test_the_default_ruleset_only_evaluates(make):
    runs = Runs(make, hit=lambda lr, seed: 2)
    setting, _ = study(runs, 1.0, make_protocol(False, ruleset="default"), {"lr": 0.5})
    assert setting == {"lr": 0.5}
    assert [(stage, lr) for stage, lr, _ in runs.asked] == [("evaluate", 0.5)] * 3


def test_the_search_ruleset_screens_the_points_it_is_given(make):
    runs = Runs(make, hit=lambda lr, seed: 2 + distance(lr, 0.3))
    points = [{"lr": lr, "momentum": momentum} for lr, momentum in ((0.1, 0.9), (0.3, 0.5), (1.0, 0.1), (30.0, 0.0))]
    setting, _ = study(runs, 1.0, make_protocol(False, ruleset="search"), points=points)
    assert setting["lr"] == 0.3
    assert runs.lrs("screen") == [0.1, 0.3, 1.0, 30.0]
    assert len(runs.lrs("retest")) == 3


def test_nothing_to_choose_from(make):
    def failing(hyperparameters, seed, stage, stop_at_hit=False, limit=None) -> Trial:
        return make.trial([], lr=hyperparameters["lr"], failure="raised TypeError: no")

    with pytest.raises(GivenUpError, match="raised TypeError: no"):
        study(failing, 1.0, PROTOCOL)


def test_quick_and_default_are_described(make):
    assert (QUICK.evaluation_seeds, PROTOCOL.evaluation_seeds) == ((100, 101, 102),) * 2
    assert make_protocol(quick=True, seeds=1).evaluation_seeds == (100,)
    assert not set(PROTOCOL.evaluation_seeds) & set(PROTOCOL.tuning_seeds)
    for said in (
        "7 values around",
        "up to 4 more",
        "best 3",
        "the best 3 re-tested at full length on tuning seeds 1, 2;",
        "seeds 100, 101, 102,",
        "full length",
    ):
        assert said in PROTOCOL.describe()
    for said in (
        "the default and up to 5",
        "factor of 10 apart",
        "up to 3, until one hits, re-tested at full length on tuning seed 1;",
        "stopped at its hit or 2 times the steps",
    ):
        assert said in QUICK.describe()
    assert "16 Sobol points" in make_protocol(False, ruleset="search").describe()
    assert "nothing is tuned" in make_protocol(False, ruleset="default").describe()
    assert PROTOCOL.to_dict()["description"] == PROTOCOL.describe()


def test_unknown_ruleset():
    with pytest.raises(UsageError, match="unknown ruleset 'defualt'; did you mean 'default'"):
        make_protocol(False, ruleset="defualt")
