"""A schedule at its total: the function that a run evaluates."""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .lengths import whole_number
from .phases import Phase
from .shapes import Curve

if TYPE_CHECKING:
    import numpy as np

    from .schedule import Schedule


class Segment(NamedTuple):
    """A phase at its place in a run: it begins at a step and has a length (None: without end)."""

    begin: int
    length: int | None
    curve: Curve
    phase: Phase


class Resolved:
    """A schedule at its total: a pure function of the step t = 0, 1, ..., the index of the step about to be taken.

    ``t`` may be fractional. ``total`` is the number of steps, None without end; from there on ``schedule.after`` rules.
    """

    def __init__(self, schedule: Schedule, segments: list[Segment], total: int | None) -> None:
        self.schedule, self.segments, self.total = schedule, segments, total
        self._begins = [segment.begin for segment in segments]

    def __call__(self, t: float) -> float:
        if not t >= 0:
            raise ValueError(f"a step must be >= 0, got {t!r}")
        if self.total is not None and t >= self.total:
            if self.schedule.after == "raise" and t > self.total:  # the last step() of a loop asks for t = total
                raise ValueError(
                    f"the schedule ended after {self.total} steps, step {t} was asked for; give it a larger total, or "
                    "after='hold'"
                )
            t = t % self.total if self.schedule.after == "repeat" else self.total
        segment = self.segments[bisect_right(self._begins, t) - 1]
        try:
            return segment.curve(t - segment.begin)
        except OverflowError as error:
            raise ValueError(f"'{segment.phase}' is out of range: no float holds its value at step {t:g}") from error

    def array(self, total: int | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The values of steps 0, 1, ..., as many as ``total`` says; default its own."""
        import numpy as np

        total = self.total if total is None else whole_number(total)
        if total is None:
            raise ValueError("the schedule has no end; say how many values, array(total)")
        return np.fromiter(map(self, range(total)), np.float64, total)

    def __repr__(self) -> str:
        return f"{self.schedule!r}.resolve({self.total or ''})"

    # Pictures. ``total`` says how many steps to show of a schedule without end

    def preview(self, width: int = 64, height: int = 6, total: int | None = None) -> str:
        """The phases with their steps, what the first and the last step use, and the shape in text."""
        from .preview import preview

        return preview(self, width, height, total)

    def sparkline(self, width: int = 64, total: int | None = None) -> str:
        """The shape in a line of text."""
        from .preview import sparkline

        return sparkline(self, width, total)

    def table(self, every: int, total: int | None = None) -> str:
        """Steps and values in text, every so many steps and the last."""
        from .preview import table

        return table(self, every, total)

    def save(self, path: str | Path, title: str = "", total: int | None = None) -> None:
        """Draw a picture, .svg or .png; the latter needs matplotlib."""
        from .preview import save

        save(self, path, title, total)


def shared_prefix(a: Schedule | Resolved, b: Schedule | Resolved) -> int:
    """How many first steps two schedules have in common: checkpoints up to there serve both.

    Give them resolved, or with lengths in steps alone.
    """
    f, g = (s if isinstance(s, Resolved) else s.resolve() for s in (a, b))
    lengths = [total for total in map(attrgetter("total"), (f, g)) if total is not None]
    if not lengths:
        raise ValueError("neither schedule has an end; resolve one against a total")
    steps = min(lengths)
    return next((t for t in range(steps) if f(t) != g(t)), steps)
