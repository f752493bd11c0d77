"""How hyperparameters are chosen and judged: one protocol, the same for every optimizer.

A study screens learning rates on one tuning seed, re-tests the best few on more tuning seeds, because one seed alone
is known to pick rates that fail on the next, and judges the chosen one on seeds that played no part in choosing it.
Settings are ranked by what is reported: first by steps to the target, then by the metric.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from typing import Protocol as Interface

from .errors import unknown_name
from .results import Stage, Trial

Ruleset = Literal["default", "lr", "search"]
RULESETS: tuple[Ruleset, ...] = ("default", "lr", "search")
Hyperparameters = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """The numbers of the protocol."""

    ruleset: Ruleset
    stop_at_hit: bool  # whether tuning runs end once their hit is confirmed
    evaluation_seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = (0, 1, 2)  # the first screens, the others re-test
    half_decades: int = 3  # of the grid, on either side of the optimizer's default lr
    extensions: int = 2  # grid points that may be added while the best is at an end
    retested: int = 3  # settings that are re-tested
    points: int = 16  # of the ruleset "search"
    schedule: str = "auto"  # of the learning rate: the problem's own, or one for all
    seconds: float = 30.0  # wall time a run may take

    def to_dict(self) -> dict[str, Any]:
        """For the results folder: the numbers, and all of it in words."""
        return {**asdict(self), "description": self.describe()}

    def describe(self) -> str:
        seeds = ", ".join(map(str, self.evaluation_seeds))
        schedule = "the problem's own" if self.schedule == "auto" else f"{self.schedule} for all"
        return (
            f"Ruleset {self.ruleset}: weight decay 0, no clipping, float32, library defaults for everything but "
            f"{self._tuning()} Schedule of lr: {schedule}. Shown: medians of full-length runs on evaluation seeds "
            f"{seeds}, which tuning never saw. A hit is the first evaluation at or below the target that the next one "
            f"confirms; a run that diverges, raises or takes over {self.seconds:g} s misses, and a miss counts as "
            "infinite. Step time is CPU time of data, forward, backward and update, evaluation excluded, 1 thread."
        )

    def _tuning(self) -> str:
        if self.ruleset == "default":
            return "that; nothing is tuned."
        screening, *retesting = self.tuning_seeds
        length = "stopped at its confirmed hit" if self.stop_at_hit else "at full length"
        if self.ruleset == "lr":
            screened = (
                f"lr: {2 * self.half_decades + 1} values, half-decade grid centred on the optimizer's default, on "
                f"tuning seed {screening}; up to {self.extensions} more while the best is at an end"
            )
        else:
            screened = f"what its space declares: {self.points} Sobol points on tuning seed {screening}"
        again = f"re-tested on tuning seeds {', '.join(map(str, retesting))}, stopped at the hit; chosen by"
        return (
            f"{screened}, each {length}; the best {self.retested} {again} median steps to the target over the tuning "
            "seeds, then by median last metric."
        )


def make_protocol(
    quick: bool, seeds: int | None = None, ruleset: str = "lr", schedule: str = "auto", seconds: float = 30.0
) -> Protocol:
    """The quick protocol stops tuning runs at their hit."""
    if ruleset not in RULESETS:
        raise unknown_name("ruleset", ruleset, RULESETS)
    return Protocol(
        ruleset=ruleset,
        stop_at_hit=quick,
        evaluation_seeds=tuple(range(100, 100 + (seeds or 3))),
        schedule=schedule,
        seconds=seconds,
    )


class Run(Interface):
    """Trains once; what the protocol is written against, so that it can be tested without training."""

    def __call__(self, hyperparameters: Hyperparameters, seed: int, stage: Stage, stop_at_hit: bool) -> Trial: ...


class GivenUp(Exception):
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
        GivenUp: Every screening run failed.
    """
    chosen = dict(untuned or {})
    trials: list[Trial] = []
    if protocol.ruleset != "default":
        trials = _screen_points(run, points, protocol) if points else screen(run, default_lr, protocol)
        if failures := [trial.failure for trial in trials if trial.failure]:
            if len(failures) == len(trials):
                raise GivenUp(failures[0])
        best = sorted(trials, key=rank)[: protocol.retested]
        tuned = []
        for first in best:
            again = [run(first.hyperparameters, seed, "retest", True) for seed in protocol.tuning_seeds[1:]]
            trials.extend(again)
            tuned.append((median_rank([first, *again]), first.hyperparameters))
        chosen = min(tuned, key=lambda entry: entry[0])[1]
    trials.extend(run(chosen, seed, "evaluate", False) for seed in protocol.evaluation_seeds)
    return chosen, trials


def screen(run: Run, default_lr: float, protocol: Protocol) -> list[Trial]:
    """One trial per grid point, ascending in lr; the grid grows while its best point is at an end."""
    low, high = -protocol.half_decades, protocol.half_decades

    def trial(half_decade: int) -> Trial:
        lr = default_lr * 10 ** (half_decade / 2)
        return run({"lr": lr}, protocol.tuning_seeds[0], "screen", protocol.stop_at_hit)

    trials = [trial(half_decade) for half_decade in range(low, high + 1)]
    for _ in range(protocol.extensions):
        best = min(trials, key=rank)
        if best is trials[0]:
            low -= 1
            trials.insert(0, trial(low))
        elif best is trials[-1]:
            high += 1
            trials.append(trial(high))
        else:
            break
    return trials


def _screen_points(run: Run, points: Sequence[Hyperparameters], protocol: Protocol) -> list[Trial]:
    return [run(point, protocol.tuning_seeds[0], "screen", protocol.stop_at_hit) for point in points]


def rank(trial: Trial) -> tuple[float, float]:
    """Smaller is better. Equal hits of runs that stopped there are told apart by the metric that confirmed them."""
    return trial.hit, trial.final


def median_rank(trials: Iterable[Trial]) -> tuple[float, float]:
    hits, finals = zip(*map(rank, trials), strict=True)
    return statistics.median(hits), statistics.median(finals)
