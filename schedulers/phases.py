"""The phases of a schedule: what each does with the value the one before it left, and how it is written in a list."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

from .lengths import Run, Steps, exact_length, half_up, parse_steps
from .shapes import ALIASES, GRIDS, SPACES, Curve, choice, shape_function


def finite(name: str, value: Any) -> float:
    """``value`` as a float; ValueError where it is no finite number."""
    number = math.nan
    if not isinstance(value, (bool, str)):
        with suppress(TypeError, ValueError):
            number = float(value)
    if not math.isfinite(number):
        hint = " (a string; YAML reads 1e-3 as one, write 1.0e-3)" if isinstance(value, str) else ""
        raise ValueError(f"{name} must be a finite number, got {value!r}{hint}")
    return number


def positive(name: str, value: Any) -> float:
    """The same for a number > 0."""
    number = finite(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")
    return number


def shown(value: Any) -> str:
    """A number, or what else a phase holds, as one would write it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return repr(value).removesuffix(".0") if isinstance(value, float) else repr(value)


@dataclass(frozen=True)
class Phase:
    """A part of a schedule. It is given the value v0 its forerunner ended at, and says how the value goes on."""

    keyword: ClassVar[str]
    """Names the phase in a list, where it stands for the first field: ``{"to": 0.1, "steps": 500}``."""
    begins_itself: ClassVar[bool] = False
    """Whether it has no use for v0."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """Schedules the phase holds."""
        return ()

    def length(self, run: Run) -> Fraction | None:
        """Steps before rounding; None for the rest."""
        return exact_length(self.steps, run)  # type: ignore[attr-defined]

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        """The value s steps after the phase began at step ``begin``, for 0 <= s <= n; at n it is where the phase ends.

        v0 is None (in spite of its type) at the beginning of a tail; a phase that depends on it then raises.
        """
        raise NotImplementedError

    def end(self, v0: float | None) -> float | None:
        """The value at the end, where it is known before the lengths are."""
        return None

    def rescaled(self, kappa: float) -> Phase:
        """With lengths in steps divided by ``kappa``."""
        steps = self.steps  # type: ignore[attr-defined]
        return replace(self, steps=rescaled_steps(steps, kappa)) if isinstance(steps, int) else self  # type: ignore[call-arg]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON; what is left at its default is left out."""
        first, *rest = fields(self)
        written = {self.keyword: plain(getattr(self, first.name))}
        return written | {f.name: plain(v) for f in rest if (v := getattr(self, f.name)) != f.default}

    @property
    def call(self) -> str:
        """The method call on a Schedule that adds this phase."""
        first, *rest = fields(self)
        given = [(f.name, getattr(self, f.name)) for f in rest if getattr(self, f.name) != f.default]
        value = getattr(self, first.name)
        arguments = [] if value == first.default else [shown(value)]
        arguments += [shown(v) if name == "steps" else f"{name}={shown(v)}" for name, v in given]
        return f".{self.keyword}({', '.join(arguments)})"


def rescaled_steps(steps: int, kappa: float) -> int:
    """``steps`` divided by kappa; what was a step or more is not rounded away."""
    return max(min(steps, 1), half_up(Fraction(steps) / Fraction(kappa)))


def plain(value: Any) -> Any:
    """A field's value in a list of phases."""
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    if hasattr(value, "to_list"):
        return value.to_list()
    if callable(value):
        name = getattr(value, "__qualname__", "<lambda>")
        if "<" in name or not hasattr(value, "__module__"):
            raise ValueError(
                f"the shape {value!r} cannot be written down: make it a module's function, 'package.mod:name'"
            )
        return f"{value.__module__}:{name}"
    return value


def write(phase: Phase, **values: Any) -> None:
    """Write fields of a frozen phase that is being made."""
    for name, value in values.items():
        object.__setattr__(phase, name, value)


def _needs_start(phase: Phase, v0: float | None) -> float:
    if v0 is None:
        raise ValueError(
            f"{phase.keyword} goes on from the value before it, and a tail has none: use it in splice() or then(), or "
            "give the schedule a start"
        )
    return v0


# Phases that go on from v0


@dataclass(frozen=True)
class To(Phase):
    """Go to ``value``: v0 + (value - v0)·q(p) in ``space``."""

    keyword = "to"
    value: float
    steps: Steps = "rest"
    shape: str | Curve = "linear"
    space: str = "linear"
    grid: str = "left"

    def __post_init__(self) -> None:
        shape, space = self.shape, self.space
        if isinstance(shape, str):
            shape = ALIASES.get(shape, shape)
            if shape == "exp":  # v0^(1-p) · v1^p
                shape, space = "linear", "log"
        choice("space", space, SPACES)
        choice("grid", self.grid, GRIDS)
        if not isinstance(shape, str) and not callable(shape):
            raise ValueError(f"shape must be a name or a function p -> q on [0, 1], got {shape!r}")
        if isinstance(shape, str) and ":" not in shape:
            shape_function(shape)
        write(self, value=finite("value", self.value), steps=parse_steps(self.steps), shape=shape, space=space)
        _check_space(self, self.value)

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        v0 = _needs_start(self, v0)
        _check_space(self, v0)
        if n is None:
            raise ValueError(f"{self}: an end is approached in a number of steps; give steps, or the run's total=...")
        into, out_of, _, _ = SPACES[self.space]
        a, b = GRIDS[self.grid]
        x0, x1 = into(v0), into(self.value)
        return partial(_on_the_way, x0, x1 - x0, self.value, a, n + b, shape_function(self.shape), out_of)

    def end(self, v0: float | None) -> float:
        return self.value

    def __str__(self) -> str:
        shape = self.shape if isinstance(self.shape, str) else getattr(self.shape, "__name__", "a function")
        way = ", ".join(name for name in (shape, self.space) if name != "linear") or "linear"
        return f"to {self.value:g} ({way})"


