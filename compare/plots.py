"""The figures of a report one by one, drawn with matplotlib for a README or a paper, and a race as a GIF."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import figures
from .errors import UsageError, require
from .results import MISS, Comparison
from .styles import MATPLOTLIB_DASHES, Style, styles, turn

if TYPE_CHECKING:
    from .race import Race

SUFFIXES = (".svg", ".png")
WIDTH, HEIGHT = 3.6, 2.7  # inches of one panel
COLUMNS = 3
FRAMES, FRAMES_PER_SECOND = 60, 15
LOOK: dict[Any, Any] = {
    "font.size": 8,
    "figure.dpi": 160,
    "svg.hashsalt": "optzoo",  # the same bytes every time
    "axes.spines.top": False,
    "axes.spines.right": False,
}
SURFACE = {"cmap": "Greys", "alpha": 0.28}
LEGEND_ENTRY = 1.1  # inches
DASH = 4  # of lines that take turns, in line widths


class NothingToDrawError(UsageError):
    """No run of the comparison has what the figure shows."""


def command(folder: Path, figure: str, output: Path | None) -> int:
    """`optzoo compare plot`."""
    require("matplotlib", "matplotlib")
    from .store import load

    output = output or folder / f"{figure}.svg"
    write_plot(load(folder), figure, output)
    print(f"written: {output}")
    return 0


def write_plot(comparison: Comparison, figure: str, path: str | Path) -> None:
    """Draw one figure of a comparison.

    Args:
        comparison: What to draw.
        figure: "trajectories", "curves", "lr", "profile" or "cost".
        path: A file that ends in .svg or .png; its folder must be there.

    Raises:
        UsageError: another name or ending, no such folder, or nothing to draw.
    """
    path = Path(path)
    if figure not in FIGURES:
        raise UsageError(f"there is no figure {figure!r}; there are {', '.join(FIGURES)}")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"a figure is written as {' or '.join(SUFFIXES)}, not {path.name!r}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {str(path.parent)!r}")
    require("matplotlib", "matplotlib")
    from matplotlib import rc_context

    with rc_context(LOOK):
        drawn = FIGURES[figure](comparison)
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        drawn.savefig(path, bbox_inches="tight", metadata=metadata)


def write_gif(race: Race, path: str | Path) -> None:
    """Draw a race as an animation, most frames early, where most happens."""
    require("matplotlib", "matplotlib")
    require("PIL", "pillow")
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure, (axes,) = _panels(1, scale=1.5)
    _contours(axes, race)
    looks = styles([run.optimizer for run in race.tuned])
    handles: dict[str, Any] = {}
    lines = _lines(axes, _paths(race), race.coinciding("tuned"), looks, handles)
    _legend(figure, handles)
    title = axes.set_title("")

    def draw(frame: int) -> list[Any]:
        step = round(race.steps * (frame / FRAMES) ** 1.7)
        for run in race.tuned:
            lines[run.optimizer].set_data(run.points[: step + 1, 0], run.points[: step + 1, 1])
        title.set_text(f"{race.problem.name}, step {step}")
        return [*lines.values(), title]

    FuncAnimation(figure, draw, frames=FRAMES + 1).save(path, writer=PillowWriter(fps=FRAMES_PER_SECOND), dpi=100)


# Figures


def _curves(comparison: Comparison) -> Any:
    """Median of the evaluation seeds, band from least to greatest, × where a run ended; the target is dashed."""
    looks = styles(comparison.optimizers)
    handles: dict[str, Any] = {}
    problems = [p for p in comparison.problems if any(s.evaluations for s in _studies(comparison, p.name))]
    figure, panels = _panels(len(problems))
    alpha = min(0.14, 0.7 / len(comparison.optimizers))  # many bands over each other hide the lines
    for axes, problem in zip(panels, problems, strict=True):
        studies = [study for study in _studies(comparison, problem.name) if study.evaluations]
        curves = {study.optimizer: figures.curve(study) for study in studies}
        goal = figures.target(studies)
        shown = figures.metric_range(list(curves.values()), goal)
        same = figures.coinciding_curves(curves, shown)
        _lines(axes, {name: (c.steps, _gaps(c.median)) for name, c in curves.items()}, same, looks, handles)
        for name, curve in curves.items():
            color = looks[name].light
            axes.fill_between(curve.steps, _gaps(curve.low), _gaps(curve.high), color=color, alpha=alpha, lw=0)
            if curve.ends:
                axes.plot(*zip(*curve.ends, strict=True), "x", ms=5, color=color)
        if math.isfinite(goal):
            axes.axhline(goal, color="black", lw=0.8, ls="--")
        axes.set(title=problem.name, xlabel="step", ylabel=problem.metric_name, ylim=(shown.low, shown.high))
        axes.set_yscale("log" if shown.log else "linear")
        if shown.log and shown.high < 30 * shown.low:
            _plain_ticks(axes)
    return _legend(figure, handles)


def _rates(comparison: Comparison) -> Any:
    """Steps to the target over the learning rate; ● is the one chosen, ○ the default, at the top what misses."""
    looks = styles(comparison.optimizers)
    handles: dict[str, Any] = {}
    found = {
        problem.name: [(study, figures.rates(study)) for study in _studies(comparison, problem.name)]
        for problem in comparison.problems
    }
    problems = [problem for problem in comparison.problems if any(rates for _, rates in found[problem.name])]
    figure, panels = _panels(len(problems))
    for axes, problem in zip(panels, problems, strict=True):
        hits = [rate.hit for _, rates in found[problem.name] for rate in rates if rate.hit < MISS]
        low, high = (min(hits), max(hits)) if hits else (problem.eval_every, problem.budget)
        top = high * max((high / low) ** 0.14, 1.1)  # where misses are drawn: above all numbers, a miss is none
        valleys = {
            study.optimizer: ([rate.lr for rate in rates], _valley([rate.hit for rate in rates], top))
            for study, rates in found[problem.name]
        }
        _lines(axes, valleys, figures.coinciding_rates(valleys), looks, handles, marker=".", ms=3)
        for study, rates in found[problem.name]:
            for lr, fill in ((study.default_lr, "white"), (study.lr, looks[study.optimizer].light)):
                for rate in rates:
                    if math.isclose(rate.lr, lr, rel_tol=1e-3):
                        mark = {"marker": "o", "ms": 5, "mfc": fill, "mec": looks[study.optimizer].light}
                        axes.plot(lr, min(rate.hit, top), **mark, zorder=3, clip_on=False)
        axes.set(title=problem.name, xlabel="learning rate", ylabel="steps to the target", xscale="log", yscale="log")
        axes.set_ylim(low / (top / low) ** 0.06, top)
        _plain_ticks(axes)
        axes.axhline(top, color="0.85", lw=0.8, zorder=0)
        axes.text(1.01, top, "miss", transform=axes.get_yaxis_transform(), va="center", color="0.4", fontsize=7)
        for name, fill in (("chosen", "0.4"), ("default", "white")):
            (handles[name],) = axes.plot([], [], "o", ms=5, mec="0.4", mfc=fill)
    return _legend(figure, handles)


def _valley(hits: Sequence[float], top: float) -> list[float]:
    """A line that rises to the top where the next learning rate misses, and is not drawn between misses."""
    known = [hit < MISS for hit in hits]
    beside = [any(known[max(index - 1, 0) : index + 2]) for index in range(len(hits))]
    return [min(hit, top) if here else math.nan for hit, here in zip(hits, beside, strict=True)]


def _profile(comparison: Comparison) -> Any:
    """The share of problems solved within τ times the best optimizer's steps."""
    looks = styles(comparison.optimizers)
    handles: dict[str, Any] = {}
    lines = figures.profiles(comparison)
    figure, panels = _panels(1 if lines else 0, scale=1.6)
    for axes in panels:
        _lines(axes, lines, figures.coinciding(lines, *figures.PROFILE), looks, handles, drawstyle="steps-post")
        axes.axvspan(1, 4, color="black", alpha=0.05, lw=0)
        axes.set(xscale="log", xlim=(1, figures.LARGEST_RATIO), ylim=(0, 1.02), ylabel="share of problems solved")
        axes.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axes.set_xlabel("τ, times the fewest steps; up to 4 counts for the score")
        axes.minorticks_off()
    return _legend(figure, handles)


