"""Tables for the terminal. They need rich, of the extra `optzoo[compare]`, when they are printed."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, TextIO

from .errors import require
from .problem import Problem
from .problems import PROBLEMS
from .results import MISS, Comparison, Study

if TYPE_CHECKING:
    from rich.table import Table

WIDTH_OF_A_FILE = 110  # columns, where there is no terminal to ask
DASH = "–"


def print_tables(comparison: Comparison, file: TextIO | None = None) -> None:
    """Print a table per problem, then how it was done, on what, and the lints."""
    require("rich", "rich")
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file or sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_A_FILE
    for name in dict.fromkeys(study.problem for study in comparison.studies):
        studies = [study for study in comparison.studies if study.problem == name]
        console.print(Text(f"\n{name}", style="bold").append(f"  {_headline(PROBLEMS[name])}", style="not bold"))
        console.print(problem_table(PROBLEMS[name], studies))
    environment = ", ".join(f"{key} {value}" for key, value in comparison.environment.items())
    console.print(Text(f"{comparison.protocol}\n{environment}; {comparison.seconds:.1f} s in all.", style="dim"))
    for lint in comparison.lints():
        console.print(Text(f"! {lint}", style="yellow"))


def problem_table(problem: type[Problem], studies: list[Study]) -> Table:
    """Optimizers by steps to the target, then by how many seeds reach it, then by final metric."""
    from rich import box
    from rich.table import Table

    extras = list(dict.fromkeys(name for study in studies for trial in study.evaluations for name in trial.extra))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("optimizer", overflow="fold")  # rather than cut a long import path short
    for heading in ("lr", "steps to\ntarget", f"final\n{problem.metric_name}"):
        table.add_column(heading, justify="right")
    for extra in extras:
        table.add_column(extra.replace("_", "\n", 1), justify="right")
    for heading in ("step\nµs", "update\nµs", "state\nbytes", "bytes/\nparam"):
        table.add_column(heading, justify="right")
    for study in sorted(studies, key=lambda study: (study.hit, -study.hits, study.final)):
        table.add_row(*_row(study, extras))
    return table


def _row(study: Study, extras: list[str]) -> list[str]:
    if not study.evaluations:
        return [study.optimizer, "error"]
    state_bytes = study.evaluations[0].state_bytes
    return [
        study.optimizer,
        f"{study.lr:.2g}",
        _steps(study),
        f"{study.final:.2g}" if study.final < math.inf else "diverged",
        *(DASH if (value := study.extra(extra)) is None else f"{value:.3f}" for extra in extras),
        f"{min(trial.step_us for trial in study.evaluations):.0f}",
        f"{min(trial.optimizer_us for trial in study.evaluations):.0f}",
        f"{state_bytes:,}",
        f"{state_bytes / study.evaluations[0].parameters:.3g}",
    ]


def _steps(study: Study) -> str:
    """The median; with how many seeds hit, unless all or none did."""
    steps = f"{study.hit:g}" if study.hit < MISS else DASH
    seeds = len(study.evaluations)
    return f"{steps} ({study.hits}/{seeds})" if 0 < study.hits < seeds else steps


def _headline(problem: type[Problem]) -> str:
    schedule = "lr linear to 0" if problem.schedule == "linear" else "constant lr"
    return (
        f"{problem.description}\ntarget: {problem.metric_name} ≤ {problem.target}, "
        f"evaluated every {problem.eval_every} of {problem.budget} steps; {schedule}"
    )
