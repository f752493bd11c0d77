"""The pages: numbers for the figures as JSON, tables as HTML, and what draws them."""

from __future__ import annotations

import base64
import gzip
import json
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import figures
from ..results import CLOCKS, MISS, ClockName, Comparison, Study, finite
from ..statistics import reference_of, summarize
from ..styles import styles
from ..table import CELLS, cell_text, cell_value, dagger_note, extra_text, extras_of, lrs_text, weights_note
from .verdict import cards, verdict

if TYPE_CHECKING:
    import jinja2

    from ..race import Race

HERE = Path(__file__).parent
CLOCK_NAMES = {"steps": "steps", "cpu": "CPU time", "gradients": "gradient evaluations"}
FRAMES = 60  # of a race


def report_page(comparison: Comparison, live: bool) -> str:
    """The report, as text."""
    from ..race import races_of

    rows = summarize(comparison)
    races = races_of(comparison) if live else []
    raced = {path.optimizer for race in races for path in race.tuned}
    data: dict[str, Any] = {
        "optimizers": _looks(comparison.optimizers),
        "profile": {clock: _profile(comparison, clock) for clock in CLOCKS},
        "curves": {problem.name: _curves(comparison, problem.name) for problem in comparison.problems},
        "rates": {problem.name: _rates(comparison, problem.name) for problem in comparison.problems},
        "costs": {problem.name: figures.costs(comparison, problem.name) for problem in comparison.problems},
        "split": any(comparison.timing.values()),
        "memory": {row.optimizer: row.state_ratio for row in rows},
        "races": {race.problem.name: _race(race) for race in races},
        "trials": _trials(comparison),
    }
    problems = comparison.problems
    trap = [problem for problem in problems if problem.family == "trap" or "trap" in problem.tags]
    return _render(
        "report.html.jinja",
        data,
        comparison=comparison,
        rows=rows,
        scored=bool(rows and rows[0].problems),
        basins=any(row.lr_basin is not None for row in rows),
        defaults=any(row.lr_default is not None for row in rows),
        lrs_text=lrs_text,
        verdict=verdict(rows),
        cards=cards(comparison, rows),
        lints=comparison.lints(),
        heat={by: _heat(comparison, by) for by in CELLS},
        cells=CELLS,
        dagger_note=dagger_note(comparison),
        weights_note=weights_note(comparison),
        clock_names=CLOCK_NAMES,
        reference=reference_of(comparison),
        curves=[problem for problem in problems if data["curves"][problem.name]["lines"]],
        rates=[problem for problem in problems if data["rates"][problem.name]["lines"]],
        full_length=not comparison.protocol.get("stop_at_hit"),
        costs=[problem.name for problem in problems if data["costs"][problem.name]],
        races=races,
        not_raced=[name for name in comparison.optimizers if name not in raced] if live else [],
        card=_card(comparison) if live else None,
        traps=_traps(comparison, [problem.name for problem in trap]),
        trials=len(data["trials"]),
        archive=_archive(comparison),
        looks=data["optimizers"],
    )


def race_page(race: Race) -> str:
    """A race alone, as text."""
    looks = _looks([path.optimizer for path in race.tuned])
    data = {"optimizers": looks, "races": {race.problem.name: _race(race)}}
    return _render("race.html.jinja", data, races=[race], race=race, looks=looks)


