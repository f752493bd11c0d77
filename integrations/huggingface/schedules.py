"""Schedules for Hugging Face's Trainer, whose own are a closed list."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from optzoo.schedulers import Schedule, Scheduler, read_schedule
from optzoo.unwrapping import unwrapped


class ScheduleMixin:
    """Put before a Trainer it takes ``schedule=``, and the Trainer's number of steps is the schedule's total.

        class ScheduledTrainer(ScheduleMixin, Trainer): ...

        ScheduledTrainer(model=..., args=..., train_dataset=..., schedule="wsd,warmup=0.05")

    It makes a :class:`~optzoo.schedulers.Scheduler` instead of what ``args.lr_scheduler_type`` says; ``args`` about
    warm-up are without effect. Its clock is the optimizer's: steps that a gradient scaler skips do not count, and it
    does not matter how often a framework calls ``step()``. The optimizer may be the Trainer's own (``args.optim``), or

    - ``optimizer_cls_and_kwargs=(AdEMAMix, {"lr": 3e-4})``: the Trainer makes two groups, without decay for biases and
      norms, with ``args.weight_decay``. ``lr`` belongs there; ``args.learning_rate`` is not passed on. A wrapper gets
      its base so: ``(Lookahead, {"base": CAdamW, "lr": 3e-4})``.
    - ``optimizers=(optimizer, None)``: one that exists, such as ``PSGD(psgd_groups(model))``; not with FSDP.

    For TRL's and other subclasses of Trainer likewise. DeepSpeed brings schedulers of its own.

    Args:
        schedule: as Scheduler's: a Schedule, a list of phases, or the name of a preset with its arguments.
        tracks: further keys of the parameter groups, such as ``{"weight_decay": "follow"}``. Default None.
        *args, **kwargs: the Trainer's.

    Raises:
        TypeError, ValueError: ``schedule`` is none; when training starts, if it does not fit the number of steps.

    >>> from transformers import Trainer
    >>> class ScheduledTrainer(ScheduleMixin, Trainer): ...
    >>> ScheduledTrainer(schedule=[{"start": 0, "up": 1}])
    Traceback (most recent call last):
    ValueError: ...
    """

    lr_scheduler: Any
    optimizer: Any

    def __init__(
        self,
        *args: Any,
        schedule: list[dict[str, Any]] | str | Schedule,
        tracks: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._schedule, self._tracks = read_schedule(schedule), tracks
        super().__init__(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """As in Trainer, which calls it when the model is prepared and the number of steps known."""
        if self.lr_scheduler is None:
            inner = unwrapped(self.optimizer if optimizer is None else optimizer)
            self.lr_scheduler = Scheduler(
                inner, self._schedule, num_training_steps, tracks=self._tracks, clock="optimizer"
            )
            self._created_lr_scheduler = True  # so that another train() makes a new one, as Trainer's
        return self.lr_scheduler
