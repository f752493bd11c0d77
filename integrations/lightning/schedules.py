"""Schedules in a Trainer without a scheduler, and the gradient norms that a better schedule is made from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from optzoo.schedulers import Schedule, Scheduler, read_schedule
from optzoo.schedulers.recorder import GradNormRecorder


class ScheduleCallback(Callback):
    """Set the learning rate, and whatever else changes, by ``trainer.global_step``.

    What :class:`~optzoo.schedulers.Scheduler` does, for LightningModules that return their optimizer alone: the step is
    the Trainer's, so there is no state that could be lost, and a run that resumes is where it was. Fractions in the
    schedule are of ``trainer.estimated_stepping_batches``; where the Trainer cannot tell, as with an IterableDataset
    without ``max_steps``, lengths must be steps.

    Args:
        schedule: as Scheduler's: a Schedule, a list of phases (in YAML too), a preset such as ``"wsd,cooldown=0.1"``.
        tracks: further keys of the parameter groups, such as ``{"weight_decay": "follow"}``. Default None.
        groups: what differs in some groups, by index or name. Default None.

    Raises:
        ValueError: when training starts, if there are several optimizers, whose steps ``global_step`` counts together;
            if a scheduler sets the learning rate already; or the schedule does not fit, as Scheduler says.

    >>> ScheduleCallback([{"start": 0, "to": 1, "steps": 0.1}, {"hold": "rest"}, {"to": 0, "steps": 0.2}]).schedule.end
    0.0
    """

    def __init__(
        self,
        schedule: list[dict[str, Any]] | str | Schedule,
        tracks: dict[str, Any] | None = None,
        groups: dict[Any, Any] | None = None,
    ) -> None:
        self.schedule, self.tracks, self.groups = read_schedule(schedule), tracks, groups
        self._scheduler: Scheduler | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.lr_scheduler_configs:
            name = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            raise ValueError(
                f"{type(self).__name__}: configure_optimizers returns a {name}, and both would set the lr; take one"
            )
        optimizer = _one_optimizer(self, trainer, "give each a Scheduler with clock='optimizer'")
        self._scheduler = for_run(
            trainer,
            lambda steps: Scheduler(
                optimizer, self.schedule, steps, tracks=self.tracks, groups=self.groups, clock="samples"
            ),
            "write the schedule in steps",
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert self._scheduler is not None
        self._scheduler.step_to(trainer.global_step)


class GradNormCallback(Callback):
    """Record the norms of the gradients of a run, from which :func:`optzoo.schedulers.refine` makes a schedule.

    A :class:`~optzoo.schedulers.GradNormRecorder` in a Trainer: its records are in the checkpoints, so a run that
    resumes has all of them, and are written to a file when training ends.

    Args:
        path: of the file, ``.json`` or ``.npz``. Default None: ``grad_norms.json`` in ``trainer.log_dir``.
        norms: which, of ``"l1"``, ``"l2"`` and ``"update"``. Default ``("l1", "l2")``.
        every: record each so many steps, >= 1. Default 1.

    Raises:
        ValueError: when training starts, if there are several optimizers, or an argument is not as above.

    >>> GradNormCallback("norms.json").path
    PosixPath('norms.json')
    """

    def __init__(self, path: str | Path | None = None, norms: tuple[str, ...] = ("l1", "l2"), every: int = 1) -> None:
        self.path = None if path is None else Path(path)
        self.norms, self.every = norms, every
        self.recorder: GradNormRecorder | None = None
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optimizer = _one_optimizer(self, trainer, "give each a GradNormRecorder")
        self.recorder = GradNormRecorder(optimizer, self.norms, self.every)
        if self._loaded is not None:
            self.recorder.load_state_dict(self._loaded)
            self._loaded = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.recorder is not None
        self.recorder.remove()
        if trainer.is_global_zero:
            path = self.path or Path(trainer.log_dir or trainer.default_root_dir) / "grad_norms.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.recorder.save(path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.recorder is not None:
            self.recorder.remove()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.recorder is None else self.recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict or None


def for_run(trainer: Trainer, make: Callable[[int | None], Scheduler], remedy: str) -> Scheduler:
    """The scheduler that ``make`` makes for the number of steps of a run, which is None where there is none to know."""
    steps = trainer.estimated_stepping_batches if trainer.limit_train_batches else 0
    known = math.isfinite(steps) and steps >= 0  # -1 stands for max_steps that is not set
    try:
        return make(max(int(steps), 1) if known else None)  # where there are no batches any length does
    except ValueError as error:
        if known or "total" not in str(error):
            raise
        raise ValueError(
            f"{error}. The Trainer cannot tell how many steps the run takes (max_steps={trainer.max_steps}, "
            f"max_epochs={trainer.max_epochs}; an IterableDataset has no length): set its max_steps, or {remedy}"
        ) from error


def _one_optimizer(callback: Callback, trainer: Trainer, remedy: str) -> torch.optim.Optimizer:
    if len(trainer.optimizers) != 1:
        raise ValueError(
            f"{type(callback).__name__} is for one optimizer, whose steps trainer.global_step counts; there are "
            f"{len(trainer.optimizers)}: {remedy}"
        )
    return trainer.optimizers[0]
