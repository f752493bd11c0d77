"""Evaluation on other weights than those that are trained, in Hugging Face's Trainer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optzoo.optimizers import evaluation_weights, has_evaluation_weights
from optzoo.optimizers.core.evaluation import holder
from optzoo.unwrapping import unwrapped

FILE = "trained_weights.pt"
"""Of the trained weights, beside the optimizer's in a checkpoint's folder."""


class EvaluationWeightsMixin:
    """Before a Trainer: it evaluates, predicts and saves with the weights that its optimizer is to be evaluated on.

        class EvaluatedTrainer(EvaluationWeightsMixin, Trainer): ...

        EvaluatedTrainer(model=..., args=..., optimizer_cls_and_kwargs=(ScheduleFreeAdamW, {"lr": 2.5e-3}))

    Lookahead's slow weights, Schedule-Free's x: all that answers to :func:`optzoo.optimizers.evaluation_weights`. They
    are put into the model before, and the trained weights back after it, bit for bit. ``model.safetensors`` of a
    checkpoint holds them, so the best one is of the weights that were evaluated; the trained ones lie beside it in
    ``trained_weights.pt``, and training resumes from those bit for bit. After ``train()`` the model holds the trained
    weights, and ``evaluate()`` and ``save_model()`` take the others; with ``load_best_model_at_end`` the model holds
    the best of the others, and the optimizer starts anew from them. (Without the mixin the Trainer calls an optimizer's
    ``eval()`` before it evaluates, and saves what is in the model then, trained weights if it has not evaluated.)

    When: with Lookahead, ScheduleFreeAdamW and ScheduleFreeSGD. Constant ``lr_scheduler_type`` with Schedule-Free.

    Raises:
        TypeError: when training starts, if the optimizer has no such weights.
        ValueError: with FSDP or DeepSpeed, which save the model themselves.

    >>> from transformers import Trainer
    >>> class EvaluatedTrainer(EvaluationWeightsMixin, Trainer): ...
    """

    args: Any
    model: Any
    optimizer: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer, and checked."""
        name = type(self).__name__
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(f"{name}: FSDP and DeepSpeed save the model themselves, as it is trained; use DDP")
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        if not has_evaluation_weights(optimizer):
            raise TypeError(
                f"{name}: {type(unwrapped(optimizer)).__name__} has no weights to evaluate but those it trains; leave "
                "EvaluationWeightsMixin out, or wrap it in Lookahead"
            )
        return optimizer

    def _evaluated(self) -> AbstractContextManager[None]:
        return nullcontext() if self.optimizer is None else evaluation_weights(self.optimizer)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer, on the weights to evaluate."""
        with self._evaluated():
            return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer, the weights to evaluate."""
        with self._evaluated():
            super().save_model(*args, **kwargs)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self.args.should_save:
            torch.save({name: p.detach() for name, p in self._trained().items()}, Path(output_dir) / FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        path = None if checkpoint is None else Path(checkpoint) / FILE
        if path is None or not path.exists():  # of a run without the mixin, whose model is what was trained
            return
        saved = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, p in self._trained().items():
                p.copy_(saved[name])

    def _load_best_model(self) -> None:
        super()._load_best_model()  # type: ignore[misc]
        reset = getattr(holder(self.optimizer), "reset", None)
        if reset is not None:
            reset()

    def _trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}
