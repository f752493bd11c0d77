"""Phases that hold schedules: products, clipped ones, the head of one, repeats.

They begin where what they hold begins, so after another phase a jump must lead there.
"""

from __future__ import annotations

import difflib
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .lengths import Run, Steps, half_up, parse_steps
from .phases import Decay, Exp, Hold, Jump, Phase, Table, To, finite, positive, rescaled_steps, write
from .shapes import Curve, choice

if TYPE_CHECKING:
    from .schedule import Schedule


def _check_begin(phase: Phase, v0: float | None, first: float) -> None:
    if v0 is not None and not math.isclose(v0, first, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(
            f"{phase} begins at {first:g}, the phase before it ends at {v0:g}; put jump({first:g}) between"
        )


@dataclass(frozen=True)
class Product(Phase):
    """The product of schedules, each resolved against the length of this phase."""

    keyword, begins_itself = "product", True
    factors: tuple[Schedule, ...]
    steps: Steps = "rest"

    def __post_init__(self) -> None:
        write(self, factors=tuple(map(_schedule, self.factors)), steps=parse_steps(self.steps))
        if not self.factors:
            raise ValueError("a product needs one schedule or more")

    @property
    def parts(self) -> tuple[Schedule, ...]:
        return self.factors

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        curves = tuple(factor.resolve_in(replace(run, total=n)) for factor in self.factors)
        product = partial(_product, curves)
        _check_begin(self, v0, product(0))
        return product

    def rescaled(self, kappa: float) -> Phase:
        return replace(super().rescaled(kappa), factors=tuple(f.rescale(kappa) for f in self.factors))  # type: ignore[call-arg]

    def __str__(self) -> str:
        return " times ".join(f"[{factor}]" for factor in self.factors)


def _product(curves: tuple[Curve, ...], s: float) -> float:
    return math.prod(curve(s) for curve in curves)


@dataclass(frozen=True)
class Clip(Phase):
    """A schedule, resolved against the length of this phase, no lower than ``low`` and no higher than ``high``."""

    keyword, begins_itself = "clip", True
    schedule: Schedule
    low: float | None = None
    high: float | None = None
    steps: Steps = "rest"

    def __post_init__(self) -> None:
        bounds = {name: finite(name, v) for name, v in (("low", self.low), ("high", self.high)) if v is not None}
        write(self, schedule=_schedule(self.schedule), steps=parse_steps(self.steps), **bounds)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"clip needs low <= high, got low={self.low:g} and high={self.high:g}")

    @property
    def parts(self) -> tuple[Schedule, ...]:
        return (self.schedule,)

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        clipped = partial(_clipped, self.schedule.resolve_in(replace(run, total=n)), low, high)
        _check_begin(self, v0, clipped(0))
        return clipped

    def rescaled(self, kappa: float) -> Phase:
        return replace(super().rescaled(kappa), schedule=self.schedule.rescale(kappa))  # type: ignore[call-arg]

    def __str__(self) -> str:
        return f"[{self.schedule}] clipped"


def _clipped(curve: Curve, low: float, high: float, s: float) -> float:
    return min(max(curve(s), low), high)


@dataclass(frozen=True)
class Head(Phase):
    """The first ``steps`` steps of a schedule, which is resolved against ``total``: by default the run's."""

    keyword, begins_itself = "head", True
    schedule: Schedule
    steps: Steps
    total: int | None = None

    def __post_init__(self) -> None:
        write(self, schedule=_schedule(self.schedule), steps=parse_steps(self.steps))

    @property
    def parts(self) -> tuple[Schedule, ...]:
        return (self.schedule,)

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        total = self.total or (None if self.schedule.is_fixed else run.total)
        curve = self.schedule.resolve_in(replace(run, total=total))
        if n is None or (curve.total is not None and n > curve.total):
            raise ValueError(
                f"the first {n} steps are asked of a schedule that has {curve.total}: take fewer, or extend it"
            )
        _check_begin(self, v0, curve(0))
        return curve

    def rescaled(self, kappa: float) -> Phase:
        total = None if self.total is None else rescaled_steps(self.total, kappa)
        return replace(super().rescaled(kappa), schedule=self.schedule.rescale(kappa), total=total)  # type: ignore[call-arg]

    def __str__(self) -> str:
        return f"as [{self.schedule}]"


