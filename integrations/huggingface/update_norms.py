"""The monitor of update norms, for Hugging Face's Trainer."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from ..update_norms import UpdateNorms


class UpdateNormCallback(UpdateNorms, TrainerCallback):
    """How far each optimizer step moves the parameters, every N optimizer steps, through ``Trainer.log``.

    So the numbers are in ``state.log_history`` and go where ``report_to`` says, TensorBoard and others, which put
    ``train/`` in front. Arguments, what is logged and errors are those of
    :class:`optzoo.integrations.update_norms.UpdateNorms`; histograms go to TensorBoard.

    Accumulated and clipped gradients, mixed precision, DDP. Parameters that Accelerate shards (FSDP2) are measured as
    in Lightning. Steps are counted by ``state.global_step``, which goes on where a run is resumed.

    >>> callback = UpdateNormCallback(every_n_steps=100, per="module", include="*.attention.*")
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer = _calling_trainer()
        self._measured: list[tuple[dict[str, float], dict[str, Tensor]]] = []

        def write(scalars: dict[str, float], histograms: dict[str, Tensor], _: int) -> None:
            self._measured.append((scalars, histograms))

        self.watch([kwargs["optimizer"]], kwargs["model"], write, at_step=False, steps={"": state.global_step})
        self._see_clipping(self._trainer.accelerator)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for watch in self._watches:
            watch.before()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for watch in self._watches:
            watch.forget()  # of a step that the scaler has skipped
        due = control.should_log
        for scalars, histograms in self._measured:
            self._trainer.log(scalars)
            for callback in self._trainer.callback_handler.callbacks:
                if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                    for key, values in histograms.items():
                        callback.tb_writer.add_histogram(f"train/{key}", values, state.global_step)
        self._measured.clear()
        control.should_log = due  # the Trainer's own numbers, which log() takes for written

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        vars(self._trainer.accelerator).pop("clip_grad_norm_", None)
        self.unwatch()
        del self._trainer

    def _see_clipping(self, accelerator: Any) -> None:
        """Look at the gradients before they are clipped: no event comes between backward and clipping."""
        vars(accelerator).pop("clip_grad_norm_", None)  # of a training that raised
        clip = accelerator.clip_grad_norm_

        def measured_clip(*args: Any, **kwargs: Any) -> Any:
            scaler = accelerator.scaler
            scale = None if scaler is None else scaler.scale(torch.ones((), device=accelerator.device))
            for watch in self._watches:
                watch.before_clipping(scale)
            return clip(*args, **kwargs)

        accelerator.clip_grad_norm_ = measured_clip


def _calling_trainer() -> Trainer:
    """The Trainer whose event this is, which it does not hand over, and which alone logs to all its reporters."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer):
            return owner
        frame = frame.f_back
    raise RuntimeError("UpdateNormCallback: there is no transformers.Trainer; in another loop use log_update_norms")
