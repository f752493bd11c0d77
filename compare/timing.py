"""The serial timing pass: one process, the optimizers interleaved, so that load meets all of them alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from time import process_time_ns
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from optzoo.optimizers.core.closures import step_on_gradients

from .candidates import Candidate
from .problem import Problem
from .results import StepTime
from .runner import Driver, Request, one_thread, tensor_bytes

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
            if driver := _tried(partial(Driver, request)):
                drivers[candidate.name] = (driver, min(count, problem.budget // (rounds + 1)))
        times: dict[str, list[StepTime]] = {}
        for round_ in range(rounds + 1):
            for name, (driver, count) in list(drivers.items()):
                measured = _tried(partial(_time, driver, count))
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


def _transformer(width: int, blocks: int, symbols: int) -> list[tuple[int, ...]]:
    block: list[tuple[int, ...]] = [(3 * width, width), (3 * width,), (width, width), (width,), (4 * width, width)]
    block += [(4 * width,), (width, 4 * width), (width,), (width,), (width,), (width,), (width,)]
    return [(symbols, width), *block * blocks, (width,), (width,), (symbols, width)]


SHAPES: dict[str, list[tuple[int, ...]]] = {
    "tensors": [(16, 4), (16,)] * 100,
    "mlp": [(256, 784), (256,), (256, 256), (256,), (10, 256), (10,)],
    "transformer": _transformer(width=128, blocks=4, symbols=256),
}
"""What updates are timed on: many tiny tensors, a multilayer perceptron, a small transformer."""


class Cost(NamedTuple):
    """Of an optimizer at its defaults."""

    optimizer: str
    update_us: float  # CPU time of `step()` on gradients that are there: the least of the rounds' medians
    state_bytes: int
    parameter_bytes: int
    failure: str | None = None


def time_updates(
    candidates: Sequence[Candidate], shapes: Sequence[tuple[int, ...]], rounds: int = ROUNDS
) -> list[Cost]:
    """Time and memory of updates with random gradients, the optimizers interleaved."""
    with one_thread():
        generator = torch.Generator().manual_seed(0)
        runs: dict[str, tuple[Optimizer, list[Tensor]]] = {}
        costs: dict[str, Cost] = {}
        for candidate in candidates:
            parameters = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            try:
                optimizer = candidate.build(parameters, candidate.untuned)
                step_on_gradients(optimizer)
                runs[candidate.name] = optimizer, parameters
            except Exception as error:
                costs[candidate.name] = Cost(candidate.name, math.inf, 0, 1, f"raised {type(error).__name__}: {error}")
        best = dict.fromkeys(runs, math.inf)
        for _ in range(rounds):
            for name, (optimizer, _) in runs.items():
                best[name] = min(best[name], _median_us(optimizer))
        for name, (optimizer, parameters) in runs.items():
            own = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
            costs[name] = Cost(name, best[name], tensor_bytes(optimizer.state.values()), own)
    return [costs[candidate.name] for candidate in candidates]


def _median_us(optimizer: Optimizer) -> float:
    """Of as many steps as a fraction of a second has room for."""
    times: list[int] = []
    while len(times) < 5 or (len(times) < 50 and sum(times) < 1e8):
        started = process_time_ns()
        step_on_gradients(optimizer)
        times.append(process_time_ns() - started)
    return statistics.median(times) / 1e3
