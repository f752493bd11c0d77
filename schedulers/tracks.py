"""Keys of a parameter group over time: what is written there at a step, and how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from .lengths import Run
from .options import with_named_options
from .phases import finite
from .resolved import Resolved
from .schedule import Schedule
from .shapes import choice, nearest
from .sources import read_schedule

MODES = ("scale", "set", "follow")
Numbers: TypeAlias = "list[dict[str, float]]"
"""Per group numbers by key."""


@with_named_options
@dataclass(frozen=True)
class Track:
    """What becomes of one key of the groups, beside the learning rate.

    Args:
        mode: ``"scale"``, the group's own value times the schedule; ``"set"``, the schedule itself; ``"follow"``, the
            group's own value times the lr's multiplier to a ``power``.
        schedule: a Schedule or what one is read from. Not with ``"follow"``.
        power: of ``"follow"``. Default 1: the key goes with the learning rate. With -1, weight decay that an optimizer
            multiplies by the learning rate stays what it is; the learning rate must then not come to 0.
        missing: what to do about groups that lack the key: ``"error"`` (default) or ``"skip"``.
    """

    mode: str
    schedule: Schedule | None = None
    power: float = 1.0
    missing: str = "error"

    def __post_init__(self) -> None:
        choice("mode of a track", self.mode, MODES)
        choice("value of missing", self.missing, ("error", "skip"))
        finite("power", self.power)
        if (self.schedule is None) != (self.mode == "follow"):
            raise ValueError(
                f"a track with mode {self.mode!r} " + ("takes no" if self.schedule else "needs a") + " schedule"
            )
        if self.schedule is not None:
            object.__setattr__(self, "schedule", read_schedule(self.schedule))

    @property
    def uses_untuned(self) -> bool:
        """Whether a length depends on the optimizer."""
        return self.schedule is not None and self.schedule.uses("untuned")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        written = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**written, "schedule": self.schedule and self.schedule.to_list()}


def read_track(key: str, given: Any) -> Track:
    """A track as a user writes it: a Track, ``"follow"``, or a mapping with its arguments."""
    if key == "lr":
        raise ValueError("the lr is what the schedule itself is for; tracks are for other keys, such as 'weight_decay'")
    if isinstance(given, Track):
        return given
    if given == "follow":
        return Track("follow")
    for name in given if isinstance(given, Mapping) else ():
        choice(f"key of track {key!r}:", name, [f.name for f in fields(Track)])
    if not isinstance(given, Mapping) or "mode" not in given:
        raise ValueError(
            f"track {key!r} must say what its schedule is: {{'mode': 'scale', 'schedule': ...}} multiplies the group's "
            f"own value, {{'mode': 'set', 'schedule': ...}} is the value, 'follow' goes with the lr; got {given!r}"
        )
    try:
        return Track(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"track {key!r}: {error}") from error


class BoundTrack(NamedTuple):
    """A track with its schedule resolved; that of the learning rate has mode "scale"."""

    mode: str
    curve: Resolved | None
    power: float
    skip: bool

    def factor(self, t: float, lr_factor: float) -> float:
        """The value at t, or in modes other than "set" what the group's own value is multiplied by."""
        return float(lr_factor**self.power) if self.curve is None else self.curve(t)


def bind(key: str, track: Track, run: Run, lr: Resolved | None) -> BoundTrack:
    """The track over a run, whose learning rate has the multipliers ``lr``."""
    if track.schedule is None:
        if track.power < 0 and lr is not None and min(key_frames(lr)) == 0:
            raise ValueError(
                f"track {key!r} follows the lr to the power {track.power:g}, and the lr comes to 0; let it start and "
                "end above 0"
            )
        return BoundTrack(track.mode, None, track.power, track.missing == "skip")
    try:
        curve = track.schedule.resolve_in(run)
    except ValueError as error:
        raise ValueError(f"track {key!r}: {error}" if key != "lr" else str(error)) from error
    if track.mode == "scale" and min(key_frames(curve)) < 0:
        raise ValueError(
            f"{key} is multiplied by the schedule, which must not be negative; it comes to {min(key_frames(curve)):g}"
        )
    return BoundTrack(track.mode, curve, track.power, track.missing == "skip")


