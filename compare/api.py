"""`compare` and `list_problems`: the whole from Python. The command line is a thin layer over this file."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .errors import UsageError
from .results import Comparison

if TYPE_CHECKING:  # PyTorch is slow to import; `optzoo --help` does without
    from torch.optim import Optimizer


def compare(
    optimizers: Iterable[str | type[Optimizer]] | None = None,
    problems: Iterable[str] | None = None,
    *,
    quick: bool = False,
    seeds: int | None = None,
    jobs: int = 2,
    progress: bool = False,
) -> Comparison:
    """Tune every optimizer on every problem by one protocol, and measure it on fresh seeds.

    The protocol follows the practice of DeepOBS (Schneider et al., 2019, arXiv:1903.05499) and AlgoPerf (Dahl et al.,
    2023, arXiv:2306.07179): the same tuning effort for everybody, time to a fixed target as the score, evaluation on
    seeds that tuning never saw, a miss counted as infinite. `Comparison.protocol` states it in full.

    Args:
        optimizers: Names of `optzoo.optimizers.list_optimizers()`, "module:Class" import paths, or optimizer classes;
            default all registered. Only lr is tuned; weight decay is 0, the rest are the optimizer's own defaults.
        problems: Names of `list_problems()`; default all.
        quick: Stop tuning runs at their confirmed hit and evaluate on 3 seeds; default False: tune at full length and
            evaluate on 5. On two cores, everything takes a minute or two if quick, about twice that if not.
        seeds: Number of evaluation seeds (100, 101, ...); default 3 if `quick`, else 5.
        jobs: Worker processes of one thread each; default 2. Results do not depend on it, times may. With more than
            one, a script must call this under `if __name__ == "__main__":`; 1 runs in this process.
        progress: Show progress on standard error; default False.

    Returns:
        Comparison: Every study in the order asked for. `.table()` prints it, `.to_json(path)` writes it.

    Raises:
        UsageError: An unknown name (the message offers the nearest), an optimizer without default lr, a count below
            one, or scikit-learn missing. What an optimizer itself raises is recorded in its study instead.

    Example::

        result = compare(optimizers=["adamw", "lion"], problems=["rosenbrock"], quick=True, jobs=1)
        result.table()
        result.studies[0].hit  # median steps to the target
    """
    started = time.perf_counter()
    from .candidates import get_candidate, registered
    from .problems import PROBLEMS, get_problem
    from .progress import show_progress
    from .protocol import make_protocol
    from .study import Task, run_studies

    if jobs < 1 or (seeds is not None and seeds < 1):
        raise UsageError("seeds and jobs must be at least 1")
    names = dict.fromkeys(PROBLEMS if problems is None else problems)
    candidates = dict.fromkeys(map(get_candidate, registered() if optimizers is None else optimizers))
    tasks = [Task(get_problem(name).name, candidate) for name in names for candidate in candidates]
    if not tasks:
        raise UsageError("nothing to compare: name at least one optimizer and one problem")
    protocol = make_protocol(quick, seeds)
    completed = run_studies(tasks, protocol, jobs)
    studies = list(show_progress(completed, len(tasks)) if progress else completed)
    order = {(task.problem, task.candidate.name): index for index, task in enumerate(tasks)}
    return Comparison(
        studies=tuple(sorted(studies, key=lambda study: order[study.problem, study.optimizer])),
        protocol=protocol.describe(),
        environment=_environment(),
        seconds=time.perf_counter() - started,
    )


def list_problems() -> list[str]:
    """The names of the bundled problems."""
    from .problems import PROBLEMS

    return list(PROBLEMS)


def _environment() -> dict[str, str | int]:
    """What the times and the last bits depend on."""
    import torch

    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
    }


def usable_cores() -> int:
    """The cores this process may run on; in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
