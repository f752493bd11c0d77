"""What a comparison measures: trials, studies of trials, and the comparison of studies. Pure data, no PyTorch."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

Stage = Literal["screen", "retest", "evaluate"]

MISS = math.inf  # steps to the target of a run that misses it; never the budget, which would flatter a failure


class Evaluation(NamedTuple):
    """The noise-free metric after `step` steps."""

    step: int
    metric: float


def first_hit(curve: Sequence[Evaluation], target: float) -> float:
    """The step of the first evaluation at or below the target that the next evaluation confirms, or MISS.

    The last evaluation has no successor, so it can confirm a hit but not be one.
    """
    for now, after in pairwise(curve):
        if now.metric <= target and after.metric <= target:
            return now.step
    return MISS


def has_diverged(curve: Sequence[Evaluation]) -> bool:
    """Whether the latest metric is not finite or far (1000 times) above the start."""
    latest, start = curve[-1].metric, curve[0].metric
    return not math.isfinite(latest) or latest > 1e3 * (1 + abs(start))


@dataclass(frozen=True)
class Trial:
    """One training run. Two trials are equal if they computed the same, bit for bit; the clock is not compared."""

    stage: Stage
    lr: float
    seed: int
    target: float  # the metric to reach from this seed's start
    curve: tuple[Evaluation, ...]
    extra: dict[str, float]
    parameters: int  # number of scalars trained
    state_bytes: int  # of all tensors in the optimizer's state
    step_us: float = field(compare=False)  # median over steps: data, forward, backward, update
    optimizer_us: float = field(compare=False)  # median over steps: the update alone

    @property
    def hit(self) -> float:
        """Steps to the target, or MISS; a run that diverges later misses too."""
        return MISS if has_diverged(self.curve) else first_hit(self.curve, self.target)

    @property
    def final(self) -> float:
        """The metric where the run ended; infinity if it diverged."""
        return math.inf if has_diverged(self.curve) else self.curve[-1].metric

    @property
    def lost(self) -> bool:
        """Hit the target, but did not end at or below it."""
        return self.hit < MISS and self.final > self.target


@dataclass(frozen=True)
class Study:
    """One optimizer on one problem: the trials that chose its learning rate, and those that judge it."""

    problem: str
    problem_version: int
    optimizer: str
    default_lr: float
    lr: float  # the chosen one; nan if the optimizer raised
    trials: tuple[Trial, ...]
    error: str | None = None  # what the optimizer raised
    seconds: float = field(default=0.0, compare=False)  # wall time of the study
    load: float | None = field(default=None, compare=False)  # the system's one-minute load average at its end

    @property
    def evaluations(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.stage == "evaluate"]

    @property
    def grid(self) -> list[float]:
        """The learning rates screened, ascending."""
        return sorted(trial.lr for trial in self.trials if trial.stage == "screen")

    @property
    def hits(self) -> int:
        """How many evaluation seeds reached the target."""
        return sum(trial.hit < MISS for trial in self.evaluations)

    @property
    def hit(self) -> float:
        """Steps to the target: median over the evaluation seeds, a miss counting as infinity."""
        return statistics.median(trial.hit for trial in self.evaluations) if self.evaluations else MISS

    @property
    def final(self) -> float:
        """Metric at the end of the budget: median over the evaluation seeds."""
        return statistics.median(trial.final for trial in self.evaluations) if self.evaluations else math.inf

    def extra(self, name: str) -> float | None:
        """An extra quantity, such as "val_accuracy": median over the evaluation seeds, None if not measured."""
        values = [trial.extra[name] for trial in self.evaluations if name in trial.extra]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """The outcome of `compare`: every study with every trial, and how they came about."""

    studies: tuple[Study, ...]
    protocol: str  # what was done, in words
    environment: dict[str, str | int]
    seconds: float = field(compare=False)  # wall time of the whole

    def table(self, file: TextIO | None = None) -> None:
        """Print one table per problem, best optimizer first, then the protocol and the lints. Needs rich.

        Args:
            file: Where to print; default standard output.
        """
        from .table import print_tables

        print_tables(self, file)

    def lints(self) -> list[str]:
        """Reasons to read the numbers with care, one sentence each."""
        from .lints import find_lints

        return find_lints(self)

    def to_json(self, path: str | Path) -> None:
        """Write everything, every curve of every trial included, as strict JSON: infinity and nan become null."""
        document = {"schema": 1, **asdict(self), "lints": self.lints()}
        for study, entry in zip(self.studies, document["studies"], strict=True):
            entry.update(hit=study.hit, hits=study.hits, final=study.final, grid=study.grid)
            for trial, row in zip(study.trials, entry["trials"], strict=True):
                row.update(hit=trial.hit, final=trial.final, lost=trial.lost)
        Path(path).write_text(json.dumps(_finite(document), allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
