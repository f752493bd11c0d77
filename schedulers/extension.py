"""Going on after a finished run: schedules for which the lr one has is the best one for the longer run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .bounds import Array, ScheduleLike, bound, multipliers
from .phases import To
from .schedule import Schedule


class Plan(NamedTuple):
    """One way to go on, at the base lr one has."""

    factor: float
    """ρ: the lr is multiplied by it from step ``at`` on."""
    cooldown_steps: int
    """Number of steps of the cooldown, the last ones."""
    bound: float
    """At this lr, relative to that of the new length with the old fraction of cooldown and its own best lr."""
    lr_ratio: float
    """The best lr of this schedule over the one it runs at; 1 where the lr suits it."""
    schedule: Schedule
    """The whole run; its first ``at`` steps are those already taken."""


@dataclass(frozen=True)
class Extension:
    """Ways to go on to ``new_total`` steps from a checkpoint at step ``at``; ``print`` it for a table."""

    at: int
    new_total: int
    cooldown: Plan
    step: Plan
    optimal: Plan
    unchanged: Plan

    def __str__(self) -> str:
        plans = {
            "longer cooldown": self.cooldown,
            "step down": self.step,
            "optimal": self.optimal,
            "unchanged": self.unchanged,
        }
        lines = [
            f"{name:15} {plan.factor:9.3f} {plan.cooldown_steps:9d} steps {plan.bound:10.3f} {plan.lr_ratio:9.2f}"
            for name, plan in plans.items()
        ]
        return "\n".join(
            [
                f"from step {self.at} to {self.new_total}, at the same base lr",
                f"{'plan':15} {'lr factor':>9} {'cooldown':>15} {'bound':>10} {'best lr':>9}",
                *lines,
                "longer cooldown: when this is the end; step down: when training may be extended again",
            ]
        )


def plan_extension(schedule: ScheduleLike, total: int | None, new_total: int, at: int | None = None) -> Extension:
    """How to train longer than planned, at the lr that was best for the shorter run, from a checkpoint.

    The best lr falls with the horizon as 1/√T, so that the lr of the short run is too large for the long one. What is
    compared is, from step ``at`` on:

        cooldown    hold, and cool down over more steps, until the best lr is the one there is
        step        times ρ < 1 at once, the same fraction of cooldown, and the best lr is the one there is
        optimal     the ρ and cooldown of least bound at this lr
        unchanged   hold, and the same fraction of cooldown

    by the bound of :func:`optzoo.schedulers.theory.bound` with equal gradient norms (Schaipp et al., 2025,
    arXiv:2501.18965). A cooldown cannot begin before ``at``: where it would have to, ``lr_ratio`` stays < 1.

    Args:
        schedule: the short run's, as in :func:`optzoo.schedulers.theory.bound`, with a cooldown: the last stretch of
            falling multipliers, whose shape the new cooldown gets. Its base lr is taken to be its best.
        total: T, number of steps of the short run. Default None: the number of multipliers.
        new_total: number of steps of the long run, > T.
        at: the step of the checkpoint to go on from, where no later multiplier is larger. Default None: where the
            cooldown begins, which for a schedule that falls from its first step is step 0.

    Raises:
        ValueError: new_total or at out of range, a schedule that never falls, or an ``at`` inside the warmup.

    >>> wsd = [1.0] * 80 + [1 - t / 20 for t in range(20)]
    >>> print(plan_extension(wsd, 100, 150))
    from step 80 to 150, at the same base lr
    plan            lr factor        cooldown      bound   best lr
    longer cooldown     1.000        64 steps      0.942      1.00
    step down           0.659        30 steps      0.958      1.00
    optimal             0.811        69 steps      0.933      1.10
    unchanged           1.000        30 steps      1.019      0.82
    longer cooldown: when this is the end; step down: when training may be extended again
    """
    old = multipliers(schedule, total)
    if isinstance(new_total, bool) or not isinstance(new_total, (int, np.integer)) or new_total <= len(old):
        raise ValueError(f"new_total must be a whole number of steps > {len(old)}, the old total, got {new_total!r}")
    begin = _cooldown_begins(old)
    at = begin if at is None else at
    if isinstance(at, bool) or not isinstance(at, (int, np.integer)) or not 0 <= at < len(old):
        raise ValueError(f"at must be a step of the old run, 0 to {len(old) - 1}, got {at!r}")
    level = old[at]
    if level == 0 or old[at:].max() > level * (1 + 1e-9):
        raise ValueError(
            f"at={at}: the multiplier there is {level:g} and later ones reach {old[at:].max():g}; "
            f"go on from a step after the warmup, with a multiplier > 0 (the cooldown begins at step {begin})"
        )
    after_end = max(0.0, 2 * old[-1] - old[-2])  # where the last two point to: the cooldown's target is one step on
    shape = np.append(old[begin:], after_end) / old[begin]
    whole = schedule if isinstance(schedule, Schedule) else Schedule().table([*old.tolist(), after_end], len(old))
    last = whole.resolve(len(old)).segments[-1]
    end = last.phase if abs(last.begin - begin) <= 1 else None
    fraction, room = 1 - begin / len(old), int(new_total - at)
    distance = 1 / bound(old).best_lr()  # so that the best lr, which is taken to be the one there is, is 1

    def length(cooldown: float) -> int:
        return min(max(round(cooldown), 1), room)

    def extended(factor: float, cooldown: float) -> Array:
        n = length(cooldown)
        fall = np.interp(np.arange(n) / n, np.linspace(0, 1, len(shape)), shape)
        return np.concatenate([old[:at], np.full(room - n, factor * level), factor * level * fall])

    def lr_ratio(factor: float, cooldown: float) -> float:
        return bound(extended(factor, cooldown)).best_lr(distance)

    def value(factor: float, cooldown: float) -> float:
        return bound(extended(factor, cooldown)).value(1.0, distance)

    same = fraction * new_total
    reference = bound(extended(1.0, same)).best_value(distance)

    def plan(factor: float, cooldown: float) -> Plan:
        n = length(cooldown)
        tail = Schedule.tail() if factor == 1 else Schedule.tail().jump(factor * level)
        tail = tail.hold(room - n) if room > n else tail
        if isinstance(end, To):
            tail = tail.to(factor * level / old[begin] * end.value, n, shape=end.shape, space=end.space, grid=end.grid)
        else:
            tail = tail.table(shape.tolist(), n)
        relative = value(factor, cooldown) / reference
        return Plan(factor, n, relative, lr_ratio(factor, cooldown), whole.splice(at, tail, total=len(old)))

    longer = plan(1.0, _least(lambda cooldown: lr_ratio(1.0, cooldown) >= 1, same, room))
    down = plan(math.exp(-_least(lambda x: lr_ratio(math.exp(-x), same) >= 1, 0.0, _SMALLEST)), same)
    best_cooldown = _minimum(lambda cooldown: value(_best_factor(value, cooldown), cooldown), 1.0, room)
    candidates = [plan(_best_factor(value, best_cooldown), best_cooldown), longer, down, plan(1.0, same)]
    return Extension(
        at, int(new_total), longer, down, min(candidates, key=lambda candidate: candidate.bound), candidates[-1]
    )


_SMALLEST = math.log(100.0)  # factors down to 1/100 are looked at


def _cooldown_begins(eta: Array) -> int:
    """The last step before the multipliers fall for the last time."""
    rises = np.flatnonzero(np.diff(eta) > 0)
    first = int(rises[-1]) + 1 if rises.size else 0
    begin = int(np.flatnonzero(eta[first:] == eta[first])[-1]) + first
    if begin == len(eta) - 1:
        raise ValueError("the schedule has no cooldown: its multipliers never fall at the end")
    return begin


def _best_factor(value: Callable[[float, float], float], cooldown: float) -> float:
    return math.exp(-_minimum(lambda x: value(math.exp(-x), cooldown), 0.0, _SMALLEST))


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least x in [low, high] where ``holds`` begins to, found on a grid, then by bisection; ``high`` if nowhere."""
    grid = np.linspace(low, high, 65).tolist()
    first = next((i for i, x in enumerate(grid) if holds(x)), len(grid) - 1)
    a, b = grid[max(first - 1, 0)], grid[first]
    for _ in range(20 if first else 0):
        middle = (a + b) / 2
        a, b = (a, middle) if holds(middle) else (middle, b)
    return float(b)


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum has it, by golden sections."""
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(18):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = function(right)
    return (low + high) / 2
