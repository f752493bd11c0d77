"""A run that changes its optimizer and goes on from the checkpoint of another one."""

from __future__ import annotations

from typing import Any

from optzoo.optimizers import adopt_on_load


class AdoptMixin:
    """Before a Trainer: ``resume_from_checkpoint`` takes another optimizer's moments and keeps the options given here.

        class AdoptingTrainer(AdoptMixin, Trainer): ...

        trainer = AdoptingTrainer(model=..., args=..., optimizer_cls_and_kwargs=(AdEMAMix, {"lr": 3e-4}))
        trainer.train(resume_from_checkpoint=True)

    :func:`optzoo.optimizers.adopt` where the Trainer does the loading. From a checkpoint of the same optimizer the run
    resumes as without it, so it may stay when the run is interrupted again. The scheduler in the checkpoint is restored
    as ever, and sets the lr it had.

    When: the optimizer has changed since the checkpoint. Without the mixin lr and other options are the checkpoint's as
    far as they mean the same, and a warning says so.

    Raises:
        TypeError: when training starts, if the optimizer is none of optzoo's.
        ValueError: when the checkpoint is loaded, if it lacks the moments that the optimizer needs.

    >>> from transformers import Trainer
    >>> class AdoptingTrainer(AdoptMixin, Trainer): ...
    """

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer, which loads the checkpoint later."""
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        adopt_on_load(optimizer)
        return optimizer
