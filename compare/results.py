"""What a comparison measures: trials, studies of trials, and the comparison of studies. Pure data, no PyTorch.

`store.py` describes the folder these are written to and read from.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

Stage = Literal["screen", "retest", "evaluate"]
ClockName = Literal["steps", "cpu", "gradients"]
CLOCKS: tuple[ClockName, ...] = ("steps", "cpu", "gradients")

MISS = math.inf  # time to the target of a run that misses it; never the budget, which would flatter a failure


class Evaluation(NamedTuple):
    """The noise-free metric after `step` steps."""

    step: int
    metric: float
    gradients: int = 0  # gradient evaluations so far; one a step, unless the optimizer asks for more


class Update(NamedTuple):
    """A step of the optimizer, looked at; the runner looks at those that an evaluation run is evaluated after."""

    step: int  # as in `Evaluation`: how many steps have been made with it
    loss: float  # whose gradient it used, the mini-batch's; of the parameters before it
    lr: float | None  # of the first parameter group, after the schedule; None where the optimizer finds its own
    norm: float  # ‖θ after − θ before‖₂ over all parameters


def first_hit(curve: Sequence[Evaluation], target: float) -> Evaluation | None:
    """When the target was reached; None for a miss.

    A hit needs an evaluation at or below the target that the next one confirms. The last evaluation has no successor,
    so it can confirm a hit but not be one. The step is the first at which the metric is at the target if between this
    evaluation and the one before it its logarithm falls evenly: without that, half of the races on problems of a
    hundred steps would be decided by the interval of evaluations.
    """
    before = None
    for now, after in pairwise(curve):
        if now.metric <= target and after.metric <= target:
            return _crossing(before, now, target) if before else now
        before = now
    return None


def _crossing(before: Evaluation, now: Evaluation, target: float) -> Evaluation:
    high, goal, low = before.metric, target, now.metric
    if low > 0:
        high, goal, low = math.log(high), math.log(goal), math.log(low)
    if not math.isfinite(high - low):
        return now
    step = before.step + max(1, math.ceil((high - goal) / (high - low) * (now.step - before.step)))
    share = (step - before.step) / (now.step - before.step)
    return Evaluation(step, target, before.gradients + round(share * (now.gradients - before.gradients)))


def has_diverged(curve: Sequence[Evaluation]) -> bool:
    """Whether the latest metric is not finite or far (1000 times) above the start."""
    if not curve:
        return False
    latest, start = curve[-1].metric, curve[0].metric
    return not math.isfinite(latest) or latest > 1e3 * (1 + abs(start))


@dataclass(frozen=True)
class Clock:
    """What the machine's clock said of a trial; the one part of it that a second run changes."""

    step_us: float  # CPU time of a step: median over steps of data, forward, backward and update; no evaluation
    optimizer_us: float  # CPU time of the update alone: median over steps
    seconds: float  # wall time of the whole trial
    load: float | None  # the system's one-minute load average at its end
    machine: str


@dataclass(frozen=True)
class Trial:
    """One training run. Two trials are equal if they computed the same, bit for bit; the clock is not compared."""

    key: str  # its address in the store
    stage: Stage
    hyperparameters: dict[str, Any]  # what the protocol set, "lr" among it; the rest are the optimizer's defaults
    seed: int
    target: float  # the metric to reach from this seed's start; nan if the run failed before that was known
    curve: tuple[Evaluation, ...]
    extra: dict[str, float]
    parameters: int  # number of scalars trained
    state_bytes: int  # of all tensors in the optimizer's state
    failure: str | None = None  # why it could not go on to its end; None too for a run that diverged
    limit: int | None = None  # steps after which a tuning run stopped, since others had hit by then
    updates: tuple[Update, ...] = ()  # of an evaluation run, one for each evaluation after the first
    clock: Clock | None = field(default=None, compare=False)

    @property
    def lr(self) -> float:
        """The learning rate tried; nan where the optimizer's own default, not a number, was left alone."""
        lr = self.hyperparameters.get("lr")
        return math.nan if lr is None else float(lr)

    @property
    def diverged(self) -> bool:
        return has_diverged(self.curve)

    @property
    def hit(self) -> float:
        """Steps to the target, or MISS; a run that fails or diverges later misses too."""
        return self._hit.step if self._hit else MISS

    @property
    def gradients(self) -> float:
        """Gradient evaluations to the target, or MISS."""
        return self._hit.gradients if self._hit else MISS

    @property
    def final(self) -> float:
        """The metric where the run ended; infinity if it failed or diverged."""
        return self.curve[-1].metric if self.curve and not self.failure and not self.diverged else math.inf

    @property
    def lost(self) -> bool:
        """Hit the target, but did not end at or below it."""
        return self.hit < MISS and self.final > self.target

    @property
    def miss_reason(self) -> str | None:
        """Why the target was missed; None for a hit."""
        if self.hit < MISS:
            return None
        if self.limit is not None and not self.failure and not self.diverged:
            return f"not at the target by step {self.limit}, when enough others were"
        return self.failure or ("diverged" if self.diverged else "target not reached")

    @property
    def _hit(self) -> Evaluation | None:
        return None if self.failure or self.diverged else first_hit(self.curve, self.target)


