"""How hyperparameters are chosen and judged: one protocol, the same for every optimizer.

A study screens learning rates on one tuning seed, re-tests the best few on more tuning seeds, because one seed alone
is known to pick rates that fail on the next, and at full length, because some reach the target and diverge later. It
judges the chosen one on seeds that played no part in choosing it.
Settings are ranked by what is reported: first by steps to the target, then by the metric.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal
from typing import Protocol as Interface

from .errors import UsageError, unknown_name
from .results import MISS, Stage, Trial

Ruleset = Literal["default", "lr", "search"]
RULESETS: tuple[Ruleset, ...] = ("default", "lr", "search")
Hyperparameters = dict[str, Any]
LATE = 2  # times the steps of the best
SECONDS = 30.0  # CPU time a run may take
FIRST_SEED = 100  # of the evaluation
TRIALS = 16  # of the ruleset "search"


@dataclass(frozen=True)
class Protocol:
    """The numbers of the protocol."""

    ruleset: Ruleset
    evaluation_seeds: tuple[int, ...]
    stop_at_hit: bool = False  # whether screening runs end once their hit is confirmed, or late
    tuning_seeds: tuple[int, ...] = (0, 1, 2)  # the first screens, the others re-test
    decades: float = 0.5  # between the points of the grid
    side: int = 3  # points of the grid on either side of the optimizer's default lr
    extensions: int = 4  # grid points that may be added while the best is at an end
    retested: int = 3  # settings that are re-tested
    settle: bool = False  # for the first of them that hits on every tuning seed
    trials: int = TRIALS  # points of the ruleset "search"
    schedule: str = "auto"  # of the learning rate: the problem's own, or one for all
    seconds: float = SECONDS

    def with_seeds(self, count: int) -> Protocol:
        """The same with so many evaluation seeds."""
        return replace(self, evaluation_seeds=tuple(range(FIRST_SEED, FIRST_SEED + count)))

    def to_dict(self) -> dict[str, Any]:
        """For the results folder: the numbers, and all of it in words."""
        return {**asdict(self), "description": self.describe()}

    def describe(self) -> str:
        seeds = ", ".join(map(str, self.evaluation_seeds))
        schedule = "the problem's own" if self.schedule == "auto" else f"{self.schedule} for all"
        return (
            f"Ruleset {self.ruleset}: weight decay 0, no clipping, float32, library defaults for everything but "
            f"{self._tuning()} Schedule of lr: {schedule}. Shown: medians of full-length runs on evaluation seeds "
            f"{seeds}, which tuning never saw, and of the weights that the optimizer's paper judges. A hit is the "
            "first evaluation at or below the target that the next one confirms, its step interpolated on a "
            f"logarithm; a run that diverges, raises or takes over {self.seconds:g} CPU-seconds misses, and a miss "
            "counts as infinite. Step time is CPU time of data, forward, backward and update, without evaluation, "
            "on one thread."
        )

    def _tuning(self) -> str:
        if self.ruleset == "default":
            return "that; nothing is tuned."
        screening, *retesting = self.tuning_seeds
        length = (
            f"stopped at its hit or {LATE} times the steps of the best so far" if self.stop_at_hit else "at full length"
        )
        if self.ruleset == "lr":
            grid = f"{2 * self.side + 1} values around the optimizer's default" if self.side else "the default"
            screened = (
                f"lr: {grid} and up to {self.extensions} more while the best is at an end, a factor of "
                f"{10**self.decades:.3g} apart, on tuning seed {screening}"
            )
        else:
            screened = f"what its space declares: {self.trials} Sobol points on tuning seed {screening}"
        if not retesting:
            return f"{screened}, each {length}; chosen by steps to the target, then by the last metric."
        among = f"up to {self.retested}, until one hits," if self.settle else f"the best {self.retested}"
        return (
            f"{screened}, each {length}; {among} re-tested at full length on tuning seed{'s' * (len(retesting) > 1)} "
            f"{', '.join(map(str, retesting))}; chosen by median steps to the target over the tuning seeds, then by "
            "median last metric."
        )


QUICK: dict[str, Any] = dict(stop_at_hit=True, tuning_seeds=(0, 1), decades=1.0, side=0, extensions=5, settle=True)
"""What the quick protocol changes: fewer runs, and shorter ones."""


def make_protocol(
    quick: bool, seeds: int | None = None, ruleset: str = "lr", schedule: str = "auto", trials: int | None = None
) -> Protocol:
    """The quick protocol walks in larger steps, stops screening runs that are decided, and takes the first setting that
    holds on a second seed."""
    if ruleset not in RULESETS:
        raise unknown_name("ruleset", ruleset, RULESETS)
    if trials is not None and ruleset != "search":
        raise UsageError(f"trials={trials} is for ruleset 'search', not {ruleset!r}; leave it out")
    return Protocol(
        ruleset=ruleset,
        **(QUICK if quick else {}),
        evaluation_seeds=tuple(range(FIRST_SEED, FIRST_SEED + (seeds or 3))),
        schedule=schedule,
        trials=TRIALS if trials is None else trials,
        seconds=SECONDS,
    )


class Run(Interface):
    """Trains once; what the protocol is written against, so that it can be tested without training."""

    def __call__(
        self,
        hyperparameters: Hyperparameters,
        seed: int,
        stage: Stage,
        stop_at_hit: bool = False,
        limit: int | None = None,
    ) -> Trial: ...


class GivenUpError(Exception):
    """There is nothing to choose from; the message says why."""


def study(
    run: Run,
    default_lr: float,
    protocol: Protocol,
    untuned: Hyperparameters | None = None,
    points: Sequence[Hyperparameters] = (),
) -> tuple[Hyperparameters, list[Trial]]:
    """Screen, extend, re-test, choose, evaluate: what was chosen, and all trials.

    Args:
        run: Trains once.
        default_lr: Centre of the grid.
        protocol: The numbers.
        untuned: The setting of the ruleset "default".
        points: The settings of the ruleset "search".

    Raises:
        GivenUpError: Every screening run failed.
    """
    chosen = dict(untuned or {})
    trials: list[Trial] = []
    if protocol.ruleset != "default":
        trials = _screen_points(run, points, protocol) if points else screen(run, default_lr, protocol)
        failures = [trial.failure for trial in trials if trial.failure]
        if len(failures) == len(trials):
            raise GivenUpError(failures[0])
        best = sorted((trial for trial in trials if not trial.failure), key=rank)[: protocol.retested]
        best = [trial for trial in best if trial.hit < MISS] or best  # a miss is not chosen before a hit
        tuned = []  # where there is something to choose between
        for first in best if len(best) > 1 else []:
            again = [run(first.hyperparameters, seed, "retest") for seed in protocol.tuning_seeds[1:]]
            trials.extend(again)
            tuned.append((median_rank([first, *again]), first.hyperparameters))
            if protocol.settle and all(trial.hit < MISS for trial in (first, *again)):
                break
        chosen = min(tuned, key=lambda entry: entry[0])[1] if tuned else best[0].hyperparameters
    trials.extend(run(chosen, seed, "evaluate") for seed in protocol.evaluation_seeds)
    return chosen, trials


def screen(run: Run, default_lr: float, protocol: Protocol) -> list[Trial]:
    """One trial per grid point, ascending in lr; the grid grows while its best point is at an end.

    From the middle outwards: if screening stops early, the outer ones need not be run much longer than the best took.
    Upwards first: defaults are meant for large models, and too small more often than too large here.
    """
    grid: dict[int, Trial] = {}

    def try_(index: int) -> None:
        lr = default_lr * 10 ** (index * protocol.decades)
        grid[index] = _screen_one(run, {"lr": lr}, protocol, list(grid.values()))

    for index in sorted(range(protocol.side, -protocol.side - 1, -1), key=abs):
        try_(index)
    for _ in range(protocol.extensions):
        best = min(grid, key=lambda index: rank(grid[index]))
        if best == max(grid):
            try_(best + 1)
        elif best == min(grid):
            try_(best - 1)
        else:
            break
    return [grid[index] for index in sorted(grid)]


def _screen_points(run: Run, points: Sequence[Hyperparameters], protocol: Protocol) -> list[Trial]:
    trials: list[Trial] = []
    for point in points:
        trials.append(_screen_one(run, point, protocol, trials))
    return trials


def _screen_one(run: Run, point: Hyperparameters, protocol: Protocol, before: Sequence[Trial]) -> Trial:
    """If screening stops early, a run ends too once it has taken so much longer than the best before it."""
    best = min((trial.hit for trial in before), default=MISS)
    limit = LATE * int(best) if protocol.stop_at_hit and best < MISS else None
    return run(point, protocol.tuning_seeds[0], "screen", protocol.stop_at_hit, limit)


def rank(trial: Trial) -> tuple[float, float]:
    """Smaller is better. Equal hits of runs that stopped there are told apart by the metric that confirmed them."""
    return trial.hit, trial.final


def median_rank(trials: Iterable[Trial]) -> tuple[float, float]:
    hits, finals = zip(*map(rank, trials), strict=True)
    return statistics.median(hits), statistics.median(finals)
