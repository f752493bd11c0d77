"""What the figures show, in numbers; the report draws them with plotly.js, `plots.py` with matplotlib."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .results import MISS, ClockName, Comparison, Study, Trial
from .statistics import profile, ratios, times_of

POINTS = 120  # of a curve; more cannot be told apart in a figure
APART = 0.004  # of a figure's width or height: lines nearer than that, everywhere, are seen as one; about a pixel
LARGEST_RATIO = 16.0  # of the profile's axis


class Curve(NamedTuple):
    """The metric over steps on the evaluation seeds.

    A run that has diverged or failed is infinite from there on in the median. It is no part of the band, which would
    else go up to infinity for the rest of the figure; where it ended is in `ends`.
    """

    steps: list[int]
    median: list[float]
    low: list[float]  # of the runs still going; infinite where there is none
    high: list[float]
    ends: list[tuple[int, float]]  # the last point of each run that ended early


class Rate(NamedTuple):
    """A learning rate that was screened."""

    lr: float
    hit: float  # steps, or MISS
    final: float


class Range(NamedTuple):
    low: float
    high: float
    log: bool


PROFILE = Range(1.0, LARGEST_RATIO, log=True), Range(0.0, 1.0, log=False)
"""The axes of the profile."""
Line: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""x and y."""


class Parts(NamedTuple):
    """CPU time of a step in µs. Without a timing pass, forward and backward are known only together, as `forward`."""

    forward: float
    backward: float
    optimizer: float


def curve(study: Study) -> Curve:
    """The learning curve on the evaluation seeds, thinned to what a figure can show."""
    runs = [dict(_going(trial)) for trial in study.evaluations]
    steps = _thinned(sorted({step for run in runs for step in run}))
    median = [statistics.median(run.get(step, math.inf) for run in runs) for step in steps]
    going = [[run[step] for run in runs if step in run] for step in steps]
    ends = [
        (max(run), run[max(run)]) for run, trial in zip(runs, study.evaluations, strict=True) if run and _ended(trial)
    ]
    return Curve(
        steps, median, [min(m, default=math.inf) for m in going], [max(m, default=math.inf) for m in going], ends
    )


def target(studies: Sequence[Study]) -> float:
    """The metric to reach, where it depends on the start the median over seeds; nan if no run got so far."""
    known = [t.target for study in studies for t in study.evaluations if not math.isnan(t.target)]
    return statistics.median(known) if known else math.nan


def metric_range(curves: Sequence[Curve], goal: float) -> Range:
    """What to show of the metric: four decades below the target at most, and no more of what explodes than a decade."""
    values = [value for curve in curves for value in curve.median if math.isfinite(value)]
    starts = [curve.median[0] for curve in curves if curve.median and math.isfinite(curve.median[0])]
    values += [goal] if math.isfinite(goal) else []
    if not values:
        return Range(0.0, 1.0, log=False)
    high = min(max(values), 10 * max(starts)) if starts else max(values)
    positive = [value for value in values if value > 0]
    if not positive or high <= 0 or (math.isfinite(goal) and goal <= 0):
        low = min(values)
        return Range(low, high + 0.05 * (high - low), log=False)
    low = max(min(positive), goal * 1e-4) if goal > 0 else min(positive)
    return Range(low / 1.5, max(high, 2 * low) * 1.5, log=True)


def rates(study: Study) -> list[Rate]:
    """The learning rates screened, ascending; none where lr was not tuned, or not alone."""
    screened = [trial for trial in study.screened if not math.isnan(trial.lr)]
    others = [{name: value for name, value in t.hyperparameters.items() if name != "lr"} for t in screened]
    if any(other != others[0] for other in others):
        return []
    return [Rate(trial.lr, trial.hit, trial.final) for trial in screened]


def profiles(comparison: Comparison, clock: ClockName = "steps") -> dict[str, tuple[list[float], list[float]]]:
    """By optimizer, the steps of its performance profile: τ and ρ(τ)."""
    times = times_of(comparison, clock)
    if not times.problems:
        return {}
    relative = ratios(times)
    lines = {}
    for index, optimizer in enumerate(times.optimizers):
        own = relative[index]
        taus = np.unique(np.concatenate([[1.0, LARGEST_RATIO], own[own <= LARGEST_RATIO]]))
        lines[optimizer] = (taus.tolist(), profile(times, taus)[index].tolist())
    return lines


