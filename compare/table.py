"""Tables for the terminal. They need rich, of the extra `optzoo[compare]`, when they are printed."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TextIO

from .encoding import encodable
from .errors import require
from .results import MISS, ClockName, Comparison, ProblemInfo, Study
from .statistics import Row, reference_of, summarize

if TYPE_CHECKING:
    from rich.table import Column, Table

WIDTH_OF_A_FILE = 130  # columns, where there is no terminal to ask
DASH, DAGGER = "–", "†"
By = ClockName | Literal["final"]
CELLS: dict[str, str] = {
    "steps": "Steps to the target",
    "cpu": "CPU-seconds to the target",
    "gradients": "Gradient evaluations to the target",
    "final": "Metric at the end",
}


def print_tables(comparison: Comparison, file: TextIO | None = None, by: By = "steps") -> None:
    """Print the summary, problems by optimizers, how it was done, on what, and the lints."""
    file = file or sys.stdout
    with encodable(file):
        _print_tables(comparison, file, by)


def _print_tables(comparison: Comparison, file: TextIO, by: By) -> None:
    require("rich", "rich")
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_A_FILE
    rows = summarize(comparison)
    tables = [summary_table(comparison, rows)] if rows and rows[0].problems else []
    for table in (*tables, cell_table(comparison, comparison.optimizers, by)):
        for part in _parts(table, console.width):
            console.print(part)
    legend = "Median over the evaluation seeds; (2/3): seeds that reach it; *: hit, then lost by the end."
    console.print(Text(f"{CELLS[by]}. {legend}", style="dim"))
    for footnote in (dagger_note(comparison), weights_note(comparison)):
        if footnote:
            console.print(Text(footnote, style="dim"))
    shown = ("optzoo", "torch", "numpy", "python", "machine", "processor", "cores")
    known = comparison.environment
    environment = ", ".join(f"{key} {known[key]}" for key in shown if key in known)
    console.print(
        Text(f"{comparison.protocol.get('description', '')}\n{environment}; {_wall(comparison)}", style="dim")
    )
    for lint in comparison.lints():
        console.print(Text(f"! {lint}", style="yellow"))


def summary_table(comparison: Comparison, rows: Sequence[Row]) -> Table:
    """One row per optimizer, best score first."""
    table = _table()
    table.add_column("optimizer", overflow="fold")  # rather than cut a long import path short
    columns = {  # heading: cells
        "score by\nsteps [95 %]": [f"{row.score:.3f} [{row.low:.2f}, {row.high:.2f}]" for row in rows],
        "lr": [lrs_text(row) for row in rows],
        "rank": [f"{row.best_rank}–{row.worst_rank}".removesuffix(f"–{row.best_rank}") for row in rows],
        "score\nby CPU": [f"{row.score_cpu:.3f}" for row in rows],
        "solved": [f"{row.solved}/{row.problems}" for row in rows],
        "wins": [f"{row.wins}" for row in rows],
        f"speed-up\nvs {reference_of(comparison)}": [_speedup(row) for row in rows],
        "lr basin\ndecades": [DASH if row.lr_basin is None else f"{row.lr_basin:.1f}" for row in rows],
        "update\nµs": [DASH if math.isnan(row.optimizer_us) else f"{row.optimizer_us:.0f}" for row in rows],
        "state /\nparams": [f"{row.state_ratio:.1f}×" for row in rows],
    }
    told = {heading: cells for heading, cells in columns.items() if any(cell != DASH for cell in cells)}
    for heading in told:
        table.add_column(heading, justify="right")
    for row, cells in zip(rows, zip(*told.values(), strict=True), strict=True):
        table.add_row(row.optimizer, *cells)
    return table


def lrs_text(row: Row) -> str:
    """The learning rates that won, from the least to the greatest over the problems."""
    if row.lrs is None:
        return DASH
    low, high = (f"{lr:.1g}" for lr in row.lrs)
    return low if low == high else f"{low}–{high}"


def _speedup(row: Row) -> str:
    return f"{row.speedup.factor:.2f}× ({row.speedup.problems})" if row.speedup and row.speedup.problems else DASH


def cell_table(comparison: Comparison, optimizers: Sequence[str], by: By = "steps") -> Table:
    """Problems by optimizers; the best of each row is bold."""
    from rich.text import Text

    table = _table()
    table.add_column("problem")
    for optimizer in optimizers:
        table.add_column(optimizer, justify="right", overflow="fold")
    for problem in comparison.problems:
        everybody = [study for study in comparison.studies if study.problem == problem.name]
        best = min((cell_value(comparison, study, by) for study in everybody), default=MISS)
        cells = []
        for optimizer in optimizers:
            study = comparison.study(problem.name, optimizer)
            won = study is not None and cell_value(comparison, study, by) == best < MISS
            cells.append(Text(cell_text(comparison, study, by), style="bold" if won else ""))
        table.add_row(_problem_name(problem), *cells)
        lrs = [comparison.study(problem.name, optimizer) for optimizer in optimizers]
        table.add_row("  lr", *(Text(lr_text(study), style="dim") for study in lrs))
        for extra in extras_of(comparison, problem.name) if by == "final" else ():
            studies = [comparison.study(problem.name, optimizer) for optimizer in optimizers]
            table.add_row(f"  {extra}", *(extra_text(study, extra) for study in studies))
    return table


def extras_of(comparison: Comparison, problem: str) -> list[str]:
    """What a problem measures beside its metric."""
    studies = [study for study in comparison.studies if study.problem == problem]
    return sorted({name for study in studies for trial in study.evaluations for name in trial.extra})


def extra_text(study: Study | None, name: str) -> str:
    value = study.extra(name) if study else None
    return "" if value is None else f"{value:.3g}"


def lr_text(study: Study | None) -> str:
    return "" if study is None or math.isnan(study.lr) else f"{study.lr:.2g}"


def _problem_name(problem: ProblemInfo) -> str:
    return problem.name if problem.scored else f"({problem.name})"


def cell_value(comparison: Comparison, study: Study, by: By) -> float:
    value = study.final if by == "final" else comparison.time_to_target(study, by)
    return MISS if math.isnan(value) else value


def cell_text(comparison: Comparison, study: Study | None, by: By) -> str:
    if study is None:
        return ""
    if study.failure or all(trial.failure for trial in study.evaluations):
        return "failed"
    value = cell_value(comparison, study, by)
    dagger = DAGGER if study.vector_rule else ""
    if by == "final":
        return (f"{value:.2g}" if value < MISS else "diverged") + dagger
    text = f"{value:.4g}" if value < MISS else DASH
    seeds = len(study.evaluations)
    lost = "*" if any(trial.lost for trial in study.evaluations) else ""
    some = f" ({study.hits}/{seeds})" if 0 < study.hits < seeds else ""
    return text + lost + dagger + some


def dagger_note(comparison: Comparison) -> str | None:
    """What the dagger in a cell means, if there is one."""
    rules = {study.optimizer: study.vector_rule for study in comparison.studies if study.vector_rule}
    if not rules:
        return None
    listed = ", ".join(f"{name} ({rule})" for name, rule in rules.items())
    what = "no parameter of the problem is a matrix; the optimizer, which is for matrices, runs its rule for vectors"
    return f"{DAGGER}: {what}: {listed}."


def weights_note(comparison: Comparison) -> str | None:
    """Whose weights are judged elsewhere than at the last step, and who is spared the schedule of lr."""
    judged = {study.optimizer: study.evaluate_on for study in comparison.studies if study.evaluate_on}
    own = dict.fromkeys(study.optimizer for study in comparison.studies if study.own_schedule)
    notes = [f"{name} on its {where.replace('_', ' ')}" for name, where in judged.items()]
    said = [
        f"Judged as its paper does: {', '.join(notes)}; the others on the weights of the last step." if notes else "",
        f"Without the problem's schedule of lr, having its own: {', '.join(own)}." if own else "",
    ]
    return " ".join(filter(None, said)) or None


def _parts(table: Table, width: int) -> list[Table]:
    """A table as several that are no wider than that, each with the first column: no line of them has to be broken."""
    first, *others = table.columns
    left = min(_width(first), width - 4 - max(map(_width, others), default=0))
    parts: list[list[Column]] = []
    room = 0
    for column in others:
        if not parts or _width(column) + 2 > room:
            parts.append([first])
            room = width - 2 - left
        parts[-1].append(column)
        room -= _width(column) + 2
    return [_of_columns(part) for part in parts]


def _of_columns(columns: Sequence[Column]) -> Table:
    table = _table()
    for column in columns:
        table.add_column(column.header, justify=column.justify, overflow=column.overflow)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def _width(column: Column) -> int:
    from rich.cells import cell_len

    texts = [str(cell) for cell in (column.header, *column.cells)]
    return max((cell_len(line) for text in texts for line in text.splitlines()), default=0)


def _table() -> Table:
    from rich.box import SIMPLE_HEAD, Box
    from rich.table import Table

    head = Box(str(SIMPLE_HEAD), ascii=True)  # else rich frames all cells, wider, where the encoding lacks its line
    return Table(box=head, pad_edge=False, collapse_padding=True)


def _wall(comparison: Comparison) -> str:
    return f"{comparison.seconds:.1f} s in all."
