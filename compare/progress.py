"""Progress on standard error: a bar on a terminal, a line per study elsewhere. Standard output is for results."""

import os
import sys
from collections.abc import Iterable, Iterator

from .results import MISS, Study


def show_progress(studies: Iterable[Study], total: int) -> Iterator[Study]:
    """Pass the studies on, showing each as it completes."""
    on_terminal = sys.stderr.isatty() and not os.environ.get("CI")
    return _with_bar(studies, total) if on_terminal else _with_lines(studies, total)


def _with_lines(studies: Iterable[Study], total: int) -> Iterator[Study]:
    for done, study in enumerate(studies, start=1):
        print(f"[{done:{len(str(total))}}/{total}] {_summary(study)}", file=sys.stderr, flush=True)
        yield study


def _with_bar(studies: Iterable[Study], total: int) -> Iterator[Study]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("starting", total=total)
        for study in studies:
            progress.update(bar, advance=1, description=_summary(study))
            yield study


def _summary(study: Study) -> str:
    outcome = study.error or (f"{study.hit:g} steps" if study.hit < MISS else "target missed")
    return f"{study.problem} {study.optimizer}: {outcome} ({study.seconds:.1f} s)"
