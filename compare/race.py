"""Optimizers on functions of two variables: the points they visit, on contours, and their race as a GIF or a page.

Everybody starts at the same point, makes the same number of steps, and has its learning rate by the same rule. In a
report that is the protocol's: the path drawn is the evaluation run itself. A race of its own, `optzoo compare race`,
tries 7 learning rates half a decade apart around each optimizer's default, on another start, over all the steps drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .candidates import Candidate, get_candidate, get_candidates, registered
from .errors import UsageError, require
from .figures import Range, coinciding
from .problem import Picture, Problem
from .problems import PROBLEMS, get_problem
from .protocol import FIRST_SEED
from .results import MISS, Comparison, Evaluation, Study, Trial, first_hit
from .runner import Driver, Request, one_thread
from .store import key_of

Variant = Literal["tuned", "default"]

SUFFIXES = (".gif", ".html")
GRID = 80  # points of the contours on a side
EXPONENTS = tuple(k / 2 for k in range(-3, 4))  # of ten, times the default learning rate
TUNING_SEED = 0
LONGEST = 400  # steps of a path in a report: what comes later is too small to be seen
SUBSTITUTE, SUBSTITUTE_STEPS = "rosenbrock", 200  # drawn in the report of a comparison without any function to draw


class Path(NamedTuple):
    """The points visited, the start first; it ends early where they are no longer finite."""

    optimizer: str
    lr: float  # nan where the optimizer finds its own
    points: NDArray[np.float64]  # [step, 2]
    hit: float  # steps to the target, or MISS
    final: float  # the function's value at the end; infinity if it ended early


@dataclass(frozen=True)
class Race:
    """Paths on one function, at tuned and at default learning rates."""

    problem: type[Problem]
    steps: int
    rule: str  # how the learning rates were tuned
    tuned: tuple[Path, ...]
    default: tuple[Path, ...]

    @property
    def picture(self) -> Picture:
        assert self.problem.picture is not None
        return self.problem.picture

    def paths(self, variant: Variant) -> tuple[Path, ...]:
        return self.tuned if variant == "tuned" else self.default

    def coinciding(self, variant: Variant) -> dict[str, str]:
        """The paths that hide each other, as `figures.coinciding` tells them."""
        lines = {
            path.optimizer: (path.points[:, 0].tolist(), path.points[:, 1].tolist()) for path in self.paths(variant)
        }
        return coinciding(lines, Range(*self.picture.x, log=False), Range(*self.picture.y, log=False))

    def contours(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """x, y and the function's values [y, x], as they are to be drawn: by logarithm if its picture says so."""
        problem = self.problem(FIRST_SEED)
        (point,) = problem.parameters()
        x, y = (np.linspace(*limits, GRID) for limits in (self.picture.x, self.picture.y))
        values = np.empty((GRID, GRID))
        with torch.no_grad():
            for row, column in np.ndindex(GRID, GRID):
                point[0], point[1] = x[column], y[row]
                values[row, column] = problem.metric()
        if self.picture.log_contours:
            values = np.log10(np.maximum(values, 1e-4 * values.max()))
        return x, y, values


def run_race(problem: str, optimizers: Iterable[Any] | None = None, steps: int | None = None) -> Race:
    """Race optimizers on a function of two variables.

    Args:
        problem: A bundled problem with a picture, such as "rosenbrock" or "saddle".
        optimizers: As `optzoo.compare.compare` takes them; default all registered that need no closure.
        steps: Number of steps, at least 1; default the problem's budget.

    Raises:
        UsageError: There is no such problem or optimizer, the problem has no picture, or there is nothing to do.
    """
    chosen = get_problem(problem)
    if chosen.picture is None:
        drawable = ", ".join(name for name, item in PROBLEMS.items() if item.picture)
        raise UsageError(f"problem {problem!r} is no function of two variables; there are {drawable}")
    if steps is not None and steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    candidates = get_candidates(optimizers)
    if not candidates:
        raise UsageError("nothing to race: name at least one optimizer")
    return _race(chosen, candidates, steps or chosen.budget)


def _race(problem: type[Problem], candidates: Sequence[Candidate], steps: int) -> Race:
    def path(candidate: Candidate, hyperparameters: dict[str, Any], seed: int = FIRST_SEED) -> Path:
        return trace(Request(problem, candidate, hyperparameters, seed), steps)

    tuned = []
    for candidate in candidates:
        lrs = [candidate.default_lr * 10**exponent for exponent in EXPONENTS]
        trials = [path(candidate, {"lr": lr}, TUNING_SEED) for lr in lrs]
        best = min(zip(trials, lrs, strict=True), key=lambda pair: (pair[0].hit, pair[0].final))
        tuned.append(path(candidate, {"lr": best[1]}))
    rule = (
        f"Learning rates: the best of {len(EXPONENTS)}, half a decade apart around each optimizer's default, by steps "
        f"to the target and then by the last value, over {steps} steps from another start."
    )
    return Race(problem, steps, rule, tuple(tuned), tuple(path(item, item.untuned) for item in candidates))


