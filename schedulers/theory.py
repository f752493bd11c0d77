"""What convex theory says about a schedule: its error bound, its best lr, and how an lr carries over to another one.

    f(x_T) - f* <= Ω(γ) = D² d / γ + γ n        γ: base lr, D = ‖x_1 - x*‖

for SGD at lr γ η_t on a convex function with gradient norms G_t, x_T the last iterate. d and n are a schedule's own
(:func:`bound`), so ratios between schedules need neither D nor the size of G. It is a worst case: trust ratios, not
values. Without noise in early gradients a warmup only costs in it: compare schedules of equal warmup.

"The Surprising Agreement Between Convex Optimization Theory and Learning-Rate Scheduling for Large Model Training"
(Schaipp, Hägele, Taylor, Simsekli & Bach, 2025, arXiv:2501.18965), on the bound of "Optimal Linear Decay Learning Rate
Schedules and Further Refinements" (Defazio, Cutkosky, Mehta & Mishchenko, 2023, arXiv:2310.07831), Theorem 10.

A schedule is here a Schedule, a function of the step t = 0, 1, ..., or the sequence of its multipliers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .schedule import Schedule

Array: TypeAlias = npt.NDArray[np.float64]
ScheduleLike: TypeAlias = "Schedule | Callable[[int], float] | Sequence[float] | Array"
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
        total: T, number of optimizer steps, >= 1. Default None: the number of multipliers.
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


def best_lr(
    schedule: ScheduleLike, total: int | None = None, norms: Norms = 1.0, distance: float = 1.0
) -> float:
    """The base lr at which the bound is least, γ* = D √(d/n).

    Args:
        schedule: as in :func:`bound`.
        total: as in :func:`bound`.
        norms: as in :func:`bound`; those recorded by a run, if the value shall mean anything.
        distance: D > 0, how far the minimum is from the start. Default 1; the result is proportional to it.

    Raises:
        ValueError: as :func:`bound`, or distance is not > 0.

    >>> round(best_lr(lambda t: 1 - t / 400, 400), 5)
    0.04956
    """
    return bound(schedule, total, norms).best_lr(_positive("distance", distance))


def transfer_lr(
    lr: float,
    from_: ScheduleLike,
    to: ScheduleLike,
    total_from: int | None = None,
    total_to: int | None = None,
    norms: Norms = 1.0,
) -> float:
    """The lr for another schedule, horizon or both: lr · √((d/n)_to / (d/n)_from).

    Args:
        lr: the base lr that was tuned with ``from_``, > 0.
        from_: the schedule it was tuned with, as in :func:`bound`.
        to: the schedule it is wanted for.
        total_from: number of steps with ``from_``. Default None: the number of its multipliers.
        total_to: number of steps with ``to``. Default None: ``total_from``, or the number of its multipliers.
        norms: as in :func:`bound`, over either run. Default 1.

    Raises:
        ValueError: as :func:`bound`, or lr is not > 0.

    >>> cosine = lambda t: 0.5 + 0.5 * math.cos(math.pi * t / 1000)
    >>> wsd = lambda t: min(1.0, (1000 - t) / 200)
    >>> round(transfer_lr(1e-3, wsd, cosine, 1000), 5)  # a 20 % cooldown to cosine
    0.00188
    """
    if total_to is None and not isinstance(to, (Sequence, np.ndarray)):
        total_to = total_from if total_from is not None else len(multipliers(from_, None))
    before, after = bound(from_, total_from, norms), bound(to, total_to, norms)
    return _positive("lr", lr) * after.best_lr() / before.best_lr()


class Row(NamedTuple):
    """A schedule in a :class:`Comparison`: its best lr and bound, in units of the first schedule's."""

    name: str
    lr: float
    bound: float


@dataclass(frozen=True)
class Comparison:
    """Schedules side by side; ``print`` it for a table."""

    rows: tuple[Row, ...]
    total: int

    def __str__(self) -> str:
        width = max(len("schedule"), *(len(row.name) for row in self.rows))
        head = f"{self.total} steps, relative to {self.rows[0].name}\n{'schedule':{width}}  best lr   bound"
        return "\n".join([head, *(f"{name:{width}}  {lr:7.3f} {value:7.3f}" for name, lr, value in self.rows)])


def compare(schedules: Mapping[str, ScheduleLike], total: int | None = None, norms: Norms = 1.0) -> Comparison:
    """Best lr and bound at the best lr of some schedules over the same steps, relative to the first of them.

    Args:
        schedules: name to schedule, each as in :func:`bound`.
        total: number of steps of each. Default None: the number of multipliers, which must be one for all.
        norms: as in :func:`bound`. Default 1.

    Raises:
        ValueError: as :func:`bound`, or there are no schedules, or they are of different lengths.

    >>> print(compare({"linear": lambda t: 1 - t / 6400, "constant": lambda t: 1.0}, 6400))
    6400 steps, relative to linear
    schedule  best lr   bound
    linear      1.000   1.000
    constant    0.311   1.607
    """
    if not schedules:
        raise ValueError("compare: there are no schedules; give a dict of names to schedules")
    resolved = {name: multipliers(schedule, total) for name, schedule in schedules.items()}
    lengths = {name: len(eta) for name, eta in resolved.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"compare: the schedules have different numbers of steps, {lengths}; give them one total")
    bounds = {name: bound(eta, norms=norms) for name, eta in resolved.items()}
    first = next(iter(bounds.values()))
    rows = tuple(
        Row(name, b.best_lr() / first.best_lr(), b.best_value() / first.best_value()) for name, b in bounds.items()
    )
    return Comparison(rows, next(iter(lengths.values())))


# Schedules and norms as arrays, for this package


def multipliers(schedule: ScheduleLike, total: int | None) -> Array:
    """η_1 ... η_T, whatever the schedule was given as."""
    if total is not None and (isinstance(total, bool) or not isinstance(total, (int, np.integer)) or total < 1):
        raise ValueError(f"total must be a whole number of steps >= 1, got {total!r}")
    source: Any = schedule
    if hasattr(source, "resolve") or callable(source):
        if total is None:
            raise ValueError(f"total is needed: {type(source).__name__} does not say over how many steps it runs")
        values = source.resolve(total).array() if hasattr(source, "resolve") else [source(t) for t in range(total)]
    else:
        values = source
    eta = _numbers("multipliers", values)
    if total is not None and len(eta) != total:
        raise ValueError(f"total is {total}, but there are {len(eta)} multipliers; leave total out")
    if eta.size == 0 or eta.min() < 0 or eta.max() == 0:
        raise ValueError(f"multipliers must be >= 0 and not all 0, got {eta.size and f'a minimum of {eta.min()}'}")
    return eta


def norms_over(norms: Norms, total: int) -> Array:
    """G_1 ... G_T."""
    given = _numbers("norms", norms)
    if given.size == 0 or given.min() <= 0:
        raise ValueError(f"norms must be > 0, got {given.size and f'a minimum of {given.min()}'}")
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


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    return float(value)
