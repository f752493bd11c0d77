"""The interface of a problem: what the runner trains, and what counts as solved."""

from __future__ import annotations

import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

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
    requires: ClassVar[tuple[tuple[str, str, str], ...]] = ()  # optional: (module, package, what to install it by)
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

    @staticmethod
    def from_module(
        name: str,
        model_fn: Callable[[], nn.Module],
        batches: Iterable[Any] | Callable[[torch.Generator], Iterable[Any]],
        loss_fn: Callable[[Any, Any], Tensor],
        metric_fn: Callable[[Any], float | Tensor],
        *,
        target: float | Target,
        budget: int,
        eval_every: int = 10,
        schedule: Literal["constant", "linear"] = "linear",
        metric_name: str = "metric",
        version: int = 1,
    ) -> type[Problem]:
        """A problem made of any model.

        Args:
            name: Of the problem, and of the module-level variable it is assigned to: worker processes find it there,
                and the command line as "module:name".
            model_fn: Builds the model; the global generator is seeded for it.
            batches: A list of batches, gone through in a new order every epoch; another iterable, such as a DataLoader;
                or a function of the problem's generator that returns one epoch's batches.
            loss_fn: The loss, from the model and a batch; with the model in train mode.
            metric_fn: What is to fall to the target, from the model in eval mode and without gradients. Let it be free
                of noise: the loss on all data, or on a fixed part of it.
            target: The metric to reach: a number, or a `Target`.
            budget: Steps of a run.
            eval_every: Steps between evaluations; default 10.
            schedule: Of the learning rate: "linear" (default) to 0 at the budget, or "constant".
            metric_name: What tables call the metric; default "metric".
            version: To be raised with every change, so that old results are not mixed with new ones; default 1.

        Raises:
            UsageError: `name` is no identifier or `target` not finite; empty batches when it runs.

        Example::

            >>> import torch
            >>> from torch import nn
            >>> from optzoo.compare.problem import Problem
            >>> x = torch.linspace(-1, 1, 32)[:, None]
            >>> tiny = Problem.from_module(
            ...     "tiny",
            ...     model_fn=lambda: nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)),
            ...     batches=list(x.split(8)),
            ...     loss_fn=lambda model, batch: (model(batch) - batch.sin()).square().mean(),
            ...     metric_fn=lambda model: (model(x) - x.sin()).square().mean(),
            ...     target=1e-3,
            ...     budget=200,
            ... )
            >>> run = tiny(seed=0)
            >>> run.metric() > 1e-3, run.loss(0).requires_grad
            (True, True)
        """
        from .problems.custom import from_module

        functions: dict[str, Callable[..., Any]] = {
            "model_fn": model_fn,
            "loss_fn": lambda model, batch, step: loss_fn(model, batch),
            "metric_fn": metric_fn,
        }
        settings = dict(
            budget=budget, eval_every=eval_every, schedule=schedule, metric_name=metric_name, version=version
        )
        return from_module(sys._getframe(1).f_globals["__name__"], name, batches, functions, target, settings)

    @staticmethod
    def from_lightning(
        name: str,
        module_fn: Callable[[], Any],
        batches: Iterable[Any] | Callable[[torch.Generator], Iterable[Any]],
        validation: Iterable[Any] | None = None,
        *,
        target: float | Target,
        budget: int,
        monitor: str = "val_loss",
        eval_every: int = 10,
        schedule: Literal["constant", "linear"] = "linear",
        version: int = 1,
    ) -> type[Problem]:
        """A problem made of a LightningModule: its `configure_model`, `training_step` and `validation_step`.

        No Trainer is made, and `configure_optimizers` is not called. The metric is what `validation_step` logs as
        `monitor`, averaged over the validation batches.

        Args:
            name: As for `from_module`.
            module_fn: Builds the LightningModule.
            batches: Training batches, as for `from_module`; a DataLoader, usually.
            validation: Validation batches, always the same; default the module's own `val_dataloader()`.
            target: The monitored value to reach, as for `from_module`.
            budget: Steps of a run.
            monitor: The name under which `validation_step` logs the metric; smaller is better; default "val_loss".
            eval_every: As for `from_module`.
            schedule: As for `from_module`.
            version: As for `from_module`.

        Raises:
            UsageError: As `from_module`. When it runs: the module optimizes manually, `training_step` returns no loss,
                `validation_step` does not log `monitor`, or there is nothing to validate on.
        """
        from .problems.custom import LightningSteps, from_module

        steps = LightningSteps(module_fn, monitor, validation)
        functions: dict[str, Callable[..., Any]] = {
            "model_fn": steps.build,
            "loss_fn": steps.training_loss,
            "metric_fn": steps.monitored,
        }
        settings = dict(budget=budget, eval_every=eval_every, schedule=schedule, metric_name=monitor, version=version)
        return from_module(sys._getframe(1).f_globals["__name__"], name, batches, functions, target, settings)
