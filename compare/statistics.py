"""Scores of a comparison. Pure functions of times to the target, in NumPy; `intervals.py` says how far to trust them.

The score is AlgoPerf's (Dahl et al., "Benchmarking Neural Network Training Algorithms", 2023, arXiv:2306.07179): the
performance profile of Dolan & Moré (2002), integrated from 1 to 4. With t the time of an optimizer on a problem, t* the
least of all optimizers' on it, and w the problems' weights, one vote per family:

    r = t / t*      ρ(τ) = Σ w [r ≤ τ]      score = 1/(4 - 1) ∫₁⁴ ρ(τ) dτ = Σ w · clip((4 - r) / 3, 0, 1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .results import MISS, ClockName, Comparison, Study

Array = NDArray[np.float64]

R_MAX = 4.0  # AlgoPerf's; always this, never the data's own largest ratio, which would depend on who takes part
REFERENCES = ("adamw", "adam")  # without weight decay they are the same


@dataclass(frozen=True)
class Times:
    """Times to the target of every optimizer on every scored problem; infinity for a miss or a missing cell."""

    optimizers: tuple[str, ...]
    problems: tuple[str, ...]
    values: Array  # [optimizer, problem], medians over the seeds
    weights: Array  # [problem], of sum 1
    seeds: tuple[Array, ...] = ()  # by problem, [optimizer, seed]; empty where only the medians are known

    def without(self, optimizer: str) -> Times:
        """The same without one optimizer: the others are then compared with the best of what is left."""
        kept = [index for index, name in enumerate(self.optimizers) if name != optimizer]
        names = tuple(self.optimizers[index] for index in kept)
        return Times(names, self.problems, self.values[kept], self.weights, tuple(seed[kept] for seed in self.seeds))


def times_of(comparison: Comparison, clock: ClockName = "steps") -> Times:
    """The times of a comparison's scored problems, every family of problems weighing the same."""
    scored = [problem for problem in comparison.problems if problem.scored]
    families = [problem.family for problem in scored]
    weights = np.array([1 / families.count(family) / len(set(families)) for family in families])
    values = np.full((len(comparison.optimizers), len(scored)), MISS)
    studies = {(study.optimizer, study.problem): study for study in comparison.studies}
    for row, optimizer in enumerate(comparison.optimizers):
        for column, problem in enumerate(scored):
            study = studies.get((optimizer, problem.name))
            time = comparison.time_to_target(study, clock) if study else MISS
            values[row, column] = MISS if math.isnan(time) else time
    names = tuple(problem.name for problem in scored)
    seeds = tuple(_by_seed(comparison.optimizers, name, studies) for name in names) if clock == "steps" else ()
    return Times(comparison.optimizers, names, values, weights, seeds)


def _by_seed(optimizers: Sequence[str], problem: str, studies: Mapping[tuple[str, str], Study]) -> Array:
    """Steps to the target, [optimizer, seed]; a seed that an optimizer was not run on is a miss."""
    hits: list[dict[int, float]] = []
    for optimizer in optimizers:
        study = studies.get((optimizer, problem))
        hits.append({trial.seed: trial.hit for trial in study.evaluations} if study and not study.failure else {})
    seeds = sorted({seed for own in hits for seed in own})
    return np.array([[own.get(seed, MISS) for seed in seeds] for own in hits])


def ratios(times: Times) -> Array:
    """t / t* per problem, at least 1; infinity for a miss, and for everybody where nobody solves the problem."""
    least = np.finfo(np.float64).tiny
    values = np.maximum(times.values, least)  # at the target from the start is a time of 0: then a tie, not 0 / 0
    best = values.min(axis=0, initial=MISS)
    relative: Array = np.full_like(values, MISS)
    np.divide(values, best, out=relative, where=np.isfinite(values) & np.isfinite(best))
    return relative


def profile(times: Times, taus: Array) -> Array:
    """ρ(τ) as [optimizer, τ]: the weight of the problems solved within τ times the best time."""
    within = ratios(times)[:, :, None] <= taus[None, None, :]
    shares: Array = np.einsum("opt,p->ot", within, times.weights)
    return shares


