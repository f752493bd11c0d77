"""Learning-rate schedules of a comparison: the problem's own, or one for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .errors import UsageError, unknown_name
from .problem import Problem

NAMES = ("auto", "constant", "linear")


def check_schedule(schedule: str, problems: Iterable[type[Problem]]) -> None:
    """Raise UsageError if there is no such schedule, or it does not fit the budget of a problem."""
    if schedule in NAMES:
        return
    from optzoo.schedulers.sources import read_schedule

    try:
        read_schedule(schedule)
    except (ValueError, TypeError) as error:
        if schedule.isidentifier():
            from optzoo.schedulers.recipes import RECIPES

            raise unknown_name("schedule", schedule, {*NAMES, *RECIPES}) from error
        raise UsageError(f"schedule {schedule!r}: {error}") from error
    for problem in problems:
        try:
            lr_factors(problem, schedule)
        except ValueError as error:
            raise UsageError(f"schedule {schedule!r} on {problem.name} of {problem.budget} steps: {error}") from error


def canonical(schedule: str) -> str:
    """What identifies a schedule in the results: of a file, what it says."""
    if schedule in NAMES:
        return schedule
    from optzoo.schedulers.sources import read_schedule

    return repr(read_schedule(schedule))


def lr_factors(problem: type[Problem], schedule: str) -> Callable[[int], float]:
    """What the learning rate is multiplied with at step 0, 1, ..., budget - 1."""
    name = problem.schedule if schedule == "auto" else schedule
    if name == "linear":
        return lambda step: 1.0 - step / problem.budget
    if name == "constant":
        return lambda step: 1.0
    from optzoo.schedulers.sources import read_schedule

    factors: list[float] = read_schedule(name).resolve(problem.budget).array().tolist()
    return lambda step: factors[step]
