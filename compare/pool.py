"""Worker processes that make studies. One that dies or hangs costs the run it was in, and the others go on.

Not `ProcessPoolExecutor`: there a dead worker breaks the pool, and nobody knows which run took it down.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from .results import Study, Trial
from .runner import Request
from .study import Begun, Task, Trained, run_study

Known = Callable[[Task], Mapping[str, Trial]]
Report = Callable[[int, Task, Begun | Trained | Study], None]

START_SECONDS = 120.0  # a worker that has not reported by then cannot be started
PATIENCE = 4.0  # times the CPU time a run may take: the wall time after which its process is ended


def run_here(tasks: Sequence[Task], known: Known, report: Report) -> None:
    """Make the studies in this process."""
    for task in tasks:
        report(0, task, run_study(task, known(task), partial(report, 0, task)))


@contextmanager
def processes(count: int) -> Iterator[Workers]:
    """Worker processes of one thread each; they have seconds of imports to do before they can be given anything."""
    workers: Workers = {}
    try:
        workers.update((number, _Worker()) for number in range(count))
        yield workers
    finally:
        for worker in workers.values():
            worker.end()


def run_in_processes(workers: Workers, tasks: Sequence[Task], known: Known, report: Report) -> None:
    """Make the studies in the order given, and end the processes.

    Args:
        workers: Of `processes`.
        tasks: What to make.
        known: The trials of a task that need not be made again, by key.
        report: Called in this process with the worker's number, its task and what happened.

    Raises:
        RuntimeError: workers cannot be started, or a worker failed at something other than a run.
    """
    pending = deque(tasks)
    while workers:
        ready = wait([worker.connection for worker in workers.values()], timeout=1.0)
        for number, worker in list(workers.items()):
            for event in worker.events(worker.connection in ready):
                assert worker.task is not None
                report(number, worker.task, event)
                if isinstance(event, Study):
                    worker.task = None
            if worker.dead:
                if worker.task is not None:
                    pending.appendleft(worker.task)
                worker.end()
                workers[number] = worker = _Worker()
            if worker.idle:
                if pending:
                    task = pending.popleft()
                    worker.begin(task, known(task))
                else:
                    worker.end()
                    del workers[number]


class _Worker:
    """A process and what it is doing."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        with _interrupts_ignored():  # which the process inherits: on Ctrl-C, this one ends it
            self.process.start()
        theirs.close()  # else its end would go unnoticed
        self.task: Task | None = None
        self.dead = False
        self._request: Request | None = None
        self._started = False
        self._deadline = time.monotonic() + START_SECONDS

    @property
    def idle(self) -> bool:
        return self._started and self.task is None

    def begin(self, task: Task, known: Mapping[str, Trial]) -> None:
        self.task = task
        self._deadline = time.monotonic() + START_SECONDS
        with suppress(BrokenPipeError):  # it has just died: the next look at it will tell
            self.connection.send((task, dict(known)))

    def events(self, ready: bool) -> Iterator[Begun | Trained | Study]:
        """What has happened since the last look; a run that hangs or kills the process is a failed trial."""
        try:
            while ready and self.connection.poll():
                yield from self._receive(self.connection.recv())
        except (EOFError, ConnectionResetError):
            self.process.join()
            yield from self._lost(f"its process died ({_cause(self.process.exitcode)})")
        if not self.dead and not self.idle and time.monotonic() > self._deadline:
            seconds = self._request.seconds if self._request else START_SECONDS
            self.process.kill()
            self.process.join()
            yield from self._lost(f"took over {PATIENCE * seconds:g} s")

    def end(self) -> None:
        """End the process, whatever it is doing; every trial it has reported is kept."""
        self.process.terminate()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()

    def _receive(self, message: Any) -> Iterator[Begun | Trained | Study]:
        if isinstance(message, str):
            raise RuntimeError(message)
        if message is None:
            self._started = True
            return
        self._request = message.request if isinstance(message, Begun) else None
        seconds = self._request.seconds if self._request else START_SECONDS
        self._deadline = time.monotonic() + PATIENCE * seconds
        yield message

    def _lost(self, reason: str) -> Iterator[Trained]:
        self.dead = True
        if self._request:
            yield Trained(self._request, self._request.failed(reason), known=False)
        else:
            hint = "a script that calls compare() must do so under `if __name__ == '__main__':`, or pass jobs=1"
            raise RuntimeError(f"a worker process could not be used: {reason}; {hint}")


Workers = dict[int, _Worker]
"""By number; one that has nothing left to do is taken out."""


def _work(connection: Connection) -> None:
    """What a worker process does: make studies until it is ended."""
    connection.send(None)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while True:
            task, known = connection.recv()
            try:
                study = run_study(task, known, connection.send)
            except OSError:
                raise
            except Exception as error:
                connection.send(f"{task.problem} {task.candidate.name}: {type(error).__name__}: {error}")
                return
            connection.send(study)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only there can it be set, and does it arrive
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit status {exitcode}"
    return signal.Signals(-exitcode).name
