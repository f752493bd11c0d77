"""How long a comparison will take: a few steps of every optimizer on every problem, before the start."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from .candidates import get_candidate
from .problems import PROBLEMS
from .runner import Driver, Request, one_thread

if TYPE_CHECKING:
    from .results import Trial
    from .study import Task

STEPS, SECONDS = 10, 0.1  # of a probe, the first step aside: it ends with either
GRID_RUNS, RETESTS = 13.0, 6.0  # runs of full length in tuning, as some diverge or have nothing to be re-tested against
SHORT = 0.3  # of that is left where screening stops at the hit and one re-test is enough; measured
BUNDLED = ("optzoo.", "torch.optim")
STAND_IN = "adamw"


def runs_of(task: Task) -> float:
    """Roughly how many runs of full length a study amounts to."""
    protocol = task.protocol
    tuning = {"default": 0.0, "lr": GRID_RUNS, "search": protocol.trials + RETESTS}[protocol.ruleset]
    shortened = tuning * (SHORT if protocol.stop_at_hit else 1)
    return shortened + max(task.problem.evaluation_seeds, len(protocol.evaluation_seeds))


def length_of(trial: Trial, budget: int) -> float:
    """How much of a run of full length a trial was."""
    return trial.curve[-1].step / budget if trial.curve else 0.0


def seconds_of_runs(tasks: Iterable[Task]) -> dict[tuple[str, str], float]:
    """By problem and optimizer, the wall time of a run of full length in this process, as ten steps of it have it.

    Code from elsewhere may take its process down or never return, which is for the workers to survive: an optimizer
    that is not bundled counts as AdamW, and a problem that is not bundled is left out.
    """
    found: dict[tuple[str, str], float] = {}
    with one_thread(), torch.random.fork_rng(devices=[]):
        for task in tasks:
            if PROBLEMS.get(task.problem.name) is not task.problem:
                continue
            bundled = task.candidate.qualname.startswith(BUNDLED)
            candidate = task.candidate if bundled else get_candidate(STAND_IN)
            try:
                seconds = _seconds_of_run(Request(task.problem, candidate, {"lr": candidate.default_lr}, seed=0))
            except Exception:  # its runs will raise it too, and be over as soon
                seconds = 0.0
            found[task.problem.name, task.candidate.name] = seconds
    return found


def _seconds_of_run(request: Request) -> float:
    driver, problem = Driver(request), request.problem
    driver.step()  # makes its state, and may import
    started, count = perf_counter(), 0
    while count < STEPS and perf_counter() < started + SECONDS:
        driver.step()
        count += 1
    stepped = perf_counter()
    driver.evaluate()
    evaluation = perf_counter() - stepped
    return problem.budget * ((stepped - started) / count + evaluation / problem.eval_every)
