"""What has changed between two results folders."""

from __future__ import annotations

from typing import NamedTuple

from .results import MISS, Comparison


class Change(NamedTuple):
    """A study whose time to the target is another."""

    problem: str
    optimizer: str
    old: float  # steps; infinity for a miss
    new: float

    @property
    def factor(self) -> float:
        """New over old: above 1 is slower, infinity a new miss, 0 a new hit."""
        return self.new / max(self.old, 1) if self.old < MISS else 0.0

    def __str__(self) -> str:
        old, new = (f"{hit:g}" if hit < MISS else "missed" for hit in (self.old, self.new))
        factor = f" ({self.factor:.2f}×)" if self.old < MISS and self.new < MISS else ""
        return f"{self.problem} {self.optimizer}: {old} → {new}{factor}"


class Changes(NamedTuple):
    """Of two comparisons."""

    changes: list[Change]  # the slowest first
    common: int  # studies in both
    notes: list[str]  # why they may differ


def changes(old: Comparison, new: Comparison) -> Changes:
    """The studies in both whose steps to the target differ.

    Problems of different versions are not compared, and named in the notes; so are other differences of the two.
    """
    notes = [
        f"{what} {old.environment.get(what)} and {new.environment.get(what)}"
        for what in ("optzoo", "torch", "processor")
        if old.environment.get(what) != new.environment.get(what)
    ]
    if old.protocol != new.protocol:
        notes.append("the protocols differ")
    versions = {problem.name: problem.version for problem in old.problems}
    found, common = [], 0
    for problem in new.problems:
        if versions.get(problem.name, problem.version) != problem.version:
            notes.append(f"{problem.name} version {versions[problem.name]} and {problem.version}: not compared")
            continue
        for optimizer in new.optimizers:
            before, after = old.study(problem.name, optimizer), new.study(problem.name, optimizer)
            if before and after:
                common += 1
                if before.hit != after.hit:
                    found.append(Change(problem.name, optimizer, before.hit, after.hit))
    return Changes(sorted(found, key=lambda change: -change.factor), common, notes)
