"""How long a phase is: steps, a fraction of the run, epochs, an untuned warm-up, or the rest; and what that makes."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

Steps: TypeAlias = int | float | str | None
"""An int (steps), a float in [0, 1) or "20%" (fraction of the total), "3ep" (epochs), "untuned", or "rest" (= None)."""


@dataclass(frozen=True)
class Run:
    """What lengths that are not plain steps are measured against."""

    total: int | None = None
    steps_per_epoch: int | None = None
    untuned: int | None = None


def parse_steps(steps: Any) -> int | float | str:
    """The canonical form of a length: an int, a float below 1, "rest", "untuned" or "<epochs>ep"."""
    if steps is None or steps == "rest":
        return "rest"
    if isinstance(steps, str):
        return _parse_text(steps)
    whole = whole_number(steps)
    if whole is not None:
        if whole < 0:
            raise ValueError(f"a length must not be negative, got {whole} steps")
        return whole
    try:
        fraction = float(steps)
    except (TypeError, ValueError):
        fraction = math.nan
    if isinstance(steps, bool) or not 0 <= fraction < 1:
        raise ValueError(f"{steps!r} is not a whole number of steps nor a fraction below 1; write int(...) for steps")
    return fraction or 0


def _parse_text(steps: str) -> int | float | str:
    if steps == "untuned":
        return steps
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|ep)", steps.strip()):
        number = found[1]
        if found[2] == "ep":
            return f"{float(number):g}ep"
        if float(number) < 100:
            return float(Fraction(number) / 100) or 0
    raise ValueError(
        f"{steps!r} is no length; write steps (500), a fraction (0.2 or '20%', below 100%), epochs ('3ep'), 'untuned' "
        "or 'rest'"
    )


def whole_number(x: Any) -> int | None:
    """``x`` as an int if it is one, of Python or of NumPy; True and False are none."""
    if isinstance(x, bool):
        return None
    try:
        return operator.index(x)
    except TypeError:
        return None


def checked_total(total: Any, name: str = "total") -> int | None:
    """``total`` as an int, or None; ValueError for anything else and below 1."""
    whole = whole_number(total)
    if total is not None and (whole is None or whole < 1):
        raise ValueError(f"{name} must be a positive int (a number of steps), got {total!r}")
    return whole


def exact_length(steps: Steps, run: Run) -> Fraction | None:
    """The steps a length comes to, before rounding; None for the rest."""
    if steps is None or steps == "rest":
        return None
    if isinstance(steps, int):
        return Fraction(steps)
    if isinstance(steps, float):
        if run.total is None:
            raise ValueError(f"the fraction {steps:g} needs a total: give total=..., or write the length in steps")
        return Fraction(repr(steps)) * run.total  # repr: 0.29 means 29/100, so that half steps are half steps
    if steps == "untuned":
        if run.untuned is None:
            raise ValueError(
                "the length 'untuned' is 2/(1-beta2) of an optimizer: use it in Scheduler(optimizer, ...), or give "
                "untuned=<steps> (2000 for beta2 = 0.999)"
            )
        return Fraction(run.untuned)
    if run.steps_per_epoch is None:
        raise ValueError(f"the length {steps!r} needs steps_per_epoch=<optimizer steps in an epoch>")
    return Fraction(steps.removesuffix("ep")) * run.steps_per_epoch


def half_up(x: Fraction) -> int:
    """The nearest whole number; halves go up."""
    return math.floor(x + Fraction(1, 2))


def share_out(exact: Sequence[Fraction | None], names: Sequence[str], total: int | None) -> list[int | None]:
    """Whole lengths that together are ``total``; None for a last one without end, where there is no total.

    With a rest every other length is rounded by itself. Without, the boundaries are rounded, so that fractions which
    sum to 1 cover the total.
    """
    rests = [i for i, length in enumerate(exact) if length is None]
    if len(rests) > 1:
        raise ValueError(
            f"two phases ask for the rest ({rests[0] + 1} and {rests[1] + 1}: {names[rests[0]]!r}, "
            f"{names[rests[1]]!r}); give one of them a length"
        )
    parts = [
        f"{'the rest' if length is None else half_up(length)} {name}" for length, name in zip(exact, names, strict=True)
    ]
    ends = list(accumulate((length or Fraction(0) for length in exact), initial=Fraction(0)))
    needed = ends[-1]
    if not rests:
        if total is not None and abs(needed - total) > Fraction(1, 10**9) * total:
            raise _misfit(half_up(needed), total, parts)
        return [b - a for a, b in pairwise(map(half_up, ends))]
    lengths = [None if length is None else half_up(length) for length in exact]
    rest = rests[0]
    if total is not None:
        left = total - sum(length for length in lengths if length is not None)
        if left < 0:
            raise _misfit(total - left, total, parts)
        lengths[rest] = left
    elif rest != len(lengths) - 1:
        raise ValueError(
            f"phase {rest + 1} ({names[rest]}) takes the rest, which needs a total; without one only the last phase "
            "may be open-ended: give total=..., or give the phase a length"
        )
    return lengths


def _misfit(needed: int, total: int, parts: Sequence[str]) -> ValueError:
    listed = ", ".join(parts)
    if needed > total:
        return ValueError(
            f"phases need {needed} steps but total is {total} ({listed}): shorten a phase, such as the warm-up, or "
            "use fractions"
        )
    return ValueError(
        f"phases cover {needed} of {total} steps ({listed}): add hold(), or let one phase take the 'rest'"
    )
