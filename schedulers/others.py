"""Who else writes what a scheduler writes: schedules before it, other schedulers, users."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer

from .listening import self_counting
from .tracks import Numbers

if TYPE_CHECKING:
    from .scheduler import Scheduler

OTHERS = ("warn", "overrule", "multiply")


class Written(NamedTuple):
    """The values a scheduler wrote, per group, and its clock."""

    values: Numbers
    t: float


_written: WeakKeyDictionary[Optimizer, Written] = WeakKeyDictionary()
"""What any scheduler here wrote last into an optimizer."""


def note(optimizer: Optimizer, values: Numbers, t: float) -> None:
    """Remember who wrote last: the scheduler that holds these very values."""
    _written[optimizer] = Written(values, t)


def wrote_last(scheduler: Scheduler) -> bool:
    """Whether no other scheduler here wrote after this one."""
    written = _written.get(scheduler.optimizer)
    return written is not None and written.values is scheduler.last


def report(changes: list[str], on_change: str) -> None:
    """Say what is otherwise than somebody may expect, or refuse it."""
    if changes and on_change == "raise":
        raise ValueError(f"{'; '.join(changes)} (on_change='raise')")
    if changes and on_change == "warn":
        warnings.warn(f"{'; '.join(changes)}. on_change='ok' accepts this silently", stacklevel=4)


# A schedule before


def begin(scheduler: Scheduler, base: str) -> list[str]:
    """Choose the base values of a new schedule.

    Returns what is to be said at its first step: base values of a schedule before that somebody has replaced by hand.
    It is said at once where a schedule here has run on the optimizer. Else the optimizer may come from a checkpoint,
    whose scheduler state is still to be loaded.
    """
    keys = [
        (number, group, key)
        for number, group in enumerate(scheduler.optimizer.param_groups)
        for key, track in scheduler.active(number, group)
        if track.mode != "set" and key.initial in group
    ]
    if base == "current":
        for _, group, key in keys:
            del group[key.initial]
        return []
    written, replaced = _written.get(scheduler.optimizer), []
    for number, group, key in keys:
        now, old = key.read(group), float(group[key.initial])
        made = written.values[number].get(key.text, old) if written and number < len(written.values) else old
        if not (_same(now, old) or _same(now, made)):
            replaced.append(
                f"the base {key.text} of group {number} is {old:.6g}, {key.initial} of an earlier schedule, and not "
                f"{now:.6g}, which it was set to (base='current' takes it)"
            )
    if written is None or written.t <= 0:
        return replaced
    report(replaced, scheduler.on_change)
    return []


def supersede(scheduler: Scheduler) -> None:
    """Remove the self-counting schedulers of an optimizer all of whose keys a new one sets."""
    for old in self_counting(scheduler.optimizer):
        if old is scheduler or not old.keys <= scheduler.keys:
            continue
        old.remove()
        end = math.inf if old.resolved.total is None else old.resolved.total
        if 0 < old.last_epoch < end:
            warnings.warn(
                f"{type(old).__name__}, which counted the steps of this optimizer, ends at step {old.last_epoch:g} of "
                f"{end:g}: {type(scheduler).__name__} takes its place",
                stacklevel=4,
            )


# Others at the same time


def meet(scheduler: Scheduler) -> None:
    """Look whether the lr is what the scheduler wrote, before it writes again, and do what ``others`` says."""
    if scheduler.others == "overrule":
        return
    multiply = scheduler.others == "multiply" and wrote_last(scheduler)
    for number, (group, numbers) in enumerate(zip(scheduler.optimizer.param_groups, scheduler.last, strict=False)):
        wrote = numbers["lr"]
        now = _other_lr(group["lr"], wrote, wait=multiply)
        if now is None:
            continue
        if multiply:
            group["lr_scale"] = float(group.get("lr_scale", 1.0)) * (now / wrote if wrote else 1.0)
        elif not scheduler.said_overruled:
            scheduler.said_overruled = True
            warnings.warn(_overruled(scheduler, number, wrote, now), stacklevel=4)


def _overruled(scheduler: Scheduler, number: int, wrote: float, now: float) -> str:
    said = f"the lr of group {number} was set to {wrote:.6g} by {type(scheduler).__name__} and is {now:.6g} now: "
    if not wrote_last(scheduler):
        return said + (
            "another schedule sets it too, and the last one wins. Multiply schedules (a * b), or make further keys "
            "tracks of one. others='overrule' accepts this silently"
        )
    return said + (
        "something else sets it too (another scheduler, you, or a checkpoint loaded without this scheduler's state), "
        "and it is overruled. others='multiply' keeps such changes as factors, others='overrule' accepts this silently"
    )


def _other_lr(lr: Any, wrote: float, wait: bool) -> float | None:
    """The lr if it is not the one written. That of a Tensor on a device is asked only with ``wait``."""
    if isinstance(lr, Tensor):
        if lr.device.type != "cpu" and not wait:
            return None
        now = float(lr)
        return None if now == float(lr.new_tensor(wrote)) else now
    return None if lr == wrote or _same(lr, wrote) else float(lr)


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6)
