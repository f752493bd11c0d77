"""The convergence bound of a schedule; schedules and norms as arrays, for the theory of this package."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .resolved import Resolved
    from .schedule import Schedule

Array: TypeAlias = npt.NDArray[np.float64]
ScheduleLike: TypeAlias = "Schedule | Resolved | Callable[[int], float] | Sequence[float] | Array"
Norms: TypeAlias = "float | Sequence[float] | Array"


class Bound(NamedTuple):
    """The two numbers of a schedule in Ω(γ) = D² d / γ + γ n."""

    d: float
    n: float

    def value(self, lr: float, distance: float = 1.0) -> float:
        """Ω(lr)."""
        return distance**2 * self.d / lr + lr * self.n

    def best_lr(self, distance: float = 1.0) -> float:
        """γ* = D √(d/n), where Ω is least."""
        return distance * math.sqrt(self.d / self.n)

    def best_value(self, distance: float = 1.0) -> float:
        """Ω(γ*) = 2 D √(d n)."""
        return 2 * distance * math.sqrt(self.d * self.n)


def bound(schedule: ScheduleLike, total: int | None = None, norms: Norms = 1.0) -> Bound:
    """The bound of a schedule, for base lr 1 and distance 1:

        d = 1 / (2 S_1),    n = Q_1 / (2 S_1) + ½ Σ_{k<T} (η_k / S_{k+1}) (Q_k / S_k),
        S_k = Σ_{t>=k} η_t,    Q_k = Σ_{t>=k} η_t² G_t²

    Steps at the end with multiplier 0 change nothing and are left out.

    Args:
        schedule: a Schedule, a function of the step, or the multipliers themselves, all >= 0 and not all 0.
        total: T, number of optimizer steps, >= 1. Default None: the number of multipliers, or of steps a Schedule has
            by itself.
        norms: G > 0, one for all steps or a sequence over the run: of another length, it is stretched over the run.
            Default 1.

    Raises:
        ValueError: multipliers or norms out of range, or a total that does not fit them.

    >>> constant = bound([1.0] * 400)
    >>> constant.d, round(constant.n, 8)
    (0.00125, 3.78371485)
    >>> linear = bound(lambda t: 1 - t / 400, 400)
    >>> round(linear.best_value() / constant.best_value(), 3)
    0.732
    """
    eta = multipliers(schedule, total)
    return bound_from_squares(eta, norms_over(norms, len(eta)) ** 2)


def multipliers(schedule: ScheduleLike, total: int | None) -> Array:
    """η_1 ... η_T, whatever the schedule was given as."""
    if total is not None and (isinstance(total, bool) or not isinstance(total, (int, np.integer)) or total < 1):
        raise ValueError(f"total must be a whole number of steps >= 1, got {total!r}")
    source: Any = schedule
    if hasattr(source, "resolve"):
        values = source.resolve(total).array()
    elif hasattr(source, "array"):  # resolved already
        values = source.array(total)
    elif callable(source):
        if total is None:
            raise ValueError("total is needed: a function does not say over how many steps it runs")
        values = [source(t) for t in range(total)]
    else:
        values = source
    eta = _numbers("multipliers", values)
    if total is not None and len(eta) != total:
        raise ValueError(f"total is {total}, but there are {len(eta)} multipliers; leave total out")
    if eta.size == 0 or eta.min() < 0 or eta.max() == 0:
        raise ValueError(f"multipliers must be >= 0 and not all 0, got {_least(eta)}")
    return eta


def norms_over(norms: Norms, total: int) -> Array:
    """G_1 ... G_T."""
    given = _numbers("norms", norms)
    if given.size == 0 or given.min() <= 0:
        raise ValueError(f"norms must be > 0, got {_least(given)}")
    return stretched(given, total)


def stretched(values: Array, total: int) -> Array:
    """Values over the steps of a run as values over a run of ``total`` steps: linear between u = (t + ½)/T."""
    if len(values) == total:
        return values
    middle = (np.arange(total) + 0.5) / total
    return np.interp(middle, (np.arange(len(values)) + 0.5) / len(values), values)


def bound_from_squares(eta: Array, squares: Array) -> Bound:
    """The bound, from G² (or what stands in its place: ⟨g, direction⟩) per step."""
    used = int(np.flatnonzero(eta)[-1]) + 1
    eta, squares = eta[:used], squares[:used]
    s, q = tail_sums(eta), tail_sums(eta**2 * squares)
    n = q[0] / s[0] + np.sum(eta[:-1] / s[1:] * (q[:-1] / s[:-1]))
    return Bound(float(0.5 / s[0]), float(0.5 * n))


def tail_sums(values: Array) -> Array:
    """Σ_{t>=k} for every k, summed from the end: differences of sums from the front cancel."""
    return np.cumsum(values[::-1])[::-1]


def _numbers(name: str, values: object) -> Array:
    try:
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers, got {values!r}") from None
    if array.ndim != 1 or not np.isfinite(array).all():
        wrong = f"shape {array.shape}" if array.ndim != 1 else f"{array[~np.isfinite(array)][0]}"
        raise ValueError(f"{name} must be finite numbers, one per step, got {wrong}")
    return array


def _least(values: Array) -> str:
    return f"a minimum of {values.min():g}" if values.size else "none"


def positive_number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    return float(value)
