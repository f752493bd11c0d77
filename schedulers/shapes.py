"""How a value goes from v0 to v1: the shape q(p) of the way, the space it is straight in, the grid of its steps."""

from __future__ import annotations

import difflib
import importlib
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

Curve: TypeAlias = Callable[[float], float]

# Shapes: q(0) = 0, q(1) = 1, and the value is v0 + (v1 - v0)·q(p)


def _linear(p: float) -> float:
    return p


def _cosine(p: float) -> float:
    return 0.5 * (1 - math.cos(math.pi * p))


def _square(p: float) -> float:
    return p * p


def _mirror_cosine(p: float) -> float:
    return 2 * p - _cosine(p)


def _smoothstep(p: float) -> float:
    return p * p * (3 - 2 * p)


def _rex(p: float) -> float:
    return 1 - (1 - p) / (1 - p / 2)


def _poly(power: float, p: float) -> float:
    return float(1 - (1 - p) ** power)


def _exp0(ratio: float, p: float) -> float:
    return float((1 - ratio**p) / (1 - ratio))


SHAPES: dict[str, Curve] = {
    "linear": _linear,
    "cosine": _cosine,
    "sqrt": math.sqrt,
    "square": _square,
    "mirror-cosine": _mirror_cosine,
    "smoothstep": _smoothstep,
    "rex": _rex,
}
PARAMETRIC: dict[str, tuple[Callable[[float, float], float], Callable[[float], bool], str]] = {
    "poly": (_poly, lambda k: 0 < k < math.inf, "a power > 0"),
    "exp0": (_exp0, lambda r: 0 < r < 1, "a ratio in (0, 1)"),
}
ALIASES = {"1-sqrt": "sqrt", "1-square": "square"}
"""What the papers on cooldowns call the two, after their multiplier 1 - √p and 1 - p²."""


def shape_function(shape: str | Curve) -> Curve:
    """The q(p) that a name stands for: one of SHAPES, ``poly(2)``, ``exp0(0.01)``, or ``package.module:function``."""
    if callable(shape):
        return shape
    if shape in SHAPES:
        return SHAPES[shape]
    if ":" in shape:
        return _imported(shape)
    found = re.fullmatch(r"(\w+)\((.*)\)", shape)
    if not found or found[1] not in PARAMETRIC:
        names = [*SHAPES, *ALIASES, "exp", *(f"{name}({'k' if name == 'poly' else 'r'})" for name in PARAMETRIC)]
        raise ValueError(f"unknown shape {shape!r}; {nearest(shape, names)}")
    function, holds, wording = PARAMETRIC[found[1]]
    try:
        parameter = float(found[2])
    except ValueError:
        parameter = math.nan
    if not holds(parameter):
        raise ValueError(f"shape {shape!r}: {found[1]} takes {wording}, got {found[2]!r}")
    return partial(function, parameter)


def _imported(path: str) -> Curve:
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"shape {path!r} cannot be imported: {error}") from error
    if not callable(function):
        raise ValueError(f"shape {path!r} is a {type(function).__name__}; it must be a function p -> q on [0, 1]")
    return function  # type: ignore[no-any-return]


# Spaces: the value is straight (or of its shape) in ``into(value)``


class Space(NamedTuple):
    """A monotone map of values, its inverse, and the values it takes."""

    into: Curve
    out_of: Curve
    holds: Callable[[float], bool]
    needs: str


def _identity(x: float) -> float:
    return x


def _inverse_log(beta: float) -> float:
    return 1 / math.log(beta)


def _exp_of_inverse(x: float) -> float:
    return math.exp(1 / x)


SPACES: dict[str, Space] = {
    "linear": Space(_identity, _identity, math.isfinite, "finite values"),
    "log": Space(math.log, math.exp, lambda x: x > 0, "positive values; for an end at 0 take shape 'exp0(0.01)'"),
    # the half-life ln ½ / ln β of an average with decay β, up to a factor
    "halflife": Space(_inverse_log, _exp_of_inverse, lambda x: 0 < x < 1, "values in (0, 1)"),
}

# Grids: p at step s of n is (s + a) / (n + b)

GRIDS: dict[str, tuple[int, int]] = {"left": (0, 0), "open": (1, 1), "right": (1, 0), "closed": (0, -1)}


def choice(kind: str, name: Any, valid: Iterable[str]) -> None:
    """Raise for a name that is none of the valid ones."""
    valid = list(valid)
    if name not in valid:
        raise ValueError(f"unknown {kind} {name!r}; {nearest(str(name), valid)}")


def nearest(name: str, valid: Iterable[str], otherwise: str = "there are") -> str:
    """The hint of an error about an unknown name."""
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(valid)}"
