"""A run that changes its optimizer and goes on from the checkpoint of another one."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from optzoo.optimizers import Optimizer, adopt_on_load
from optzoo.optimizers.core.wrapper import OptimizerWrapper


class AdoptCallback(Callback):
    """``fit(ckpt_path=...)`` of another optimizer's checkpoint: take its moments, keep the options given here.

    :func:`optzoo.optimizers.adopt` where Lightning does the loading. From a checkpoint of the same optimizer the run
    resumes as without the callback, so it may stay when the run is interrupted again. Schedulers in the checkpoint are
    restored as ever, and set the lr they had.

    When: ``--optimizer`` has changed since the checkpoint. Without the callback lr and other options are the
    checkpoint's as far as they mean the same, and a warning says so.

    Raises:
        TypeError: when training starts, if no optimizer is one of optzoo's.
        ValueError: when the checkpoint is loaded, if it lacks the moments that the optimizer needs.

    >>> AdoptCallback().state_dict()
    {}
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ours = [o for o in trainer.optimizers if isinstance(o, (Optimizer, OptimizerWrapper))]
        if not ours:
            names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "none"
            raise TypeError(f"{type(self).__name__}: no optimizer is one of optzoo's ({names}); leave the callback out")
        for optimizer in ours:
            adopt_on_load(optimizer)