def costs(comparison: Comparison, problem: str) -> dict[str, Parts]:
    """By optimizer, what a step of that problem takes; those of which nothing is known are left out."""
    found = {}
    for study in comparison.studies:
        if study.problem != problem:
            continue
        timed = comparison.timing.get(problem, {}).get(study.optimizer)
        if timed:
            found[study.optimizer] = Parts(timed.forward_us, timed.backward_us, timed.optimizer_us)
        elif not math.isnan(step := comparison.step_us(study)):
            update = comparison.optimizer_us(study)
            found[study.optimizer] = Parts(step - update, 0.0, update)
    return found


def coinciding(lines: Mapping[str, Line], x: Range, y: Range) -> dict[str, str]:
    """The lines that lie on another one from end to end, by name, and the first that lies there, itself included.

    They would hide each other: who draws them lets them take turns, dash by dash. What is out of the ranges drawn does
    not count.

    >>> lines = {"a": ([0, 1], [1, 2]), "b": ([0, 1], [2, 1]), "c": ([0, 1], [1, 2.001])}
    >>> coinciding(lines, Range(0, 1, log=False), Range(1, 2, log=False))
    {'a': 'a', 'c': 'a'}
    """
    drawn = {name: np.array([_placed(line[0], x), _placed(line[1], y)]) for name, line in lines.items()}
    groups: dict[str, list[str]] = {}
    for name, points in drawn.items():
        first = next((other for other in groups if _within(points, drawn[other])), name)
        groups.setdefault(first, []).append(name)
    return {name: first for first, names in groups.items() for name in names if len(names) > 1}


def coinciding_curves(curves: Mapping[str, Curve], shown: Range) -> dict[str, str]:
    """As `coinciding`, of the medians."""
    steps = [step for curve in curves.values() for step in curve.steps]
    return coinciding({name: (c.steps, c.median) for name, c in curves.items()}, _all_of(steps, log=False), shown)


def coinciding_rates(lines: Mapping[str, Line]) -> dict[str, str]:
    """As `coinciding`, of learning rates and steps, or the metric at the end."""
    lrs = [lr for line in lines.values() for lr in line[0]]
    values = [value for line in lines.values() for value in line[1] if 0 < value < math.inf]
    return coinciding(lines, _all_of(lrs, log=True), _all_of(values, log=True))


def _all_of(values: Sequence[float], log: bool) -> Range:
    return Range(min(values, default=1.0), max(values, default=1.0), log)


def _within(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    if a.shape != b.shape:
        return False
    gaps = np.isnan(a)
    return bool((gaps == np.isnan(b)).all() and (np.abs(a - b) <= APART)[~gaps].all())


def _placed(values: Sequence[float], axis: Range) -> NDArray[np.float64]:
    """Where on an axis they are drawn: from 0 to 1."""
    low, high = axis.low, axis.high
    numbers = np.clip(np.asarray(values, dtype=np.float64), low, high)
    if axis.log:
        numbers, low, high = np.log(numbers), math.log(low), math.log(high)
    placed: NDArray[np.float64] = (numbers - low) / ((high - low) or 1)
    return placed


def slowdown(comparison: Comparison, problem: str, clock: ClockName) -> dict[str, float]:
    """By optimizer, time to the target over the best one's; MISS for a miss."""
    studies = [study for study in comparison.studies if study.problem == problem]
    times = {study.optimizer: comparison.time_to_target(study, clock) for study in studies}
    times = {name: MISS if math.isnan(time) else time for name, time in times.items()}
    best = max(min(times.values(), default=MISS), 1e-300)
    return {name: max(time / best, 1.0) if time < MISS else MISS for name, time in times.items()}


def _thinned(steps: list[int]) -> list[int]:
    stride = -(-len(steps) // POINTS)
    return sorted({*steps[::stride], *steps[-1:]}) if steps else []


def _ended(trial: Trial) -> bool:
    return trial.diverged or trial.failure is not None


def _going(trial: Trial) -> Iterator[tuple[int, float]]:
    """The evaluations of a run, without the one by which it was seen to have diverged."""
    for step, metric, _ in trial.curve[: -1 if trial.diverged else None]:
        if math.isfinite(metric):
            yield step, metric
