"""The state of a scheduler: plain numbers out, and in again under a schedule that may have changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .others import note, report, wrote_last
from .tracks import Numbers, Track

if TYPE_CHECKING:
    from .scheduler import Scheduler

VERSION = 1


class State(NamedTuple):
    """A scheduler's state, ours or torch's; None for what it does not say."""

    t: float
    base: Numbers
    last: Numbers
    in_charge: bool | None
    """Whether this scheduler, of several of ours, was the one that set the lr last."""
    lrs: Sequence[float] | None
    """Those of the groups, which others may have changed since."""


def state_of(scheduler: Scheduler) -> dict[str, Any]:
    """The clock, the base values, the values written last and the schedule, as plain numbers, strings and lists.

    Also the lr of the groups and whether it was this scheduler that set it: others may have, as in SequentialLR.
    """
    return {
        "version": VERSION,
        "t": scheduler.last_epoch,
        "base": scheduler.bases(),
        "last": scheduler.get_last_values(),
        "lr": [float(group["lr"]) for group in scheduler.optimizer.param_groups],
        "in_charge": wrote_last(scheduler),
        "total": scheduler.total,
        "plan": _written(scheduler.plan),
        "groups": {str(key): _written(tracks) for key, tracks in scheduler.special.items()},
    }


def _written(tracks: Mapping[str, Track]) -> dict[str, Any] | None:
    """The lr's schedule and the tracks of other keys; None where a shape is a function that has no name."""
    try:
        written = {key: track.to_dict() for key, track in tracks.items()}
    except ValueError:
        return None
    return {key: track["schedule"] if key == "lr" else track for key, track in written.items()}


def restore(scheduler: Scheduler, state: Mapping[str, Any], on_change: str, config: Numbers | None) -> None:
    """Put a state into a scheduler, or raise and leave all as it is; see :meth:`Scheduler.load_state_dict`.

    ``config`` are the base values that count instead of the state's, if any.
    """
    groups = scheduler.optimizer.param_groups
    saved = _read(state, groups)
    if len(saved.base) > len(groups):
        raise ValueError(
            f"the state has {len(saved.base)} groups, the optimizer {len(groups)}: add the missing ones first"
        )
    before, mine = [dict(group) for group in groups], scheduler.configured
    in_charge, writes = _in_charge(scheduler, saved)
    if on_change == "use_saved":
        _use_saved(scheduler, state)
    try:
        for group, numbers in zip(groups, saved.base if config is None else config, strict=False):
            group.update({f"initial_{key}": number for key, number in numbers.items()})
        values = scheduler.values(saved.t)
        changes = _changes(saved.t, saved.last, values) if in_charge else []
        changes += _overruled(mine, saved.base) if config is None else []
        report(changes, on_change)
    except Exception:
        for group, old in zip(groups, before, strict=True):
            group.clear()
            group.update(old)
        raise
    scheduler.last_epoch = saved.t
    if writes:
        scheduler.write(values)
        return
    written = [{**new, **old} for new, old in zip(values, saved.last, strict=False)]
    scheduler.last = written + values[len(written) :]
    if in_charge:
        note(scheduler.optimizer, scheduler.last, saved.t)


def _read(state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> State:
    """A state, ours or torch's, for an optimizer with these groups."""
    if "t" in state:
        if state.get("version") != VERSION:
            raise ValueError(
                f"the state has version {state.get('version')!r}, this release reads {VERSION}: update optzoo"
            )
        return State(state["t"], state["base"], state["last"], state.get("in_charge"), state.get("lr"))
    if "last_epoch" not in state:
        found = ", ".join(map(repr, list(state)[:4])) or "nothing"
        raise ValueError(f"load_state_dict takes what state_dict() of a scheduler returned; this has {found}")
    last = [{"lr": float(lr)} for lr in state.get("_last_lr", [])]
    return State(state["last_epoch"], _peaks(state, groups), last, None, None)


def _peaks(state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Numbers:
    """The base values in a state of torch's: the lr that multiplier 1 stands for.

    That of OneCycleLR and CyclicLR is the largest; their own base lr is the smallest or the first. OneCycleLR has it in
    the groups of the optimizer alone: where that was not loaded, its own lr is all there is.
    """
    if "_schedule_phases" in state:
        return [{"lr": float(group["max_lr"])} if "max_lr" in group else {} for group in groups]
    return [{"lr": float(lr)} for lr in state.get("max_lrs", state.get("base_lrs", []))]


def _in_charge(scheduler: Scheduler, saved: State) -> tuple[bool, bool]:
    """Whether it was this scheduler that set the lr of the saved run, and whether the lr was still that."""
    if saved.t < 0:  # of a later member of a SequentialLR
        return False, False
    if saved.in_charge is not None and saved.lrs is not None:
        return saved.in_charge, saved.in_charge and _equal(saved.lrs, saved.last)
    now = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
    likely = not saved.last or any(_equal(now, written) for written in (saved.last, scheduler.last))
    return likely, likely


def _equal(lrs: Sequence[float], written: Numbers) -> bool:
    return all(math.isclose(lr, numbers["lr"], rel_tol=1e-6) for lr, numbers in zip(lrs, written, strict=False))


def _use_saved(scheduler: Scheduler, state: Mapping[str, Any]) -> None:
    plan, groups = state.get("plan"), state.get("groups", {})
    if not plan or None in groups.values():
        raise ValueError(
            "on_change='use_saved', but the state has no schedule that was written down; take 'warn' or 'ok'"
        )
    tracks = {key: track for key, track in plan.items() if key != "lr"}
    scheduler.lay_out(plan["lr"], state["total"], tracks, groups)


def _changes(t: float, last: Numbers, values: Numbers) -> list[str]:
    """What the schedule now says otherwise than the state has it."""
    return [
        f"schedule changed: at step {t:g} group {number} {key} {old[key]:.6g} (checkpoint) -> {new[key]:.6g} (now)"
        for number, (old, new) in enumerate(zip(last, values, strict=False))
        for key in new
        if key in old and not math.isclose(old[key], new[key], rel_tol=1e-9, abs_tol=1e-15)
    ]


def _overruled(config: Numbers, saved: Numbers) -> list[str]:
    """Base values of the constructor's that loading overrules."""
    return [
        f"base {key} of group {number} is the checkpoint's {old[key]:.6g}, not {new[key]:.6g} (base='config' takes it)"
        for number, (new, old) in enumerate(zip(config, saved, strict=False))
        for key in new
        if key in old and not math.isclose(new[key], old[key], rel_tol=1e-9)
    ]
