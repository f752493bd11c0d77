"""The monitor of update norms, for Lightning's Trainer."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..update_norms import UpdateNorms


class UpdateNormMonitor(UpdateNorms, pl.Callback):
    """How far each optimizer step moves the parameters, every N optimizer steps, to every logger of the Trainer.

    Arguments, what is logged and errors are those of :class:`optzoo.integrations.update_norms.UpdateNorms`. Histograms
    go to the loggers that are a TensorBoardLogger. Of several optimizers the keys begin with the class:
    ``Adam/update_norm/total``, ``Adam-1/...``. Points lie where those of ``self.log`` do, at Lightning's count of
    batches that stepped.

    For automatic and manual optimization, accumulated and clipped gradients, mixed precision, several optimizers,
    compiled models and steps, DDP, and FSDP2 (``ModelParallelStrategy``). In manual optimization the gradients before
    clipping are those after the last ``manual_backward``. Checkpoints hold the count of steps, so that a resumed run
    goes on at the same ones.

    Raises:
        ValueError: also, at the start of training, under FSDP1 (``FSDPStrategy``) and DeepSpeed, whose parameters are
            parts of others that nothing tells apart.

    >>> import lightning.pytorch as pl
    >>> trainer = pl.Trainer(
    ...     accelerator="cpu", callbacks=[UpdateNormMonitor(every_n_steps=100, per="module")], logger=False
    ... )
    """

    _steps: dict[str, int] = {}

    @property
    def state_key(self) -> str:
        """Several monitors of one Trainer are told apart by what they log."""
        prefix = {"prefix": self.prefix} if self.prefix else {}  # without one, the key of older checkpoints
        return self._generate_state_key(every_n_steps=self.every_n_steps, per=self.per, include=self.include, **prefix)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy)):
            raise ValueError(
                f"UpdateNormMonitor: under {type(trainer.strategy).__name__} a rank cannot tell the parameters apart; "
                "use ModelParallelStrategy, which is FSDP2"
            )
        if not trainer.loggers:
            rank_zero_warn("UpdateNormMonitor: the Trainer has no logger, so nothing is measured; give it one")
            return

        def write(scalars: dict[str, float], histograms: dict[str, Tensor], _: int) -> None:
            self._write(trainer, scalars, histograms)

        self.watch(trainer.optimizers, pl_module, write, not pl_module.automatic_optimization, self._steps)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.automatic_optimization:
            return
        for watch in self._watches:
            watch.before_clipping(_scale(trainer))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        watch = self.watching(optimizer)
        if watch is None or not pl_module.automatic_optimization:
            return
        watch.before()
        watch.before_clipping()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        for watch in self._watches:
            watch.forget()  # of a step that the scaler has skipped

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._steps = self.state_dict()
        self.unwatch()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, int]:
        return {watch.prefix: watch.steps for watch in self._watches} or self._steps

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._steps = dict(state_dict)

    def _write(self, trainer: pl.Trainer, scalars: dict[str, float], histograms: dict[str, Tensor]) -> None:
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # where self.log puts its points, too
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                for key, values in histograms.items():
                    logger.experiment.add_histogram(key, values, step)


def _scale(trainer: pl.Trainer) -> Tensor | None:
    """What the gradients of a manual_backward are multiplied by."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return None
    scale: Tensor = scaler.scale(torch.ones((), device=trainer.strategy.root_device))
    return scale