def _cost(comparison: Comparison) -> Any:
    """CPU time of a step, by what takes it."""
    costs = {problem.name: figures.costs(comparison, problem.name) for problem in comparison.problems}
    names = [name for name, parts in costs.items() if parts]
    figure, panels = _panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        rows = sorted(costs[name].items(), key=lambda item: -sum(item[1]))
        left = [0.0] * len(rows)
        for index, (part, color) in enumerate((("forward", "0.75"), ("backward", "0.55"), ("update", "#0072b2"))):
            widths = [parts[index] for _, parts in rows]
            axes.barh([optimizer for optimizer, _ in rows], widths, left=left, color=color, label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set(title=name, xlabel="CPU time of a step, µs")
    handles, labels = panels[0].get_legend_handles_labels() if names else ((), ())
    return _legend(figure, dict(zip(labels, handles, strict=True)))


def _trajectories(comparison: Comparison) -> Any:
    """The points visited on functions of two variables, at the tuned learning rates."""
    from .race import races_of

    looks = styles(comparison.optimizers)
    handles: dict[str, Any] = {}
    races = races_of(comparison)
    figure, panels = _panels(len(races), scale=1.5)
    for axes, race in zip(panels, races, strict=True):
        _contours(axes, race)
        same = race.coinciding("tuned")
        _lines(axes, _paths(race), same, looks, handles)
        for run in race.tuned:
            index, count = turn(run.optimizer, same)
            size = 5 + 3 * (count - 1 - index)  # rings where ends coincide
            axes.plot(*run.points[-1], "o", ms=size, color=looks[run.optimizer].light, mec="white", zorder=3)
        axes.set_title(f"{race.problem.name}, {race.steps} steps")
    return _legend(figure, handles)


FIGURES: dict[str, Callable[[Comparison], Any]] = {
    "trajectories": _trajectories,
    "curves": _curves,
    "lr": _rates,
    "profile": _profile,
    "cost": _cost,
}


# Parts


def _panels(count: int, scale: float = 1.0) -> tuple[Any, Sequence[Any]]:
    """A figure with so many axes, on a canvas that needs no screen."""
    if not count:
        raise NothingToDrawError("there is nothing to draw: no run of this comparison has what the figure shows")
    from matplotlib.figure import Figure

    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(scale * WIDTH * columns, scale * HEIGHT * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in panels[count:]:
        unused.set_visible(False)
    return figure, list(panels[:count])


def _legend(figure: Any, handles: dict[str, Any]) -> Any:
    """One for all panels."""
    columns = int(figure.get_figwidth() / LEGEND_ENTRY)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _plain_ticks(axes: Any) -> None:
    """Of a logarithmic axis of a decade or so: 1, 2, 5 and their multiples, as numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _contours(axes: Any, race: Race) -> None:
    x, y, values = race.contours()
    axes.contourf(x, y, values, 16, **SURFACE)
    for point in race.picture.minima:
        axes.plot(*point, "*", color="black", ms=7)
    axes.set(xlabel="x", ylabel="y", xlim=race.picture.x, ylim=race.picture.y)


def _paths(race: Race) -> dict[str, Any]:
    return {run.optimizer: run.points.T for run in race.tuned}


def _lines(
    axes: Any,
    lines: Mapping[str, Any],
    same: Mapping[str, str],
    looks: Mapping[str, Style],
    handles: Any,
    **options: Any,
) -> dict[str, Any]:
    """Draw lines by name and put them into the legend's handles; those that coincide take turns, dash by dash."""
    from matplotlib.lines import Line2D

    drawn = {}
    for name, line in lines.items():
        look = {"color": looks[name].light, "lw": 1.1, **options}
        dash = MATPLOTLIB_DASHES[looks[name].dash]
        index, count = turn(name, same)
        (drawn[name],) = axes.plot(*line, ls=(-index * DASH, (DASH, (count - 1) * DASH)) if count > 1 else dash, **look)
        handles[name] = Line2D([], [], ls=dash, **look)
    return drawn


def _gaps(values: Sequence[float]) -> list[float]:
    """What matplotlib leaves out is nan."""
    return [value if math.isfinite(value) else math.nan for value in values]


def _studies(comparison: Comparison, problem: str) -> Iterator[Any]:
    return (study for study in comparison.studies if study.problem == problem)
