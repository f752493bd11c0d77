"""A schedule in text and as a picture: what a run will really use, before it runs."""

from __future__ import annotations

import html
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .resolved import Resolved

if TYPE_CHECKING:
    import numpy as np

    Values: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

BLOCKS = " ▁▂▃▄▅▆▇█"


def preview(curve: Resolved, width: int = 64, height: int = 6, total: int | None = None) -> str:
    """Numbers and a picture of ``width`` x ``height`` characters; a column is the mean of its steps.

    ``total`` says how many steps to show of a schedule without end.

    >>> from optzoo.schedulers import Schedule
    >>> print(preview(Schedule(start=0).to(1, 100).hold().to(0, 0.2, shape="sqrt").resolve(1000), width=40, height=2))
    total 1000: 0-99 to 1 (linear) | 100-799 hold | 800-999 to 0 (sqrt)
    first 0, last 0.002503, peak 1, mean 0.8167, 1 step at 0
    1 ┤  ▂▆████████████████████████████▄▁
    0 ┤▂▆████████████████████████████████▇▅▄▃▂▁
       0                                    999
    """
    values = curve.array(curve.total or total)
    low, high = min(0.0, float(values.min())), float(values.max())
    columns = _columns(values, width)
    labels = [f"{high:.4g}"] + [""] * (height - 2) + [f"{low:.4g}"] * (height > 1)
    margin = max(map(len, labels))
    rows = []
    for row in range(height):
        bar = "".join(_cell((c - low) / ((high - low) or 1) * height - (height - 1 - row)) for c in columns)
        rows.append(f"{labels[row]:>{margin}} ┤{bar}".rstrip())
    last = str(len(values) - 1)
    axis = f"{'':{margin + 2}}{'0':<{max(len(columns) - len(last), 2)}}{last}"
    return "\n".join([*header(curve, values), *rows, axis])


def header(curve: Resolved, values: Values) -> list[str]:
    """Two lines: the phases with their first and last steps, and the numbers that surprise."""
    phases = []
    for segment in curve.segments:
        if segment.length is None:
            phases.append(f"{segment.begin}- {segment.phase}")
        elif segment.length > 1:
            phases.append(f"{segment.begin}-{segment.begin + segment.length - 1} {segment.phase}")
        elif segment.length == 1 or segment.phase.keyword == "jump":
            phases.append(f"{segment.begin} {segment.phase}")
        else:
            phases.append(f"{segment.begin} {segment.phase}, of no steps")
    zeros = int((values == 0).sum())
    at_zero = f", {zeros} step{'s' * (zeros > 1)} at 0" if zeros else ""
    return [
        f"total {curve.total or 'open'}: " + " | ".join(phases),
        f"first {values[0]:.4g}, last {values[-1]:.4g}, peak {values.max():.4g}, mean {values.mean():.4g}{at_zero}",
    ]


def sparkline(curve: Resolved, width: int = 64, total: int | None = None) -> str:
    """One line of ``width`` characters.

    >>> from optzoo.schedulers import Schedule
    >>> sparkline(Schedule(start=0).to(1, 100).hold().to(0, 0.2).resolve(1000), 40)
    '▁▃▅▇█████████████████████████████▇▆▅▄▃▂▁'
    """
    values = curve.array(curve.total or total)
    low, high = min(0.0, float(values.min())), float(values.max())
    return "".join(_cell((c - low) / ((high - low) or 1)) for c in _columns(values, width))


def table(curve: Resolved, every: int, total: int | None = None) -> str:
    """Step and value, every so many steps, and the last.

    >>> from optzoo.schedulers import Schedule
    >>> print(table(Schedule().to(0, 4).resolve(), every=2))
    0  1
    2  0.5
    3  0.25
    """
    values = curve.array(curve.total or total)
    steps = [*range(0, len(values) - 1, every), len(values) - 1]
    width = len(str(steps[-1]))
    return "\n".join(f"{t:<{width}}  {values[t]:.6g}" for t in steps)


def _columns(values: Values, width: int) -> list[float]:
    """Means of as many equal parts as there is width for."""
    count = min(width, len(values))
    bounds = [len(values) * i // count for i in range(count + 1)]
    return [float(values[a:b].mean()) for a, b in pairwise(bounds)]


def _cell(filled: float) -> str:
    """A character filled to that part from below."""
    return BLOCKS[round(min(max(filled, 0.0), 1.0) * (len(BLOCKS) - 1))]


def save(curve: Resolved, path: str | Path, title: str = "", total: int | None = None) -> None:
    """Draw the schedule into a ``.png`` or ``.svg`` file.

    Raises:
        ValueError: another kind of file; PNG where matplotlib, which draws it, is not installed.
    """
    path = Path(path)
    values = curve.array(curve.total or total)
    if path.suffix == ".svg":
        path.write_text(_svg(values, title or str(curve.schedule)), encoding="utf-8")
    elif path.suffix == ".png":
        _save_png(values, path, title or str(curve.schedule))
    else:
        raise ValueError(f"a picture is .png or .svg, got {path.name!r}")


def _svg(values: Values, title: str, width: int = 640, height: int = 240) -> str:
    left, top, right, bottom = 56, 32, width - 16, height - 28
    low, high = min(0.0, float(values.min())), float(values.max())
    stride = max(1, len(values) // 2000)  # more points than pixels show nothing
    steps = [*range(0, len(values), stride), len(values) - 1]
    across, up = (right - left) / max(len(values) - 1, 1), (bottom - top) / ((high - low) or 1)
    points = " ".join(f"{left + t * across:.1f},{bottom - (values[t] - low) * up:.1f}" for t in steps)
    text = 'font-family="sans-serif" font-size="12" fill="#444"'
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<rect width="100%" height="100%" fill="white"/>
<text x="{left}" y="20" {text}>{html.escape(title)}</text>
<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#888"/>
<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="2"/>
<text x="{left - 6}" y="{top + 4}" text-anchor="end" {text}>{high:.4g}</text>
<text x="{left - 6}" y="{bottom + 4}" text-anchor="end" {text}>{low:.4g}</text>
<text x="{left}" y="{height - 10}" {text}>0</text>
<text x="{right}" y="{height - 10}" text-anchor="end" {text}>{len(values) - 1}</text>
</svg>
"""


def _save_png(values: Values, path: Path, title: str) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            'a PNG needs matplotlib: pip install "optzoo[schedulers]"; an .svg file needs nothing'
        ) from error
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, xlabel="step", ylabel="multiplier")
    axes.plot(values)
    axes.set_ylim(bottom=min(0.0, float(values.min())))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
