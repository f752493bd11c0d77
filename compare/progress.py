"""Progress on standard error: bars on a terminal, a line per study elsewhere. Standard output is for results."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .results import MISS, Study

if TYPE_CHECKING:
    from .study import Begun, Task, Trained

RUNS_PER_STUDY = {"default": 3, "lr": 16, "search": 25}  # for the estimate before anything has been measured


class Progress:
    """Shows what `report` is told: on a terminal the total with the time left, and a line per worker."""

    def __init__(self, tasks: Sequence[Task], jobs: int) -> None:
        self._cost = {(task.problem.name, task.candidate.name): task.problem.run_seconds for task in tasks}
        self._jobs = min(jobs, len(tasks))
        self._total = len(tasks)
        self._runs = RUNS_PER_STUDY[tasks[0].protocol.ruleset]
        self._done: set[tuple[str, str]] = set()
        self._cached: set[tuple[str, str]] = set()
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
            guess = _duration(sum(self._cost.values()) * self._runs / self._jobs)
            print(f"{self._total} studies, about {guess} if none is known yet", file=sys.stderr, flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def report(self, worker: int, task: Task, event: Begun | Trained | Study) -> None:
        pair = task.problem.name, task.candidate.name
        if isinstance(event, Study):
            self._done.add(pair)
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
        elif trial.hit < MISS:
            self._best[worker] = min(trial.hit, self._best.get(worker, MISS))

    def _left(self) -> str:
        """The time left, by what the studies made so far cost; those that were known already cost nothing."""
        left = sum(cost for pair, cost in self._cost.items() if pair not in self._done)
        spent = sum(self._cost[pair] for pair in self._done & self._computed)
        if not left:
            return ""
        elapsed = time.monotonic() - self._started
        return _duration(elapsed * left / spent if spent else left * self._runs / self._jobs)


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
        outcome = f"{study.hit:g} steps"
    else:
        reasons = [trial.miss_reason for trial in study.evaluations if trial.miss_reason]
        outcome = f"missed ({reasons[0]})" if reasons else "missed"
    return f"{study.problem} {study.optimizer}: {outcome}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