def marks(times: Times) -> Array:
    """The score on each problem alone, [optimizer, problem]: 1 for the best, falling to 0 at 4 times its time."""
    return np.clip((R_MAX - ratios(times)) / (R_MAX - 1), 0.0, 1.0)


def scores(times: Times) -> Array:
    """The score of every optimizer, between 0 and 1; nan without a scored problem."""
    return marks(times) @ times.weights if len(times.problems) else np.full(len(times.optimizers), math.nan)


def order(times: Times) -> tuple[str, ...]:
    """The optimizers by score, best first; equal scores in the order given."""
    return tuple(times.optimizers[index] for index in np.argsort(-scores(times), kind="stable"))


def leave_one_out(times: Times) -> dict[str, list[tuple[str, str]]]:
    """By optimizer, the pairs (a, b) where a scores above b but, if that optimizer had not taken part, below.

    A profile compares with the best solver present, so that who takes part can decide the order of two others (Gould
    & Scott, "A Note on Performance Profiles for Benchmarking Software", 2016).
    """
    with_all = dict(zip(times.optimizers, scores(times), strict=True))
    swaps: dict[str, list[tuple[str, str]]] = {}
    for left_out in times.optimizers:
        rest = times.without(left_out)
        alone = dict(zip(rest.optimizers, scores(rest), strict=True))
        pairs = [(a, b) for a in alone for b in alone if with_all[a] > with_all[b] and alone[a] < alone[b] - 1e-12]
        if pairs:
            swaps[left_out] = pairs
    return swaps


class Speedup(NamedTuple):
    factor: float  # geometric mean over the problems that both solve of t_reference / t; above 1 is faster
    problems: int  # how many those are


def speedup(times: Times, optimizer: str, reference: str) -> Speedup:
    """How much faster than the reference, over the scored problems that both solve; nan where there is none."""
    own, other = (times.values[times.optimizers.index(name)] for name in (optimizer, reference))
    both = np.isfinite(own) & np.isfinite(other) & (own > 0) & (other > 0)
    if not both.any():
        return Speedup(math.nan, 0)
    return Speedup(float(np.exp(np.log(other[both] / own[both]).mean())), int(both.sum()))


def solved(times: Times) -> list[int]:
    """How many scored problems each optimizer solves."""
    return [int(count) for count in np.isfinite(times.values).sum(axis=1)]


def wins(times: Times) -> list[int]:
    """On how many scored problems no other optimizer is faster."""
    return [int(count) for count in (ratios(times) == 1).sum(axis=1)]


@dataclass(frozen=True)
class Sensitivity:
    """How much the learning rate matters, from the screening runs; None where they do not tell."""

    loss: float | None
    """Wortsman et al. ("Small-scale proxies for large-scale Transformer training instabilities", 2023,
    arXiv:2309.14322): mean over the grid of min(l(lr), l0) - l*, divided by l0 - l*. 0: flat; 1: one lr works."""
    basin: float | None
    """Decades of lr, around the best, that reach the target; every grid point stands for its step of the grid."""
    default: bool | None
    """Whether the default lr, the middle of the grid, reaches the target."""


def sensitivity(study: Study, stopped_early: bool = False) -> Sensitivity:
    """The lr sensitivity of a study, from its screening runs.

    Args:
        study: One with a grid of learning rates; of the rulesets "default" and "search" nothing is known.
        stopped_early: Whether screening ended at the hit, or once it was late for it; then a miss may be none.
    """
    screened = study.screened
    others = [{name: value for name, value in trial.hyperparameters.items() if name != "lr"} for trial in screened]
    if len(screened) < 2 or any(other != others[0] for other in others) or not screened[0].curve:
        return Sensitivity(None, None, None)
    best, default = (
        min(screened, key=key)
        for key in (lambda trial: (trial.hit, trial.final), lambda trial: abs(math.log(trial.lr / study.default_lr)))
    )
    reached = None if default.limit and default.hit == MISS else default.hit < MISS
    if stopped_early:
        return Sensitivity(None, None, reached)
    loss = _loss_sensitivity(screened[0].curve[0].metric, [run.final for run in screened])
    basin = _basin(study.grid, [run.hit for run in screened], best.lr) if best.hit < MISS else 0.0
    return Sensitivity(loss, basin, reached)