def _on_the_way(x0: float, dx: float, v1: float, a: int, n: int, q: Curve, out_of: Curve, s: float) -> float:
    p = (s + a) / n if n > 0 else 1.0
    return out_of(x0 + dx * q(p)) if p < 1 else v1


def _check_space(phase: To, value: float) -> None:
    space = SPACES[phase.space]
    if not space.holds(value):
        raise ValueError(f"{phase.space} space needs {space.needs}; {value:g} is an end of '{phase}'")


@dataclass(frozen=True)
class Hold(Phase):
    """Stay at v0."""

    keyword = "hold"
    steps: Steps = "rest"

    def __post_init__(self) -> None:
        write(self, steps=parse_steps(self.steps))

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        return partial(_constant, _needs_start(self, v0))

    def end(self, v0: float | None) -> float | None:
        return v0

    def __str__(self) -> str:
        return "hold"


def _constant(value: float, s: float) -> float:
    return value


@dataclass(frozen=True)
class Jump(Phase):
    """Be at ``value`` at once, or with None wherever the next phase begins: the only way not to be continuous."""

    keyword, begins_itself = "jump", True
    value: float | None = None

    def __post_init__(self) -> None:
        write(self, value=None if self.value is None else finite("value", self.value))

    def length(self, run: Run) -> Fraction:
        return Fraction(0)

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        return partial(_constant, self.value)  # type: ignore[arg-type]

    def end(self, v0: float | None) -> float | None:
        return self.value

    def rescaled(self, kappa: float) -> Jump:
        return self

    def __str__(self) -> str:
        return "jump" if self.value is None else f"jump {self.value:g}"


@dataclass(frozen=True)
class Decay(Phase):
    """The inverse power law v0·(1 + s/timescale)^-power, which needs no horizon.

    The timescale's default is the step at which the phase begins: after a warm-up of τ steps and with power ½ this is
    "inverse square root", v0·√(τ/t).
    """

    keyword = "decay"
    power: float = 0.5
    steps: Steps = "rest"
    timescale: float | None = None

    def __post_init__(self) -> None:
        write(self, power=positive("power", self.power), steps=parse_steps(self.steps))
        if self.timescale is not None:
            write(self, timescale=positive("timescale", self.timescale))

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        timescale = max(begin, 1) if self.timescale is None else self.timescale
        return partial(_inverse_power, _needs_start(self, v0), self.power, timescale)

    def rescaled(self, kappa: float) -> Phase:
        timescale = None if self.timescale is None else self.timescale / kappa
        return replace(super().rescaled(kappa), timescale=timescale)  # type: ignore[call-arg]

    def __str__(self) -> str:
        return f"decay (power {self.power:g})"


def _inverse_power(v0: float, power: float, timescale: float, s: float) -> float:
    return float(v0 * (1 + s / timescale) ** -power)


@dataclass(frozen=True)
class Exp(Phase):
    """The exponential v0·gamma^s, which needs no horizon."""

    keyword = "exp"
    gamma: float
    steps: Steps = "rest"

    def __post_init__(self) -> None:
        write(self, gamma=positive("gamma", self.gamma), steps=parse_steps(self.steps))

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        return partial(_exponential, _needs_start(self, v0), self.gamma)

    def rescaled(self, kappa: float) -> Phase:
        return replace(super().rescaled(kappa), gamma=self.gamma**kappa)  # type: ignore[call-arg]

    def __str__(self) -> str:
        return f"times {self.gamma:g} a step"


def _exponential(v0: float, gamma: float, s: float) -> float:
    return float(v0 * gamma**s)


@dataclass(frozen=True)
class Table(Phase):
    """v0 times ``values``, evenly spaced from the begin of the phase to its end, straight lines between.

    K + 1 values over K steps are therefore used as they stand, the last of them one step after the phase.
    """

    keyword = "table"
    values: tuple[float, ...]
    steps: Steps = "rest"

    def __post_init__(self) -> None:
        values = tuple(finite(f"value {i} of a table", v) for i, v in enumerate(self.values))
        if len(values) < 2:
            raise ValueError(f"a table needs 2 values or more, from begin to end, got {len(values)}")
        write(self, values=values, steps=parse_steps(self.steps))

    def bind(self, v0: float, begin: int, n: int | None, run: Run) -> Curve:
        if n is None:
            raise ValueError("a table is stretched over a number of steps; give steps, or the run's total=...")
        return partial(_looked_up, _needs_start(self, v0), self.values, n)

    def end(self, v0: float | None) -> float | None:
        return None if v0 is None else v0 * self.values[-1]

    def __str__(self) -> str:
        return f"table of {len(self.values)}"


def _looked_up(v0: float, values: tuple[float, ...], n: int, s: float) -> float:
    last = len(values) - 1
    position = s * last / n if n else last
    i = min(int(position), last)
    between = position - i
    return v0 * (values[i] + (values[i + 1] - values[i]) * between if between else values[i])
