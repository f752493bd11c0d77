"""Learning-rate schedules of a comparison: the problem's own, or one for all."""

from __future__ import annotations

from collections.abc import Callable

from .errors import unknown_name
from .problem import Problem

SCHEDULES = ("auto", "constant", "linear")


def check_schedule(schedule: str) -> None:
    """Raise UsageError if there is no such schedule."""
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)


def lr_factors(problem: type[Problem], schedule: str) -> Callable[[int], float]:
    """What the learning rate is multiplied with at step 0, 1, ..., budget - 1."""
    name = problem.schedule if schedule == "auto" else schedule
    if name == "linear":
        return lambda step: 1.0 - step / problem.budget
    return lambda step: 1.0
