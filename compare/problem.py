"""The interface of a problem: what the runner trains, and what counts as solved."""

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

Family = Literal["surface", "convex", "matrix", "real", "trap", "own"]


@dataclass(frozen=True)
class Target:
    """The metric to reach: `value` itself or, if `relative`, that fraction of the metric at the start."""

    value: float
    relative: bool = False

    def threshold(self, start: float) -> float:
        return self.value * start if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.value:g} × start" if self.relative else f"{self.value:g}"


@dataclass(frozen=True)
class Picture:
    """How to draw a function of two variables: its ranges, its minima, and whether contours are spaced by logarithm."""

    x: tuple[float, float]
    y: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    log_contours: bool = True


class Problem(ABC):
    """One training run's worth of a problem: start, data order and noise, all fixed by `seed`.

    A problem of one's own is a subclass with at least `name`, `budget`, `target` and the three abstract methods; an
    existing model becomes one by `Problem.from_module` or `Problem.from_lightning`.

    Everything random is drawn from `self.generator`, seeded by (name, seed) alone, so that every optimizer meets the
    same start and the same noise, and an optimizer that draws random numbers of its own cannot disturb them.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # any change of the problem raises it; results of two versions never share a table
    description: ClassVar[str] = ""
    family: ClassVar[Family] = "own"
    tags: ClassVar[frozenset[str]] = frozenset()  # the selections it belongs to: "core", "quick", "full", "picture"
    budget: ClassVar[int]  # steps
    eval_every: ClassVar[int] = 10  # steps
    schedule: ClassVar[Literal["constant", "linear"]] = "constant"  # of lr; linear goes to 0 at the budget
    metric_name: ClassVar[str] = "metric"
    target: ClassVar[Target]
    run_seconds: ClassVar[float] = 1.0  # rough cost of one full run; the pool starts the longest studies first
    requires: ClassVar[tuple[tuple[str, str], ...]] = ()  # optional dependencies: (module, package)
    vectors_only: ClassVar[bool] = False  # no parameter is a matrix: optimizers for matrices fall back on another rule
    evaluation_seeds: ClassVar[int] = 0  # at least so many, where what counts is the share of them that succeed
    picture: ClassVar[Picture | None] = None  # of problems with two variables

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(zlib.crc32(f"{self.name}:{seed}".encode()))

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The tensors to optimize, at their start."""

    @abstractmethod
    def loss(self, step: int) -> Tensor:
        """The training loss of this step, to differentiate; may be a mini-batch's. Asked for once a step, in order."""

    @abstractmethod
    def metric(self) -> float:
        """The noise-free quantity the target is about. Draws no random number and changes nothing."""

    def extra(self) -> dict[str, float]:
        """What is shown beside the metric but not aimed at, such as validation accuracy."""
        return {}

    def lr_factor(self, step: int) -> float:
        """The schedule: what the learning rate is multiplied with at `step` = 0, 1, ..., budget - 1."""
        return 1.0 - step / self.budget if self.schedule == "linear" else 1.0
