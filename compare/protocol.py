"""How a learning rate is chosen and judged: one protocol, the same for every optimizer.

A study screens learning rates on one tuning seed, re-tests the best few on more tuning seeds, because one seed alone
is known to pick rates that fail on the next, and judges the chosen one on seeds that played no part in choosing it.
Learning rates are ranked by what is reported: first by steps to the target, then by the metric.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol as Interface

from .results import Stage, Trial


@dataclass(frozen=True)
class Protocol:
    """The numbers of the protocol."""

    stop_at_hit: bool  # whether tuning runs end once their hit is confirmed
    evaluation_seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = (0, 1, 2)  # the first screens, the others re-test
    half_decades: int = 3  # of the grid, on either side of the optimizer's default lr
    extensions: int = 2  # grid points that may be added while the best is at an end
    retested: int = 3  # learning rates that are re-tested

    def describe(self) -> str:
        screening, *retesting = self.tuning_seeds
        tuning = "stopped at its confirmed hit" if self.stop_at_hit else "at full length"
        return (
            "Weight decay 0 and library defaults for everything but lr. "
            f"lr: {2 * self.half_decades + 1} values, half-decade grid centred on the optimizer's default, on tuning "
            f"seed {screening}; up to {self.extensions} more while the best is at an end; the best {self.retested} "
            f"re-tested on tuning seeds {', '.join(map(str, retesting))}; chosen by median steps to target over the "
            f"tuning seeds, then by median last metric; each tuning run {tuning}. Shown: medians of full-length runs "
            f"on evaluation seeds {', '.join(map(str, self.evaluation_seeds))}, which tuning never saw. A hit is the "
            "first evaluation at or below the target that the next one confirms. Step time is data, forward, "
            "backward and update, evaluation excluded: median over steps, best seed, 1 thread."
        )


def make_protocol(quick: bool, seeds: int | None = None) -> Protocol:
    """The quick protocol stops tuning runs at their hit and has 3 evaluation seeds, the full one 5."""
    count = seeds or (3 if quick else 5)
    return Protocol(stop_at_hit=quick, evaluation_seeds=tuple(range(100, 100 + count)))


class Run(Interface):
    """Trains once; what the protocol is written against, so that it can be tested without training."""

    def __call__(self, lr: float, seed: int, stage: Stage) -> Trial: ...


@dataclass(frozen=True)
class Outcome:
    lr: float
    trials: tuple[Trial, ...]


def tune_and_evaluate(run: Run, default_lr: float, protocol: Protocol) -> Outcome:
    """Screen, extend, re-test, choose, evaluate."""
    screened = screen(run, default_lr, protocol)
    best = sorted(screened, key=rank)[: protocol.retested]
    tuned = {
        first.lr: [first, *(run(first.lr, seed, "retest") for seed in protocol.tuning_seeds[1:])] for first in best
    }
    lr = min(tuned, key=lambda lr: median_rank(tuned[lr]))
    evaluated = [run(lr, seed, "evaluate") for seed in protocol.evaluation_seeds]
    retested = [trial for trials in tuned.values() for trial in trials[1:]]
    return Outcome(lr, (*screened, *retested, *evaluated))


def screen(run: Run, default_lr: float, protocol: Protocol) -> list[Trial]:
    """One trial per grid point, ascending in lr; the grid grows while its best point is at an end."""
    low, high = -protocol.half_decades, protocol.half_decades

    def trial(half_decade: int) -> Trial:
        return run(default_lr * 10 ** (half_decade / 2), protocol.tuning_seeds[0], "screen")

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


def rank(trial: Trial) -> tuple[float, float]:
    """Smaller is better. Equal hits of runs that stopped there are told apart by the metric that confirmed them."""
    return trial.hit, trial.final


def median_rank(trials: Iterable[Trial]) -> tuple[float, float]:
    hits, finals = zip(*map(rank, trials), strict=True)
    return statistics.median(hits), statistics.median(finals)