def trace(request: Request, steps: int) -> Path:
    """The points an optimizer visits. It goes on past its target; what it raises ends the path."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        driver = Driver(request)
        points, curve = [_point(driver)], [Evaluation(0, driver.problem.metric())]
        for step in range(1, steps + 1):
            try:
                driver.step()
            except Exception:
                break
            point, value = _point(driver), driver.evaluate().metric
            if not (math.isfinite(value) and all(map(math.isfinite, point))):
                break
            points.append(point)
            curve.append(Evaluation(step, value))
    hit = first_hit(curve, driver.problem.target.threshold(curve[0].metric))
    lr = request.hyperparameters.get("lr")
    return Path(
        request.candidate.name,
        math.nan if lr is None else float(lr),
        np.array(points),
        hit.step if hit else MISS,
        curve[-1].metric if len(points) == steps + 1 else math.inf,
    )


def _point(driver: Driver) -> list[float]:
    with driver.judged():
        (point,) = driver.problem.parameters()
        values: list[float] = point.tolist()
        return values


def races_of(comparison: Comparison) -> list[Race]:
    """A race for every function of two variables in a comparison; if it has none, one on Rosenbrock's.

    An optimizer takes part if it can be made here exactly as it was in the comparison: the run's identity must have
    the key of the recorded trial.
    """
    races = []
    for info in comparison.problems:
        problem = PROBLEMS.get(info.name)
        if problem is None or problem.picture is None or problem.version != info.version:
            continue
        tuned, default = [], []
        steps = min(problem.budget, LONGEST)
        for study in comparison.studies:
            again = _again(comparison, study) if study.problem == info.name and study.evaluations else None
            if again is None:
                continue
            untuned = {key: value for key, value in again.hyperparameters.items() if key not in study.chosen}
            tuned.append(trace(again, steps)._replace(hit=study.evaluations[0].hit))
            request = again._replace(hyperparameters={**untuned, **again.candidate.untuned})
            default.append(trace(request, steps))
        if tuned:
            rule = (
                "Learning rates: chosen by the protocol, over the whole budget; drawn is the run on the first "
                f"evaluation seed, up to step {steps}."
            )
            races.append(Race(problem, steps, rule, tuple(tuned), tuple(default)))
    if not races and (candidates := same_candidates(comparison)):
        races.append(_race(PROBLEMS[SUBSTITUTE], candidates, SUBSTITUTE_STEPS))
    return races


def same_candidates(comparison: Comparison) -> list[Candidate]:
    """The optimizers of a comparison that are here what they were there."""
    found: dict[str, Candidate] = {}
    for study in comparison.studies:
        if study.optimizer not in found and study.evaluations and (again := _again(comparison, study)):
            found[study.optimizer] = again.candidate
    return [found[name] for name in comparison.optimizers if name in found]


def _again(comparison: Comparison, study: Study) -> Request | None:
    """The request of a study's first evaluation, if it can be made here and is the same."""
    trial: Trial = study.evaluations[0]
    if study.problem not in PROBLEMS or not (study.optimizer in registered() or ":" in study.optimizer):
        return None
    try:
        candidate = get_candidate(study.optimizer)
    except UsageError:
        return None
    schedule = comparison.protocol.get("schedule", "auto")
    hyperparameters = dict(trial.hyperparameters)
    request = Request(PROBLEMS[study.problem], candidate, hyperparameters, trial.seed, schedule=schedule)
    return request if key_of(request.identity) == trial.key else None


def command(problem: str, optimizers: list[str] | None, output: FilePath | None) -> int:
    """`optzoo compare race`: writes race-PROBLEM.html, or a GIF.

    A file among the optimizers, told by its suffix, is the output: `-o` was once the option for both.
    """
    names = [name for name in optimizers or [] if FilePath(name).suffix not in SUFFIXES]
    files = [FilePath(name) for name in optimizers or [] if name not in names] + ([output] if output else [])
    if len(files) > 1:
        raise UsageError(f"a race is written to one file, not to {' and '.join(map(str, files))}")
    output = files[0] if files else FilePath(f"race-{problem}.html")
    if output.suffix not in SUFFIXES:
        raise UsageError(f"a race is written as {' or '.join(SUFFIXES)}, not {output.name!r}")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {str(output.parent)!r}")
    require(*(("matplotlib", "matplotlib") if output.suffix == ".gif" else ("plotly", "plotly")))
    race = run_race(problem, names or None)
    if output.suffix == ".gif":
        from .plots import write_gif

        write_gif(race, output)
    else:
        from .report import write_race

        write_race(race, output)
    print(race.rule)
    for path in sorted(race.tuned, key=lambda path: (path.hit, path.final)):
        reached = f"{path.hit:.0f} steps" if path.hit < MISS else "not reached"
        print(f"{path.optimizer:<16} lr {path.lr:<9.2g} {reached}")
    print(f"written: {output}")
    return 0