def _render(template: str, data: dict[str, Any], **names: Any) -> str:
    from plotly.offline import get_plotlyjs

    compact = json.dumps(_rounded(finite(data)), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return (
        _templates()
        .get_template(template)
        .render(
            **names,
            data=compact.replace("<", "\\u003c"),  # so that no name can end the script element
            style=(HERE / "report.css").read_text(encoding="utf-8"),
            script=(HERE / "charts.js").read_text(encoding="utf-8") + (HERE / "report.js").read_text(encoding="utf-8"),
            plotly=_packed(get_plotlyjs()),
        )
    )


@cache
def _templates() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = _number
    return environment


def _number(value: float | None, form: str = ".3g") -> str:
    """A number to read; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def _rounded(value: Any, digits: int = 5) -> Any:
    """Of nested data, floats to so many digits: more cannot be seen, and they make the file large."""
    if isinstance(value, dict):
        return {key: _rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _looks(optimizers: Any) -> dict[str, Any]:
    return {name: style._asdict() for name, style in styles(list(optimizers)).items()}


def _profile(comparison: Comparison, clock: ClockName) -> dict[str, Any]:
    lines = figures.profiles(comparison, clock)
    return {"lines": lines, "same": figures.coinciding(lines, *figures.PROFILE)}


def _curves(comparison: Comparison, problem: str) -> dict[str, Any]:
    studies = [study for study in comparison.studies if study.problem == problem and study.evaluations]
    curves = {study.optimizer: figures.curve(study) for study in studies}
    lines = {name: curve._asdict() for name, curve in curves.items() if curve.steps}
    goal = figures.target(studies)
    info = comparison.problem(problem)
    for study in studies:
        if study.optimizer in lines:
            lines[study.optimizer]["hit"] = study.hit
    shown = figures.metric_range([curves[name] for name in lines], goal)
    return {
        "lines": lines,
        "same": figures.coinciding_curves({name: curves[name] for name in lines}, shown),
        "target": goal,
        "range": shown._asdict(),
        "metric": info.metric_name,
        "budget": info.budget,
    }


def _rates(comparison: Comparison, problem: str) -> dict[str, Any]:
    lines: dict[str, dict[str, Any]] = {}
    for study in comparison.studies:
        if study.problem == problem and len(rates := figures.rates(study)) > 1:
            columns = {name: [getattr(rate, name) for rate in rates] for name in ("lr", "hit", "final")}
            lines[study.optimizer] = {**columns, "chosen": study.lr, "default": study.default_lr}
    same = {
        rate: figures.coinciding_rates({name: (line["lr"], line[rate]) for name, line in lines.items()})
        for rate in ("hit", "final")
    }
    return {"lines": lines, "same": same}


def _heat(comparison: Comparison, by: Any) -> list[dict[str, Any]]:
    """Rows of cells: text, and how dark (1 the best, 0 at 16 times its time or missed)."""
    rows = []
    for problem in comparison.problems:
        slowdown = figures.slowdown(comparison, problem.name, by) if by != "final" else {}
        cells: list[dict[str, Any]] = []
        values: list[float] = []
        for optimizer in comparison.optimizers:
            study = comparison.study(problem.name, optimizer)
            ratio = slowdown.get(optimizer, MISS)
            shade = None if ratio == MISS else max(0.0, 1 - math.log2(ratio) / 4)
            values.append(cell_value(comparison, study, by) if study else MISS)
            cells.append(
                {
                    "text": cell_text(comparison, study, by),
                    "shade": shade,
                    "why": _why(study),
                    "best": shade is not None and ratio == 1,
                }
            )
        if by == "final":
            least = min(values)
            for cell, value in zip(cells, values, strict=True):
                cell["best"] = value == least < MISS
        rows.append({"problem": problem, "label": problem.name, "cells": cells})
        for extra in extras_of(comparison, problem.name) if by == "final" else ():
            studies = [comparison.study(problem.name, optimizer) for optimizer in comparison.optimizers]
            shown = [
                {"text": extra_text(study, extra), "shade": None, "why": _why(study), "best": False}
                for study in studies
            ]
            rows.append({"problem": problem, "label": f"{problem.name}: {extra}", "cells": shown})
    return rows


def _why(study: Study | None) -> str:
    """What the pointer is told of a cell."""
    if study is None:
        return "not run"
    if study.failure:
        return study.failure
    reasons = dict.fromkeys(trial.miss_reason for trial in study.evaluations if trial.miss_reason)
    lr = "own lr" if math.isnan(study.lr) else f"lr {study.lr:.2g}"
    return "; ".join([f"{lr}, {study.hits} of {len(study.evaluations)} seeds", *map(str, reasons)])


def _race(race: Race) -> dict[str, Any]:
    x, y, z = race.contours()
    frames = [round(race.steps * (k / FRAMES) ** 1.7) for k in range(FRAMES + 1)]  # most happens early
    stride = max(1, race.steps // 300)
    document: dict[str, Any] = {
        "x": x.tolist(), "y": y.tolist(), "z": z.tolist(), "log": race.picture.log_contours,
        "minima": [list(point) for point in race.picture.minima], "steps": race.steps, "stride": stride,
        "frames": frames,
    }  # fmt: skip
    document["same"] = {}
    for variant in ("tuned", "default"):
        document[variant] = {
            path.optimizer: {
                "x": path.points[::stride, 0].tolist(),
                "y": path.points[::stride, 1].tolist(),
                "lr": path.lr,
                "hit": path.hit,
            }
            for path in race.paths(variant)
        }
        document["same"][variant] = race.coinciding(variant)
    return document


def _card(comparison: Comparison) -> dict[str, Any] | None:
    """The invariance card of the optimizers that are here what they were in the comparison."""
    from ..invariances import TRANSFORMATIONS, invariances
    from ..race import same_candidates

    sources = {item.source: item.name for item in same_candidates(comparison) if isinstance(item.source, str)}
    if not sources:
        return None
    answers: dict[str, dict[str, Any]] = {}
    for cell in invariances(sources):
        answers.setdefault(sources[cell.optimizer], {})[cell.transformation] = cell
    return {"columns": TRANSFORMATIONS, "rows": answers}


def _traps(comparison: Comparison, names: list[str]) -> list[dict[str, Any]]:
    traps = []
    for name in names:
        studies = [comparison.study(name, optimizer) for optimizer in comparison.optimizers]
        traps.append({"problem": comparison.problem(name), "studies": studies})
    return traps


def _trials(comparison: Comparison) -> list[list[Any]]:
    """Every run, in the order of the table's columns."""
    rows = []
    for study in comparison.studies:
        for trial in study.trials:
            others = {key: value for key, value in trial.hyperparameters.items() if key != "lr"}
            step_us = trial.clock.step_us if trial.clock else math.nan
            reason = trial.miss_reason or ("lost by the end" if trial.lost else "")
            rule = f"† {study.vector_rule}" if study.vector_rule else ""
            note = ", ".join([*(f"{key} {value}" for key, value in others.items()), *filter(None, (reason, rule))])
            rows.append(
                [
                    study.problem,
                    study.optimizer,
                    trial.stage,
                    trial.lr,
                    trial.seed,
                    trial.hit,
                    trial.final,
                    step_us,
                    note,
                ]
            )
    return rows


def _archive(comparison: Comparison) -> str:
    """All results as JSON, for the download button."""
    document = comparison.document()
    for trial in (trial for study in document["studies"] for trial in study["trials"]):
        del trial["updates"]  # no figure here shows them, and they would be half of the numbers
    return _packed(json.dumps(_rounded(document, digits=6), separators=(",", ":"), allow_nan=False))


def _packed(text: str) -> str:
    """Compressed, as letters: what `unpack` in the page undoes. Of plotly.js 1.9 MB are left of 4.8."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")