def _loss_sensitivity(start: float, finals: list[float]) -> float | None:
    lowest = min(min(finals), start)
    if not start > lowest:
        return None
    return float(np.mean([min(final, start) - lowest for final in finals]) / (start - lowest))


def _basin(grid: list[float], hits: list[float], best: float) -> float:
    step = math.log10(grid[-1] / grid[0]) / (len(grid) - 1)
    low = high = grid.index(best)
    while low > 0 and hits[low - 1] < MISS:
        low -= 1
    while high < len(hits) - 1 and hits[high + 1] < MISS:
        high += 1
    return (high - low + 1) * step


@dataclass(frozen=True)
class Row:
    """One optimizer in the summary."""

    optimizer: str
    score: float  # by steps; nan without a scored problem
    low: float
    high: float
    lrs: tuple[float, float] | None  # the least and the greatest that were chosen
    best_rank: int
    worst_rank: int
    score_cpu: float
    score_gradients: float
    solved: int
    problems: int
    wins: int
    speedup: Speedup | None  # over the reference, by steps; None if that does not take part
    lr_loss: float | None  # medians over the scored problems
    lr_basin: float | None
    lr_default: int | None  # how many targets the default lr reaches; None unless it is known of every problem
    optimizer_us: float  # median over all problems
    state_ratio: float  # bytes of state over bytes of float32 parameters: median over all problems


def reference_of(comparison: Comparison) -> str:
    """What speed-ups are over: the first of `REFERENCES` that takes part."""
    return next((name for name in REFERENCES if name in comparison.optimizers), REFERENCES[0])


def summarize(comparison: Comparison) -> list[Row]:
    """The summary, best score first."""
    from .intervals import intervals

    reference = reference_of(comparison)
    times = times_of(comparison)
    by_steps, by_cpu, by_gradients = (
        scores(times if clock == "steps" else times_of(comparison, clock)) for clock in ("steps", "cpu", "gradients")
    )
    found = intervals(times)
    rows = []
    for index, optimizer in enumerate(comparison.optimizers):
        studies = [study for study in comparison.studies if study.optimizer == optimizer]
        judged = [study for study in studies if study.problem in times.problems]
        lr = [sensitivity(study, bool(comparison.protocol.get("stop_at_hit"))) for study in judged]
        defaults = [item.default for item in lr if item.default is not None]
        lrs = [study.lr for study in judged if not math.isnan(study.lr)]
        state = [study.state_bytes / (4 * study.parameters) for study in studies if study.parameters]
        rows.append(
            Row(
                optimizer=optimizer,
                score=float(by_steps[index]),
                low=float(found.low[index]),
                high=float(found.high[index]),
                lrs=(min(lrs), max(lrs)) if lrs else None,
                best_rank=int(found.best_rank[index]),
                worst_rank=int(found.worst_rank[index]),
                score_cpu=float(by_cpu[index]),
                score_gradients=float(by_gradients[index]),
                solved=solved(times)[index],
                problems=len(times.problems),
                wins=wins(times)[index],
                speedup=speedup(times, optimizer, reference) if reference in comparison.optimizers else None,
                lr_loss=_median([item.loss for item in lr]),
                lr_basin=_median([item.basin for item in lr]),
                lr_default=sum(defaults) if defaults and len(defaults) == len(times.problems) else None,
                optimizer_us=_median([comparison.optimizer_us(study) for study in studies]) or math.nan,
                state_ratio=_median(state) or 0.0,
            )
        )
    return sorted(rows, key=lambda row: -row.score if row.score == row.score else 0.0)


def _median(values: list[float | None] | list[float]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.median(known)) if known else None
