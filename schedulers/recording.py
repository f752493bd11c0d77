"""Gradient norms of a run, as they lie in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .bounds import Array

VERSION = 1
NORMS = ("l1", "l2", "update")


@dataclass
class Recording:
    """Norms at every ``every``-th step of a run of ``total`` steps; nan where a step was not finite."""

    total: int = 0
    every: int = 1
    norms: dict[str, Array] = field(default_factory=dict)
    lrs: Array = field(default_factory=lambda: np.empty(0))
    """The lr of the first group at the same steps; empty where it is not known."""
    optimizer: str = ""

    @classmethod
    def of(cls, source: Any, name: str) -> Recording:
        """A recording with this norm, out of numbers, a recorder, its state or the path of its file."""
        if isinstance(source, (str, os.PathLike)):
            recording, where = load(source), str(source)
        elif isinstance(source, Mapping) or hasattr(source, "state_dict"):
            state = source if isinstance(source, Mapping) else source.state_dict()
            recording, where = cls.from_state(state), "this recording"
        else:
            try:
                values = np.asarray(source, dtype=np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"norms must be numbers, a recording or the path of one, got {source!r}") from None
            if values.ndim != 1:
                raise ValueError(f"norms must be a sequence of numbers, one per step, got shape {values.shape}")
            return cls(len(values), 1, {name: values})
        if name not in recording.norms:
            kinds = ", ".join(recording.norms) or "nothing"
            raise ValueError(
                f"{where} has {kinds} and no {name!r}; record it with norms=({name!r},) or take another kind"
            )
        return recording

    @property
    def multipliers(self) -> Array:
        """What the lr was, one value per step, the largest being 1; linear decay where it is not known."""
        if not np.any(self.lrs > 0):
            return 1 - np.arange(self.total) / self.total
        at = np.arange(len(self.lrs)) * self.every
        known = np.isfinite(self.lrs)
        values: Array = np.interp(np.arange(self.total), at[known], self.lrs[known])
        values /= values.max()
        return values

    @property
    def clipped(self) -> float:
        """The share of steps whose l2 norm is the largest one there is: clipping by norm puts it there."""
        l2 = self.norms.get("l2", np.empty(0))
        l2 = l2[np.isfinite(l2)]
        return float(np.mean(l2 > (1 - 1e-3) * l2.max())) if len(l2) else 0.0

    def state(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; None for a step that was not finite."""
        plain = {
            name: [float(x) if np.isfinite(x) else None for x in values]
            for name, values in {**self.norms, "lr": self.lrs}.items()
        }
        return {
            "version": VERSION,
            "T": self.total,
            "every": self.every,
            "optimizer": self.optimizer,
            "clip": self.clipped,
            **plain,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Recording:
        """What ``state`` returned. Raises ValueError where it is something else."""
        if missing := sorted({"version", "T", "every", "lr"} - set(state)):
            raise ValueError(f"not a recording of gradient norms: it has no {missing[0]!r}")
        if state["version"] != VERSION:
            raise ValueError(f"the recording is of version {state['version']}, this release reads {VERSION}")
        norms = {name: np.array(state[name], dtype=np.float64) for name in NORMS if name in state}
        lrs = np.array(state["lr"], dtype=np.float64)
        return cls(int(state["T"]), int(state["every"]), norms, lrs, str(state.get("optimizer", "")))


def save(recording: Recording, path: str | os.PathLike[str]) -> None:
    """Write a ``.json`` or ``.npz`` file; an existing one is replaced."""
    target, state = _file(path), recording.state()
    part = target.with_name(target.name + ".part")
    if target.suffix == ".json":
        part.write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
    else:
        with part.open("wb") as file:
            np.savez_compressed(file, **{**state, **recording.norms, "lr": recording.lrs})
    os.replace(part, target)  # an end in the middle of a run leaves no half file


def load(path: str | os.PathLike[str]) -> Recording:
    """Read what ``save`` wrote."""
    source = _file(path)
    if source.suffix == ".json":
        try:
            state = json.loads(source.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{source} is not a recording of gradient norms: {error}") from None
        if not isinstance(state, dict):
            raise ValueError(f"{source} is not a recording of gradient norms, but a {type(state).__name__}")
    else:
        with np.load(source, allow_pickle=False) as arrays:
            state = {name: arrays[name] if arrays[name].ndim else arrays[name].item() for name in arrays.files}
    return Recording.from_state(state)


def _file(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if file.suffix not in (".json", ".npz"):
        raise ValueError(f"path must end in .json or .npz, got {str(path)!r}")
    return file
