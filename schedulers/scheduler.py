"""A schedule in an optimizer: torch's LRScheduler over a pure function of the step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypedDict

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optzoo.unwrapping import unwrapped

from . import others as beside
from .lengths import Run, checked_total
from .listening import Listener
from .options import named
from .resolved import Resolved
from .restoring import restore, state_of
from .schedule import Schedule
from .shapes import choice
from .sources import read_schedule
from .tracks import LR, BoundTrack, Key, Numbers, Track, bind, read_track, separate, untuned_length

CLOCKS = ("calls", "optimizer", "epochs", "samples", "tokens")
CHANGES = ("warn", "raise", "ok", "use_saved")
FEW = 5
"""Optimizer steps before one call of step() from which on somebody seems to call it once an epoch."""


class SchedulerOptions(TypedDict, total=False):
    """Keyword options of every scheduler here; :class:`Scheduler` says what they mean."""

    tracks: dict[str, Any] | None
    groups: dict[Any, Any] | None
    clock: str
    steps_per_epoch: int | None
    on_change: str
    base: str
    others: str
    last_epoch: int


class Scheduler(LRScheduler):
    """Set the learning rate, and whatever else changes, to what a schedule says for the step that comes.

        lr(group) = base lr of the group · f(t) · lr_scale of the group (1 if it has none)

    f is the schedule resolved against ``total``: a pure function of the clock t, the number of steps taken. The base is
    ``initial_lr`` of the group, the lr it had before any scheduler.

    Call ``step()`` after every ``optimizer.step()``, or let the optimizer do it with ``clock="optimizer"``.

    The lr is set, not multiplied, so what others do to it between two steps is overruled. To join schedules, multiply
    them: ``Scheduler(optimizer, a * b)``. ReduceLROnPlateau beside this one, or torch's schedulers beside it in
    ChainedScheduler, need ``others="multiply"``.

    Args:
        optimizer: any torch optimizer.
        schedule: a :class:`Schedule`, a list of phases, or a string: a YAML or JSON file or text, or a preset such as
            ``"wsd,cooldown=0.1"``.
        total: steps of the run, in units of the clock. Default None, where the schedule needs none.
        tracks: further keys of the groups, by name; see :class:`Track`. ``{"weight_decay": "follow", "betas[2]":
            {"mode": "set", "schedule": ...}}``.
        groups: what differs in some groups, by index or the group's ``"name"``: a schedule of the lr, or a mapping of
            keys, ``"lr"`` for its schedule and others for tracks.
        clock: what counts. ``"calls"`` (default): calls of ``step()``. ``"optimizer"``: steps the optimizer really
            took, not those a GradScaler skipped; ``step()`` then does nothing, so it may be called at any time, as
            frameworks do. The optimizer keeps the scheduler, until :meth:`remove` or another with the same keys takes
            its place; a copy of the optimizer alone has none, nor has its ``state_dict()``: hold the scheduler and save
            its own to resume. Not within ``torch.compile(fullgraph=True)``, in
            SequentialLR, or where backward() steps several optimizers. ``"epochs"``: calls of ``step()``, once an
            epoch. ``"samples"``, ``"tokens"``: what :meth:`advance` is told.
        steps_per_epoch: what lengths such as ``"3ep"`` count in.
        on_change: what to do if a loaded state had other values at its step: ``"warn"`` (default) and go on with the
            new schedule, ``"raise"``, ``"ok"``, or ``"use_saved"``: go on with the schedule of the state. Likewise if
            the lr was changed by hand since an earlier schedule, whose base counts.
        base: which base values count. ``"saved"`` (default): of a loaded state, and before one is loaded those an
            earlier schedule left in the groups, as in torch. ``"current"``: what the groups hold now, for a second
            stage at another lr; still those of a state that is loaded. ``"config"``: as ``"saved"``, but this
            constructor's after loading.
        others: what becomes of an lr that others changed between two steps: ``"warn"`` (default) once and overrule it,
            ``"overrule"``, or ``"multiply"``: keep the factor, in ``lr_scale`` of the group.
        last_epoch: as in torch: -1 (default) for a fresh start, else the clock to go on from.

    Raises:
        TypeError: not an optimizer; a schedule of a strange type.
        ValueError: a schedule that does not fit the total, with its numbers; an unknown group, key, clock or option.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    >>> scheduler = Scheduler(optimizer, Schedule(start=0).to(1, 2).hold().to(0, 0.5), total=8)
    >>> lrs = []
    >>> for _ in range(8):
    ...     lrs.append(optimizer.param_groups[0]["lr"])
    ...     optimizer.step()
    ...     scheduler.step()
    >>> lrs
    [0.0, 0.05, 0.1, 0.1, 0.1, 0.07500000000000001, 0.05, 0.025]
    """

    @named
    def __init__(
        self,
        optimizer: Optimizer,
        schedule: list[dict[str, Any]] | str | Schedule,
        total: int | None = None,
        *,
        tracks: dict[str, Any] | None = None,
        groups: dict[Any, Any] | None = None,
        clock: str = "calls",
        steps_per_epoch: int | None = None,
        on_change: str = "warn",
        base: str = "saved",
        others: str = "warn",
        last_epoch: int = -1,
    ) -> None:
        # Not super().__init__(): it replaces optimizer.step to warn of an order of calls that does not matter here, and
        # cannot replace a compiled one.
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer; give the optimizer itself")
        choice("clock", clock, CLOCKS)
        choice("on_change", on_change, CHANGES)
        choice("base", base, ("saved", "current", "config"))
        choice("others", others, beside.OTHERS)
        if last_epoch != -1 and base == "current":
            raise ValueError(f"last_epoch={last_epoch} goes on with a schedule, base='current' begins one; take one")
        if last_epoch != -1 and any("initial_lr" not in group for group in optimizer.param_groups):
            raise ValueError(
                f"last_epoch={last_epoch} goes on with a run, whose groups have 'initial_lr'; load the optimizer's "
                "state first, or leave last_epoch=-1 and load the scheduler's"
            )
        if clock == "optimizer" and not hasattr(unwrapped(optimizer), "_optimizer_step_post_hooks"):
            raise ValueError(
                f"{type(optimizer).__name__} has no step hooks, by which clock='optimizer' counts; leave clock='calls' "
                "and call step() after optimizer.step()"
            )
        self.optimizer = optimizer
        self.clock, self.on_change, self.others, self._base = clock, on_change, others, base
        self._steps_per_epoch = checked_total(steps_per_epoch, "steps_per_epoch")
        self.lay_out(schedule, total, tracks or {}, groups or {})
        self.last_epoch: float = last_epoch  # type: ignore[assignment]
        self._warned = self.said_overruled = False
        replaced = [] if last_epoch != -1 else beside.begin(self, base)
        self._initial_step()
        self._replaced = replaced  # to be said at the first step
        self.configured = self.bases()
        self._listen()
        beside.supersede(self)

    def lay_out(self, schedule: Any, total: int | None, tracks: Mapping[str, Any], groups: Mapping[Any, Any]) -> None:
        """Resolve everything, or raise for what does not fit and change nothing."""
        plan = {"lr": Track("scale", read_schedule(schedule))}
        plan |= {key: read_track(key, track) for key, track in tracks.items()}
        special = {self._group_key(key): _overrides(override) for key, override in groups.items()}
        run = Run(checked_total(total), self._steps_per_epoch)
        if any(track.uses_untuned for part in (plan, *special.values()) for track in part.values()):
            run = replace(run, untuned=untuned_length(self.optimizer))
        bound = {key: _bound({**plan, **part}, run) for key, part in ((None, {}), *special.items())}
        keys = {key: Key(key) for part in bound.values() for key in part}
        self.total, self.plan, self.special, self._bound, self._keys = run.total, plan, special, bound, keys

    def _group_key(self, key: Any) -> int | str:
        """The index or name of a group that exists."""
        groups = self.optimizer.param_groups
        names = [group["name"] for group in groups if "name" in group]
        if isinstance(key, str) and key not in names and key.isdigit():
            key = int(key)  # keys of JSON and of a command line are strings
        if key not in names and not (isinstance(key, int) and 0 <= key < len(groups)):
            known = f"names {', '.join(map(repr, names))}" if names else "no names (add 'name' to the group dicts)"
            raise ValueError(f"there is no group {key!r}; the optimizer has groups 0 to {len(groups) - 1}, {known}")
        return key  # type: ignore[no-any-return]

    # The clock

    def _listen(self) -> None:
        """Hear of the optimizer's steps: of all if they are the clock, else up to the first call of step()."""
        self._heard, self._hook = 0, None
        optimizer = unwrapped(self.optimizer)
        if self.clock in ("optimizer", "calls") and hasattr(optimizer, "_optimizer_step_post_hooks"):
            self._hook = Listener(self, optimizer).handle

    def remove(self) -> None:
        """Leave the optimizer, which then no longer counts for this scheduler; its values stay as they are."""
        hook, self._hook = self._hook, None
        if hook is not None:
            hook.remove()

    def optimizer_stepped(self, optimizer: Optimizer) -> None:
        """Called by the optimizer after each of its steps."""
        found_inf = getattr(optimizer, "found_inf", None)  # of a GradScaler that leaves skipping to the optimizer
        if found_inf is not None and found_inf.item():
            return
        self._heard += 1
        if self.clock == "optimizer":
            self._count()

    def step(self, epoch: float | None = None) -> None:
        """Count one step; ``epoch`` sets the clock instead, as in torch.

        With ``clock="optimizer"`` nothing happens, for the optimizer's own steps count; nor in samples and tokens, see
        :meth:`advance`.
        """
        if epoch is not None:
            self.step_to(epoch)
        elif self.clock in ("calls", "epochs"):
            self._check_calls()
            self._step_count += 1  # which torch's and Accelerate's code reads; the clock is last_epoch
            self._count()

    def _count(self) -> None:
        replaced, self._replaced = self._replaced, []
        beside.report(replaced, self.on_change)
        beside.meet(self)
        self._update_lr()

    def _check_calls(self) -> None:
        """At the first call: whether it comes after suspiciously many steps of the optimizer."""
        if self._hook is None:
            return
        self.remove()
        if FEW <= self._heard <= (self.total or 0):
            warnings.warn(
                f"step() is called once per {self._heard} optimizer steps, and total is {self.total}: if that counts "
                "optimizer steps, call step() after each (in Lightning with 'interval': 'step', see lightning()), or "
                "take clock='optimizer'; if it counts epochs, clock='epochs'",
                stacklevel=3,
            )

    def advance(self, n: float = 1) -> None:
        """Move the clock on by ``n`` steps, samples or tokens."""
        if not n >= 0:
            raise ValueError(f"the clock goes forward: advance(n) needs n >= 0, got {n!r}")
        self.step_to(self.last_epoch + n)

    def step_to(self, t: float) -> None:
        """Set the clock, which need not be whole, and the values with it."""
        self._update_lr(t)

    def _initial_step(self) -> None:
        self._step_count = 1
        self._update_lr()

    def _update_lr(self, epoch: float | None = None) -> None:
        """Set the clock, by default to the next step, and write what is due. SequentialLR calls it with 0."""
        t = self.last_epoch + 1 if epoch is None else epoch
        self._heard, self._replaced = 0, []
        values = self.values(t)  # raises before anything is changed
        self._warn_of_end(t)
        self.last_epoch = t
        self.write(values)

    def _warn_of_end(self, t: float) -> None:
        """Once, when an optimizer step has been taken behind the end, which is when t goes beyond it."""
        end, after = self.resolved.total, self.resolved.schedule.after
        if self._warned or end is None or t <= end or after != "hold":
            return
        self._warned = True
        value = self.resolved(end)
        does = "do nothing" if value == 0 else f"go on with {value:g} times the base lr"
        warnings.warn(
            f"the schedule ended at {end} with value {value:g}: this and later updates {does}. Give it a larger total, "
            "or end the training",
            stacklevel=4,
        )

    # Values

    @property
    def keys(self) -> set[str]:
        """The keys of the groups that are set."""
        return set(self._keys)

    @property
    def resolved(self) -> Resolved:
        """The schedule of the learning rate, as a function of the step: its multipliers."""
        curve = self._bound[None]["lr"].curve
        assert curve is not None
        return curve

    def values(self, t: float) -> Numbers:
        """Per group what each key of it is at step ``t``."""
        return [
            self._group_values(number, group, max(t, 0)) for number, group in enumerate(self.optimizer.param_groups)
        ]

    def _group_values(self, number: int, group: dict[str, Any], t: float) -> dict[str, float]:
        values, lr_factor = {}, 1.0
        for key, track in self.active(number, group):
            factor = track.factor(t, lr_factor)
            if key.text == "lr":
                lr_factor = factor
                factor *= float(group.get("lr_scale", 1.0))
            values[key.text] = factor if track.mode == "set" else factor * _base(group, key)
        return values

    def active(self, number: int, group: Mapping[str, Any]) -> Iterator[tuple[Key, BoundTrack]]:
        """The keys that are set in a group, the lr first."""
        special = next((key for key in (group.get("name"), number) if key in self.special), None)
        for name, track in self._bound[special].items():
            key = self._keys[name]
            if not (track.skip and key.name not in group):
                key.check(group, number)
                yield key, track

    def write(self, values: Numbers) -> None:
        """Put values into the groups."""
        separate(self.optimizer.param_groups, {key.name for key in self._keys.values()})
        for number, (group, numbers) in enumerate(zip(self.optimizer.param_groups, values, strict=True)):
            for key, track in self.active(number, group):
                if track.mode != "set" and key.initial not in group:
                    group[key.initial] = key.read(group)
                key.write(group, numbers[key.text])
        self.last = values
        beside.note(self.optimizer, values, self.last_epoch)
        self.base_lrs: list[float | Tensor] = [_base(group, LR) for group in self.optimizer.param_groups]
        self._last_lr = [_copy(group["lr"]) for group in self.optimizer.param_groups]

    def bases(self) -> Numbers:
        """Per group its own values, those that are multiplied."""
        return [
            {key.text: _base(group, key) for key, track in self.active(number, group) if track.mode != "set"}
            for number, group in enumerate(self.optimizer.param_groups)
        ]

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates of the step that comes, a closed form."""
        return self.value_at(self.last_epoch)  # type: ignore[return-value]

    _get_closed_form_lr = get_lr

    def value_at(self, t: float, key: str = "lr") -> list[float]:
        """Per group what the learning rate, or another key that has a track, is at step ``t``."""
        choice("track", key, self._keys)
        return [values[key] for values in self.values(t) if key in values]

    def get_last_values(self) -> list[dict[str, float]]:
        """Per group the values written last, by key."""
        return [dict(values) for values in self.last]

    # State

    def state_dict(self) -> dict[str, Any]:
        """The clock, the base values, the values written last and the schedule, as plain numbers, strings and lists."""
        return state_of(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a run was, with the schedule of this constructor, and write its values into the optimizer.

        If they differ from those the state has for its step, ``on_change`` says what happens. The state may also be
        of a scheduler of torch or of Hugging Face transformers, whose clock and base values are taken.

        Load the optimizer's state first. Where the learning rate of the saved run was not this scheduler's, as in
        torch's SequentialLR, only the clock is restored.

        Raises ValueError, and leaves all as it is, for what is no state, and for a change with ``on_change="raise"``.
        """
        restore(self, state_dict, self.on_change, self.configured if self._base == "config" else None)
        self._replaced = []

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_hook"}  # which is of this very optimizer

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        beside.note(self.optimizer, self.last, self.last_epoch)
        self._listen()

    def lightning(self) -> dict[str, Any]:
        """What ``configure_optimizers`` of a LightningModule returns under ``"lr_scheduler"``."""
        return {"scheduler": self, "interval": "epoch" if self.clock == "epochs" else "step"}


def _overrides(given: Any) -> dict[str, Track]:
    """What a user sets for one group: a schedule of the lr, or with a mapping that of the lr and tracks, by key."""
    if not isinstance(given, Mapping):
        given = {"lr": given}
    return {
        key: Track("scale", read_schedule(track)) if key == "lr" else read_track(key, track)
        for key, track in given.items()
    }


def _bound(plan: Mapping[str, Track], run: Run) -> dict[str, BoundTrack]:
    lr = bind("lr", plan["lr"], run, None)
    return {"lr": lr} | {key: bind(key, track, run, lr.curve) for key, track in plan.items() if key != "lr"}


def _base(group: Mapping[str, Any], key: Key) -> float:
    """The group's own value: what it was when the first scheduler saw it."""
    initial = group.get(key.initial)
    return key.read(group) if initial is None else float(initial)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