@dataclass(frozen=True)
class Repeat(Phase):
    """A block of phases again and again, in repeat i (0, 1, ...) stretch^i times as long and scale^i times as high.

    ``times`` repeats, or with None as many as fit into ``steps``.
    """

    keyword = "repeat"
    block: Schedule
    times: int | None = None
    stretch: float = 1.0
    scale: float = 1.0
    steps: Steps = "rest"

    def __post_init__(self) -> None:
        write(self, block=_block(self.block), steps=parse_steps(self.steps))
        write(self, stretch=positive("stretch", self.stretch), scale=positive("scale", self.scale))
        if not self.block.phases:
            raise ValueError("repeat of an empty block: give it phases, such as Schedule.tail().jump(1).to(0, 100)")
        if self.times is not None and (
            not isinstance(self.times, int) or isinstance(self.times, bool) or self.times < 1
        ):
            raise ValueError(f"times must be an int >= 1, or None for as many as fit, got {self.times!r}")
        if self.times is not None and self.steps != "rest":
            raise ValueError(f"repeat takes times ({self.times}) or steps ({self.steps}), not both")

    @property
    def parts(self) -> tuple[Schedule, ...]:
        return (self.block,)

    def length(self, run: Run) -> Fraction | None:
        if self.times is None:
            return super().length(run)
        return Fraction(sum(sum(self.lengths(i, run)) for i in range(self.times)))

    def lengths(self, i: int, run: Run) -> list[int]:
        """Of the phases of the block in repeat i."""
        exact = [phase.length(run) for phase in self.block.phases]
        if None in exact:
            raise ValueError("a phase of a repeated block takes the rest, which has no end there; give it a length")
        stretch = Fraction(repr(self.stretch)) ** i
        lengths = [half_up(length * stretch) for length in exact if length is not None]
        if sum(lengths) < 1:
            raise ValueError(
                f"repeat {i + 1} of a block has no steps (stretch {self.stretch:g}): make the block longer"
            )
        return lengths

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        return Repeated(self, v0, begin, n, run)

    def rescaled(self, kappa: float) -> Phase:
        return replace(super().rescaled(kappa), block=self.block.rescale(kappa))  # type: ignore[call-arg]

    def __str__(self) -> str:
        again = "" if self.times is None else f" {self.times} times"
        return f"repeat{again} [{self.block}]"


class Repeated:
    """The values of a Repeat. Blocks are laid out as far as they are asked for, by adding lengths: no logarithms."""

    def __init__(self, phase: Repeat, v0: float, begin: int, n: int | None, run: Run) -> None:
        self._phase, self._begin, self._n, self._run = phase, begin, n, run
        self._pieces: list[tuple[int, float, Curve]] = []  # begin and scale of each, in order
        self._blocks = self._reach = 0
        self._end: Any = v0
        self._lay_out()  # what is wrong with a block shows here, not in the middle of a run

    def _lay_out(self) -> None:
        phase = self._phase
        scale, block = phase.scale**self._blocks, phase.block
        value: Any = block.start if block.start is not None or self._end is None else self._end / scale
        for part, n in zip(block.phases, phase.lengths(self._blocks, self._run), strict=True):
            curve = part.bind(value, self._begin + self._reach, n, self._run)
            value = curve(n)
            self._pieces.append((self._reach, scale, curve))
            self._reach += n
        self._blocks, self._end = self._blocks + 1, scale * value

    def __call__(self, s: float) -> float:
        if self._n is not None and s >= self._n:
            s = self._n
            while self._reach < s:
                self._lay_out()
            if self._reach == s:  # it ends with its block, not where the next one would begin
                return float(self._end)
        while s >= self._reach:
            self._lay_out()
        begin, scale, curve = self._pieces[bisect_right(self._pieces, s, key=itemgetter(0)) - 1]
        return float(scale * curve(s - begin))


def _schedule(given: Any) -> Schedule:
    from .schedule import Schedule

    return given if isinstance(given, Schedule) else Schedule.from_list(given)


def _block(given: Any) -> Schedule:
    from .schedule import Schedule

    return given if isinstance(given, Schedule) else Schedule.from_list(given, start=None)


# Lists

HEADER = ("start", "after", "version")
"""What the first entry of a list may say of the whole schedule."""
PHASES: Mapping[str, Callable[..., Phase]] = {
    phase.keyword: phase for phase in (To, Hold, Jump, Decay, Exp, Table, Product, Clip, Head, Repeat)
}


def from_dict(entry: Mapping[str, Any], number: int) -> Phase:
    """The phase a list's entry describes."""
    found = [key for key in entry if key in PHASES]
    if len(found) != 1:
        what = f"{found[0]!r} and {found[1]!r}" if found else f"{', '.join(map(repr, entry)) or 'nothing'}"
        near = [match for key in entry for match in difflib.get_close_matches(str(key), [*PHASES, "refined"], n=1)]
        hint = f"; did you mean {near[0]!r}?" if near and not found else ""
        raise ValueError(f"phase {number} must have one of the keys {', '.join(PHASES)}; it has {what}{hint}")
    make: Any = PHASES[found[0]]
    first, *rest = (f.name for f in fields(make))
    for key in entry:
        if key != found[0]:
            choice(f"key of phase {number} ({found[0]}):", key, rest if number > 1 else [*rest, *HEADER])
    try:
        return make(**{first: entry[found[0]]}, **{key: v for key, v in entry.items() if key != found[0]})  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ValueError(f"phase {number} ({found[0]}): {error}") from error
