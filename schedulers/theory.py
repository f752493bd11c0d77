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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .bounds import Bound, Norms, ScheduleLike, bound, multipliers, positive_number
from .extension import Extension, Plan, plan_extension

__all__ = [
    "Bound",
    "Comparison",
    "Extension",
    "Plan",
    "best_lr",
    "bound",
    "compare",
    "plan_extension",
    "transfer_lr",
]


def best_lr(schedule: ScheduleLike, total: int | None = None, norms: Norms = 1.0, distance: float = 1.0) -> float:
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
    return bound(schedule, total, norms).best_lr(positive_number("distance", distance))


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

    >>> import math
    >>> cosine = lambda t: 0.5 + 0.5 * math.cos(math.pi * t / 1000)
    >>> wsd = lambda t: min(1.0, (1000 - t) / 200)
    >>> round(transfer_lr(1e-3, wsd, cosine, 1000), 5)  # a 20 % cooldown to cosine
    0.00189
    """
    if total_to is None and not isinstance(to, (Sequence, np.ndarray)):
        total_to = total_from
    before, after = bound(from_, total_from, norms), bound(to, total_to, norms)
    return positive_number("lr", lr) * after.best_lr() / before.best_lr()


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
