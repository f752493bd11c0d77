"""The serial timing pass: one process, the optimizers interleaved, so that load meets all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .candidates import Candidate
from .problem import Problem
from .results import StepTime
from .runner import Driver, Request, one_thread

ROUNDS = 5
STEPS = 20
SECONDS_PER_ROUND = 0.03  # of one optimizer: where a step is dear, fewer steps are timed, but at least 3


class Entry(NamedTuple):
    """What to time: an optimizer at the hyperparameters it is judged at."""

    candidate: Candidate
    hyperparameters: dict[str, Any]
    step_us: float  # roughly


def time_steps(
    problem: type[Problem], entries: Sequence[Entry], schedule: str = "auto", rounds: int = ROUNDS
) -> dict[str, StepTime]:
    """CPU time of a step by optimizer: in every round, each makes some steps in turn; the least of the medians.

    One that raises is left out: its trials have said so.
    """
    with one_thread():
        drivers = {}
        for candidate, hyperparameters, step_us in entries:
            request = Request(problem, candidate, hyperparameters, seed=0, schedule=schedule)
            count = max(3, min(STEPS, int(SECONDS_PER_ROUND / (step_us * 1e-6)))) if step_us > 0 else STEPS
            if driver := _tried(lambda request=request: Driver(request)):  # type: ignore[misc]
                drivers[candidate.name] = (driver, min(count, problem.budget // (rounds + 1)))
        times: dict[str, list[StepTime]] = {}
        for round_ in range(rounds + 1):
            for name, (driver, count) in list(drivers.items()):
                measured = _tried(lambda driver=driver, count=count: _time(driver, count))  # type: ignore[misc]
                if measured is None:
                    del drivers[name]
                elif round_:  # the first warms up: state is made, kernels are chosen
                    times.setdefault(name, []).append(measured)
    return {name: min(measured, key=lambda time: time.step_us) for name, measured in times.items() if name in drivers}


def _time(driver: Driver, count: int) -> StepTime:
    for _ in range(count):
        driver.step()
    return StepTime(
        *(
            statistics.median(parts[-count:]) / 1e3
            for parts in (driver.forward_ns, driver.backward_ns, driver.optimizer_ns)
        )
    )


def _tried(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception:
        return None


def names(shapes: Iterable[str]) -> str:
    return ", ".join(shapes)
