"""Studies, (problem, optimizer) pairs, and the processes that work on them."""

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from .candidates import Candidate
from .problems import PROBLEMS
from .protocol import Outcome, Protocol, tune_and_evaluate
from .results import Stage, Study, Trial
from .runner import train


class Task(NamedTuple):
    """The study to make: the problem goes by name, since a task is sent to another process."""

    problem: str
    candidate: Candidate


def run_study(task: Task, protocol: Protocol) -> Study:
    """Tune and evaluate one optimizer on one problem. What the optimizer raises is recorded: the others go on."""
    problem = PROBLEMS[task.problem]

    def run(lr: float, seed: int, stage: Stage) -> Trial:
        stop_at_hit = protocol.stop_at_hit and stage != "evaluate"
        return train(problem, task.candidate, lr, seed, stage, stop_at_hit)

    outcome, error = Outcome(lr=math.nan, trials=()), None
    started = time.perf_counter()
    try:
        outcome = tune_and_evaluate(run, task.candidate.default_lr, protocol)
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    return Study(
        problem=problem.name,
        problem_version=problem.version,
        optimizer=task.candidate.name,
        default_lr=task.candidate.default_lr,
        lr=outcome.lr,
        trials=outcome.trials,
        error=error,
        seconds=time.perf_counter() - started,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def run_studies(tasks: Sequence[Task], protocol: Protocol, jobs: int) -> Iterator[Study]:
    """Yield the study of every task as it completes, `jobs` at a time; one job needs no other process."""
    longest_first = sorted(tasks, key=lambda task: PROBLEMS[task.problem].run_seconds, reverse=True)
    if min(jobs, len(tasks)) <= 1:
        yield from (run_study(task, protocol) for task in longest_first)
        return
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=multiprocessing.get_context("spawn"), initializer=_end_quietly_on_interrupt
    )
    try:
        for future in as_completed([pool.submit(run_study, task, protocol) for task in longest_first]):
            yield future.result()
    except BrokenProcessPool as error:
        hint = "a script that calls compare() must do so under `if __name__ == '__main__':`, or pass jobs=1"
        raise RuntimeError(f"a worker process died; {hint}") from error
    finally:
        pool.shutdown(cancel_futures=True)  # after an interrupt, the studies still queued are not begun


def _end_quietly_on_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would print a traceback per worker