@dataclass(frozen=True)
class Study:
    """One optimizer on one problem: the trials that chose its hyperparameters, and those that judge them."""

    problem: str
    optimizer: str
    default_lr: float  # centre of the grid
    chosen: dict[str, Any]  # the hyperparameters judged
    trials: tuple[Trial, ...]
    failure: str | None = None  # why it was given up, if it was; the optimizer misses the problem
    own_schedule: bool = False  # the optimizer sets its step sizes itself: the problem's schedule is not applied
    evaluate_on: str = ""  # which weights are judged, if not those of the last step: "average", or what it calls them
    vector_rule: str = ""  # what an optimizer for matrices did, since no parameter of the problem is one

    @property
    def lr(self) -> float:
        """The learning rate judged; nan where there is none."""
        lr = self.chosen.get("lr")
        return math.nan if lr is None else float(lr)

    @property
    def evaluations(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.stage == "evaluate"]

    @property
    def screened(self) -> list[Trial]:
        """The trials on the first tuning seed, ascending in lr."""
        return sorted((trial for trial in self.trials if trial.stage == "screen"), key=lambda trial: trial.lr)

    @property
    def grid(self) -> list[float]:
        """The learning rates screened, ascending."""
        return [trial.lr for trial in self.screened]

    @property
    def hits(self) -> int:
        """How many evaluation seeds reached the target."""
        return sum(trial.hit < MISS for trial in self.evaluations)

    @property
    def hit(self) -> float:
        """Steps to the target: median over the evaluation seeds, a miss counting as infinity."""
        return self._median(trial.hit for trial in self.evaluations)

    @property
    def gradients(self) -> float:
        """Gradient evaluations to the target: median over the evaluation seeds."""
        return self._median(trial.gradients for trial in self.evaluations)

    @property
    def final(self) -> float:
        """Metric at the end of the budget: median over the evaluation seeds."""
        return self._median(trial.final for trial in self.evaluations)

    def extra(self, name: str) -> float | None:
        """An extra quantity, such as "val_accuracy": median over the evaluation seeds, None if not measured."""
        values = [trial.extra[name] for trial in self.evaluations if name in trial.extra]
        return statistics.median(values) if values else None

    @property
    def state_bytes(self) -> int:
        return max((trial.state_bytes for trial in self.evaluations), default=0)

    @property
    def parameters(self) -> int:
        return max((trial.parameters for trial in self.evaluations), default=0)

    def _median(self, values: Iterable[float]) -> float:
        values = list(values)
        return statistics.median(values) if values and not self.failure else MISS


@dataclass(frozen=True)
class ProblemInfo:
    """What a reader of the results must know of a problem; the problem itself need not be importable any more."""

    name: str
    version: int
    family: str  # every family has one vote in the score
    tags: tuple[str, ...]
    scored: bool  # whether it counts in the score, or is a picture or a diagnosis
    description: str
    metric_name: str
    target: str
    budget: int
    eval_every: int
    schedule: str  # of the learning rate in this comparison


