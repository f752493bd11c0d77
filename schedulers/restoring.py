"""The state of a scheduler: plain numbers out, and in again under a schedule that may have changed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from .scheduler import Scheduler
    from .tracks import Track

VERSION = 1
Numbers: TypeAlias = "list[dict[str, float]]"
"""Per group numbers by key."""


def state_of(scheduler: Scheduler) -> dict[str, Any]:
    """The clock, the base values, the values written last and the schedule, as plain numbers, strings and lists."""
    return {
        "version": VERSION,
        "t": scheduler.last_epoch,
        "base": scheduler.bases(),
        "last": scheduler.get_last_values(),
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
    t, base, last = _read(state)
    groups = scheduler.optimizer.param_groups
    if len(base) > len(groups):
        raise ValueError(f"the state has {len(base)} groups, the optimizer {len(groups)}: add the missing ones first")
    before, mine = [dict(group) for group in groups], scheduler.configured
    in_charge = t >= 0 and _in_charge(scheduler, last)
    if on_change == "use_saved":
        _use_saved(scheduler, state)
    try:
        for group, numbers in zip(groups, base if config is None else config, strict=False):
            group.update({f"initial_{key}": number for key, number in numbers.items()})
        values = scheduler.values(t)
        changes = _changes(t, last, values) if in_charge else []
        changes += _overruled(mine, base) if config is None else []
        if changes and on_change == "raise":
            raise ValueError(f"{'; '.join(changes)} (on_change='raise')")
    except Exception:
        for group, old in zip(groups, before, strict=True):
            group.clear()
            group.update(old)
        raise
    if changes and on_change == "warn":
        warnings.warn(f"{'; '.join(changes)}. on_change='ok' accepts this silently", stacklevel=3)
    scheduler.last_epoch = t
    if in_charge:
        scheduler.write(values)


def _read(state: Mapping[str, Any]) -> tuple[float, Numbers, Numbers]:
    """Clock, base values and last values of a state, ours or torch's."""
    if "t" in state:
        if state.get("version") != VERSION:
            raise ValueError(
                f"the state has version {state.get('version')!r}, this release reads {VERSION}: update optzoo"
            )
        return state["t"], state["base"], state["last"]
    if "last_epoch" not in state:
        found = ", ".join(map(repr, list(state)[:4])) or "nothing"
        raise ValueError(f"load_state_dict takes what state_dict() of a scheduler returned; this has {found}")
    base, last = ([{"lr": float(lr)} for lr in state.get(key, [])] for key in ("base_lrs", "_last_lr"))
    return state["last_epoch"], base, last


def _in_charge(scheduler: Scheduler, last: Numbers) -> bool:
    """Whether the optimizer's lr is the state's or what this scheduler wrote; else another scheduler sets it now."""
    now = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
    return not last or any(
        all(math.isclose(lr, numbers["lr"], rel_tol=1e-6) for lr, numbers in zip(now, written, strict=False))
        for written in (last, scheduler.get_last_values())
    )


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
