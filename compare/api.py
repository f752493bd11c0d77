"""`compare` and `list_problems`: the whole from Python. The command line is a thin layer over this file."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .results import Comparison, ProblemInfo, StepTime, Study, Trial

if TYPE_CHECKING:  # PyTorch is slow to import; `optzoo --help` does without
    from .problem import Problem
    from .store import Store
    from .study import Begun, Task, Trained

BYTES_PER_TRIAL = 10_000  # of the results folder, on average: 200 evaluations take 7 kB, in the few runs that judge 20


def compare(
    optimizers: Mapping[str, Any] | Iterable[Any] | None = None,
    problems: str | Iterable[str | type[Problem]] | None = None,
    *,
    quick: bool = False,
    ruleset: str = "lr",
    seeds: int | None = None,
    trials: int | None = None,
    schedule: str = "auto",
    jobs: int = 2,
    out: str | Path | None = None,
    timing: bool = True,
    progress: bool = False,
) -> Comparison:
    """Tune every optimizer on every problem by one protocol, and measure it on fresh seeds.

    The protocol follows the practice of DeepOBS (Schneider et al., "DeepOBS: A Deep Learning Optimizer Benchmark
    Suite", 2019, arXiv:1903.05499) and AlgoPerf (Dahl et al., "Benchmarking Neural Network Training Algorithms", 2023,
    arXiv:2306.07179): the same tuning effort for everybody, time to a fixed target as the score, evaluation on seeds
    that tuning never saw, a miss counted as infinite. `Comparison.protocol["description"]` states it in full.

    Args:
        optimizers: Names of `optzoo.optimizers.list_optimizers()` or of torch.optim's classics ("sgd", "sgdm",
            "nesterov", "nadamw", "rmsprop", "adagrad"), "module:Class" import paths, optimizer classes,
            functions of (parameters, lr), or {"class_path": ..., "init_args": {...}}; as the values of a mapping they
            have names of their own. Default all registered that need no closure.
        problems: Names of `list_problems()`, selections ("core", "quick", "full", "@convex"), "module:Class" paths or
            classes. Default "core", or "quick" if `quick`. A selection leaves out what lacks an optional dependency,
            with a line on standard error.
        quick: Stop tuning runs at their confirmed hit; default False: tune at full length, which gives the curve of
            the learning rate too.
        ruleset: "lr" (default): the learning rate is tuned, everything else is the optimizer's default; "default":
            nothing is tuned; "search": as many points in the space of every optimizer.
        seeds: Number of evaluation seeds (100, 101, ...); default 3.
        trials: Number of points of the ruleset "search"; default 16.
        schedule: Of the learning rate: "auto" (default, each problem's own), or for all "constant", "linear" or what
            `optzoo schedule preview` takes, such as "wsd,warmup=0.1".
        jobs: Worker processes of one thread each; default 2. Results do not depend on it, times may. With more than
            one, a script must call this under `if __name__ == "__main__":`; 1 runs in this process, as do optimizers
            that no other process could import, such as lambdas.
        out: Results folder, which `optzoo.compare.load` and the command read. What is in it already is not run again;
            an interrupted run goes on. Default None: nothing is written.
        timing: Time the steps of all optimizers in one process after the runs; default True.
        progress: Show progress on standard error; default False.

    Returns:
        Comparison: Every study in the order asked for. `.table()` prints it, `.to_json(path)` writes it.

    Raises:
        UsageError: An unknown name (the message offers the nearest), an optimizer without default lr, a count below
            one, a problem named whose optional dependency is missing, or a folder that cannot be used. What an
            optimizer or a problem itself raises is recorded in its study instead, as a miss.

    Example::

        result = compare(["adamw", "lion"], ["rosenbrock"], quick=True, jobs=1)
        result.table()
        result.studies[0].hit  # median steps to the target
    """
    started = time.perf_counter()
    from .candidates import get_candidates
    from .problems import select_problems
    from .protocol import make_protocol
    from .schedule import check_schedule
    from .study import Task

    for name, count in (("seeds", seeds), ("trials", trials), ("jobs", jobs)):
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, not {count}")
    protocol = make_protocol(quick, seeds, ruleset, schedule, trials)
    default = "quick" if quick else "core"
    selected = select_problems([problems] if isinstance(problems, str) else problems or [default])
    check_schedule(schedule, selected)
    candidates = get_candidates(optimizers)
    tasks = [Task(problem, candidate, protocol) for problem in selected for candidate in candidates]
    if not tasks:
        raise UsageError("nothing to compare: name at least one optimizer and one problem")
    with ExitStack() as stack:
        store = stack.enter_context(_open(out, selected, len(tasks))) if out is not None else None
        studies = _make(tasks, jobs, store, progress)
        comparison = Comparison(
            problems=tuple(describe(problem, schedule) for problem in selected),
            optimizers=tuple(candidate.name for candidate in candidates),
            studies=tuple(studies),
            protocol=protocol.to_dict(),
            environment=environment(),
            timing=_time(tasks, studies, quick) if timing else {},
            seconds=time.perf_counter() - started,
        )
        if store is not None:
            store.complete(comparison)
    return comparison


def list_problems(selection: str | None = None) -> list[str]:
    """The names of the bundled problems, or of a selection of them: "core", "quick", "full" or "@" and a family."""
    from .problems import PROBLEMS, select_problems

    return list(PROBLEMS) if selection is None else [problem.name for problem in select_problems([selection])]


def load(folder: str | Path) -> Comparison:
    """The comparison in a results folder.

    Raises:
        UsageError: The folder is no results folder, of another version, damaged, or its run has not been completed.
    """
    from .store import load

    return load(folder)


def describe(problem: type[Problem], schedule: str = "auto") -> ProblemInfo:
    """What the results say of a problem."""
    return ProblemInfo(
        name=problem.name,
        version=problem.version,
        family=problem.family,
        tags=tuple(sorted(problem.tags)),
        scored=problem.family == "own" or bool(problem.tags & {"core", "quick", "full"}),
        description=problem.description,
        metric_name=problem.metric_name,
        target=str(problem.target),
        budget=problem.budget,
        eval_every=problem.eval_every,
        schedule=problem.schedule if schedule == "auto" else schedule,
    )


def environment() -> dict[str, Any]:
    """What the times and the last bits depend on."""
    import numpy as np
    import torch

    from .runner import load_average, processor

    return {
        **versions(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load": load_average(),
    }


def versions() -> dict[str, str]:
    """Of what the results depend on bit for bit."""
    from importlib.metadata import version

    import torch

    return {"optzoo": version("optzoo"), "torch": torch.__version__}


def usable_cores() -> int:
    """The cores this process may run on; in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(folder: str | Path, problems: Sequence[type[Problem]], studies: int) -> Store:
    from .store import Store

    room = studies * 20 * BYTES_PER_TRIAL
    return Store(folder, versions(), {problem.name: problem.version for problem in problems}, room)


def _make(tasks: Sequence[Task], jobs: int, store: Store | None, progress: bool) -> list[Study]:
    """The studies of the tasks, in their order; the longest are begun first."""
    from .pool import processes, run_here, run_in_processes
    from .progress import Progress
    from .study import Trained

    studies: dict[tuple[str, str], Study] = {}
    lost: dict[str, Trial] = {}  # without a store: what must not be tried again when a study is begun again

    def known(task: Task) -> Mapping[str, Trial]:
        return {**(store.of(task.problem.name, task.candidate.qualname) if store is not None else {}), **lost}

    def report(worker: int, task: Task, event: Begun | Trained | Study) -> None:
        if isinstance(event, Study):
            studies[event.problem, event.optimizer] = event
        elif isinstance(event, Trained) and not event.known:
            if store is not None:
                store.add(event.request.identity, event.trial)
            elif event.trial.failure:
                lost[event.trial.key] = event.trial
        if show:
            show.report(worker, task, event)

    ordered = sorted(tasks, key=lambda task: task.problem.run_seconds, reverse=True)
    elsewhere = [task for task in ordered if task.portable] if jobs > 1 else []
    count = min(jobs, len(elsewhere)) if len(elsewhere) > 1 else 0
    with processes(count) as workers, ExitStack() as stack:  # these start while it is found out how long it will take
        show = stack.enter_context(Progress(tasks, jobs, known)) if progress else None
        run_in_processes(workers, elsewhere if workers else (), known, report)
        run_here([task for task in ordered if (task.problem.name, task.candidate.name) not in studies], known, report)
    return [studies[task.problem.name, task.candidate.name] for task in tasks]


def _time(tasks: Sequence[Task], studies: Sequence[Study], quick: bool) -> dict[str, dict[str, StepTime]]:
    from .timing import ROUNDS, Entry, time_steps

    entries: dict[type[Problem], list[Entry]] = {}
    for task, study in zip(tasks, studies, strict=True):
        clocks = [trial.clock.step_us for trial in study.evaluations if trial.clock]
        if clocks and not study.failure:
            entries.setdefault(task.problem, []).append(Entry(task.candidate, study.chosen, min(clocks)))
    rounds = 2 if quick else ROUNDS
    return {
        problem.name: time_steps(problem, timed, tasks[0].protocol.schedule, rounds)
        for problem, timed in entries.items()
    }