@dataclass(frozen=True)
class StepTime:
    """CPU time of one step in microseconds, by the serial timing pass: the least of the rounds' medians."""

    forward_us: float  # data and loss
    backward_us: float
    optimizer_us: float

    @property
    def step_us(self) -> float:
        return self.forward_us + self.backward_us + self.optimizer_us


@dataclass(frozen=True)
class Comparison:
    """The outcome of `compare`: every study with every trial, and how they came about."""

    problems: tuple[ProblemInfo, ...]
    optimizers: tuple[str, ...]
    studies: tuple[Study, ...]  # by problem, then by optimizer, in the order asked for
    protocol: dict[str, Any]  # the numbers of `protocol.Protocol`, and under "description" all of it in words
    environment: dict[str, Any] = field(default_factory=dict, compare=False)
    timing: dict[str, dict[str, StepTime]] = field(default_factory=dict, compare=False)  # by problem, then optimizer
    seconds: float = field(default=0.0, compare=False)  # wall time of the latest run

    def study(self, problem: str, optimizer: str) -> Study | None:
        """The study of that pair; None for a missing cell."""
        return next((study for study in self.studies if (study.problem, study.optimizer) == (problem, optimizer)), None)

    def problem(self, name: str) -> ProblemInfo:
        return next(problem for problem in self.problems if problem.name == name)

    def step_us(self, study: Study) -> float:
        """CPU time of a step: by the serial timing pass, else the least of the evaluations' medians; nan if unknown."""
        timed = self.timing.get(study.problem, {}).get(study.optimizer)
        return timed.step_us if timed else self._least(study, "step_us")

    def optimizer_us(self, study: Study) -> float:
        """CPU time of an update, found as `step_us` is."""
        timed = self.timing.get(study.problem, {}).get(study.optimizer)
        return timed.optimizer_us if timed else self._least(study, "optimizer_us")

    def time_to_target(self, study: Study, clock: ClockName = "steps") -> float:
        """Median over the evaluation seeds, in steps, CPU-seconds or gradient evaluations; MISS is infinity."""
        if clock == "gradients":
            return study.gradients
        return study.hit if clock == "steps" or study.hit == MISS else study.hit * self.step_us(study) / 1e6

    def table(self, file: TextIO | None = None, by: ClockName | Literal["final"] = "steps") -> None:
        """Print the summary, the table of problems by optimizers, the protocol and the lints. Needs rich.

        Args:
            file: Where to print; default standard output.
            by: What the cells of the second table are: time to the target in "steps" (default), "cpu" seconds or
                "gradients" evaluated; or "final", the metric at the end.
        """
        from .table import print_tables

        print_tables(self, file, by)

    def lints(self) -> list[str]:
        """Reasons to read the numbers with care, one sentence each."""
        from .lints import find_lints

        return find_lints(self)

    def document(self) -> dict[str, Any]:
        """Everything, every curve of every trial included, as what strict JSON can hold."""
        document = {"schema": 4, **finite(self), "lints": self.lints()}
        for study, entry in zip(self.studies, document["studies"], strict=True):
            entry.update(finite(dict(hit=study.hit, hits=study.hits, final=study.final, grid=study.grid)))
            for trial, row in zip(study.trials, entry["trials"], strict=True):
                row.update(finite(dict(hit=trial.hit, final=trial.final, lost=trial.lost)))
        return document

    def to_json(self, path: str | Path) -> None:
        """Write everything, every curve of every trial included, as strict JSON: infinity and nan become null."""
        Path(path).write_text(json.dumps(self.document(), allow_nan=False) + "\n", encoding="utf-8")

    def to_tensorboard(self, folder: str | Path) -> None:
        """Write the evaluation runs and the figures as TensorBoard logs; see `tensorboard.write_tensorboard`."""
        from .tensorboard import write_tensorboard

        write_tensorboard(self, folder)

    @staticmethod
    def _least(study: Study, what: str) -> float:
        return min((getattr(trial.clock, what) for trial in study.evaluations if trial.clock), default=math.nan)


def finite(value: Any) -> Any:
    """Of nested data, what strict JSON can hold: infinity and nan become None, tuples lists, dataclasses dicts."""
    if is_dataclass(value):
        return {field.name: finite(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
