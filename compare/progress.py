"""Progress on standard error: bars on a terminal, a line per study elsewhere. Standard output is for results."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .estimate import length_of, runs_of, seconds_of_runs
from .results import MISS, Study, Trial
from .table import DAGGER

if TYPE_CHECKING:
    from .study import Begun, Task, Trained

START = 3.0  # seconds until a worker has imported PyTorch
TRUST = 10.0  # seconds of work that weigh as much as the prediction


class Progress:
    """Shows what `report` is told: on a terminal the total with the time left, and a line per worker.

    Args:
        tasks: The studies to make; a few steps of each are made here and now, to tell how long they will take.
        jobs: Number of worker processes.
        known: The trials of a task that need not be made again, by key.
    """

    def __init__(self, tasks: Sequence[Task], jobs: int, known: Callable[[Task], Mapping[str, Trial]]) -> None:
        self._jobs = min(jobs, len(tasks))
        self._start = START if self._jobs > 1 else 0.0
        self._total = len(tasks)
        self._runs: dict[tuple[str, str], float] = {}  # of full length that each study still needs
        for task in tasks:
            lengths = sum(length_of(trial, task.problem.budget) for trial in known(task).values())
            self._runs[task.problem.name, task.candidate.name] = max(runs_of(task) - lengths, 0.0)
        probed = seconds_of_runs(task for task in tasks if self._runs[task.problem.name, task.candidate.name])
        guesses = {(task.problem.name, task.candidate.name): task.problem.run_seconds for task in tasks}
        self._unknown = list(dict.fromkeys(pair[0] for pair in guesses.keys() - probed.keys() if self._runs[pair]))
        self._seconds = {**guesses, **probed}  # of a run of full length
        self._worked = 0.0  # seconds, had all taken what it was said to
        self._done: set[tuple[str, str]] = set()
        self._computed: set[tuple[str, str]] = set()
        self._best: dict[int, float] = {}
        self._started = time.monotonic()
        self._stack = ExitStack()
        self._bars: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not os.environ.get("CI"):
            self._bars = self._stack.enter_context(_bars())
            self._overall = self._bars.add_task("total", total=self._total, left=self._left())
            self._lines = [self._bars.add_task("starting", total=None, left="") for _ in range(self._jobs)]
        else:
            print(self._announcement(), file=sys.stderr, flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def report(self, worker: int, task: Task, event: Begun | Trained | Study) -> None:
        pair = task.problem.name, task.candidate.name
        if isinstance(event, Study):
            self._done.add(pair)
            self._runs[pair] = 0.0
            self._best.pop(worker, None)
            text = f"{_summary(event)}{'' if pair in self._computed else ' (known)'}"
            if self._bars:
                self._bars.update(self._overall, completed=len(self._done), left=self._left())
            else:
                left = self._left()
                count = f"[{len(self._done):{len(str(self._total))}}/{self._total}]"
                print(f"{count} {text}{f'; {left} left' if left else ''}", file=sys.stderr, flush=True)
        elif (trial := getattr(event, "trial", None)) is None:  # a run begins
            self._computed.add(pair)
            if self._bars:
                lr = event.request.hyperparameters.get("lr")
                best = f", best {self._best[worker]:g} steps" if worker in self._best else ""
                text = f"{' '.join(pair)}: {event.request.stage}{f' lr {lr:.2g}' if lr else ''}{best}"
                self._bars.update(self._lines[worker], description=text)
        else:
            self._count(pair, event, length_of(trial, task.problem.budget))
            if trial.hit < MISS:
                self._best[worker] = min(trial.hit, self._best.get(worker, MISS))

    def _count(self, pair: tuple[str, str], event: Any, length: float) -> None:
        if not event.known:
            self._worked += length * self._seconds[pair] / self._jobs
            self._runs[pair] = max(self._runs[pair] - length, 0.0)

    def _predicted(self) -> float:
        """Seconds of what is left to do, by what was said of it before the start."""
        return sum(runs * self._seconds[pair] for pair, runs in self._runs.items()) / self._jobs

    def _left(self) -> str:
        """The time left: the prediction, corrected by what the work so far took."""
        left = self._predicted()
        elapsed = max(time.monotonic() - self._started - self._start, 0.0)
        return _duration(left * (elapsed + TRUST) / (self._worked + TRUST)) if left else ""

    def _announcement(self) -> str:
        studies = f"{self._total} stud{'y' if self._total == 1 else 'ies'}"
        if len(self._unknown) == len({problem for problem, _ in self._runs}):
            return f"{studies}; the time left will show after the first"
        besides = f", and {', '.join(self._unknown)}, of which nothing is known" if self._unknown else ""
        seconds = sum(self._seconds[pair] * runs for pair, runs in self._runs.items() if pair[0] not in self._unknown)
        return f"{studies}, about {_duration(self._start + seconds / self._jobs)}{besides}"


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _summary(study: Study) -> str:
    if study.failure:
        outcome = study.failure
    elif study.hit < MISS:
        outcome = f"{study.hit:g}{DAGGER if study.vector_rule else ''} steps"
    else:
        reasons = [trial.miss_reason for trial in study.evaluations if trial.miss_reason]
        outcome = f"missed ({reasons[0]})" if reasons else "missed"
    return f"{study.problem} {study.optimizer}: {outcome}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