def key_frames(curve: Resolved) -> list[float]:
    """The values at which phases begin and end."""
    ends = [segment.curve(segment.length) for segment in curve.segments if segment.length is not None]
    return [segment.curve(0) for segment in curve.segments] + ends


class Key:
    """A number in a group: ``"weight_decay"``, or ``"betas[2]"`` for an entry of a tuple."""

    def __init__(self, text: str) -> None:
        found = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", text)
        if not found:
            raise ValueError(f"a track is a key of the groups, such as 'weight_decay' or 'betas[2]', not {text!r}")
        self.text, self.name, self.initial = text, found[1], f"initial_{text}"
        self.index = None if found[2] is None else int(found[2])

    def check(self, group: Mapping[str, Any], number: int) -> None:
        """Raise where the group has no such number."""
        if self.text == "lr" and group.get("lr") is None:
            raise ValueError(
                f"group {number} has no lr to schedule, there is {group.get('lr')!r}: its optimizer sets its own step "
                "size, as transformers' Adafactor by default. Give it an lr (transformers' also relative_step=False), "
                "or take optzoo's Adafactor, whose lr is a factor of the relative step"
            )
        if self.name not in group:
            numeric = [
                k
                for k, v in group.items()
                if isinstance(v, (int, float, tuple)) and not isinstance(v, bool) and k != "lr"
            ]
            hint = nearest(self.name, numeric, "it has")
            raise ValueError(
                f"group {number} has no {self.name!r} for a track; {hint}{'' if hint.endswith('?') else '.'} "
                "missing='skip' leaves such groups out"
            )
        value = group[self.name]
        if self.index is not None:
            if not isinstance(value, (tuple, list)):
                raise ValueError(
                    f"track {self.text!r}: {self.name} of group {number} is {value!r}, which has no entries"
                )
            if self.index >= len(value):
                raise ValueError(
                    f"track {self.text!r}, but {self.name} of group {number} has {len(value)} entries: {value}"
                )
            value = value[self.index]
        if isinstance(value, (bool, str)) or not isinstance(value, (int, float, Tensor)):
            raise ValueError(f"track {self.text!r} needs a number in group {number}, there is {value!r}")

    def read(self, group: Mapping[str, Any]) -> float:
        """The value as a plain number."""
        value = group[self.name]
        return float(value if self.index is None else value[self.index])

    def write(self, group: dict[str, Any], number: float) -> None:
        """Put the number there; a Tensor is filled, a tuple stays a tuple."""
        if self.index is None:
            group[self.name] = _replaced(group[self.name], number)
            return
        entries = list(group[self.name])
        entries[self.index] = _replaced(entries[self.index], number)
        group[self.name] = type(group[self.name])(entries)


def _replaced(value: Any, number: float) -> Any:
    return value.fill_(number) if isinstance(value, Tensor) else number


def separate(groups: Iterable[dict[str, Any]], names: Iterable[str]) -> None:
    """Give every group tensors of its own under ``names``: torch's optimizers hand one to all, and it has one value."""
    held: set[int] = set()

    def own(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(map(own, value))
        if isinstance(value, Tensor):
            value = value.detach().clone() if id(value) in held else value
            held.add(id(value))
        return value

    for group in groups:
        group.update({name: own(group[name]) for name in names if name in group})


LR = Key("lr")


def untuned_length(optimizer: Optimizer) -> int:
    """2/(1-β2), the linear warm-up that needs no tuning (arXiv:1910.04209); of several β2 the largest."""
    name = type(optimizer).__name__
    if "RAdam" in name:
        raise ValueError(f"{name} warms up by itself: leave the 'untuned' warm-up out, or give its length in steps")
    decays = []
    for group in optimizer.param_groups:
        betas = group.get("betas", ())
        decay = betas[1] if len(betas) > 1 else group.get("alpha", 0) if "betas" not in group else 0
        decays.append(float(decay))
    if not all(0 < decay < 1 for decay in decays):
        raise ValueError(
            f"'untuned' is 2/(1-beta2) of an optimizer, and {name} has no beta2 (betas[1], or alpha as in RMSprop); "
            "give the warm-up's length in steps"
        )
    return round(2 / (1 - max(decays)))
