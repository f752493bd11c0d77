"""Callbacks that go with the optimizers: evaluation on other weights than those that are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from optzoo.optimizers import PolynomialDecayAverager, evaluation_weights, has_evaluation_weights
from optzoo.optimizers.core.options import NON_NEGATIVE


class _OtherWeights(Callback, ABC):
    """Validates, tests, predicts and saves with weights other than those that are trained.

    A checkpoint holds them as its ``state_dict``, so ``load_from_checkpoint`` and ``trainer.test(ckpt_path=...)`` get
    them; the trained ones lie beside it, and training resumes from those.
    """

    _key: str
    """Of the trained weights in a checkpoint."""

    def __init__(self) -> None:
        self._block: ExitStack | None = None

    @abstractmethod
    def _others(self, trainer: Trainer) -> AbstractContextManager[object]:
        """Within the block the parameters are the other weights."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it in a connector
            if isinstance(callback, ModelCheckpoint) and callback.save_weights_only:
                raise ValueError(
                    f"{type(self).__name__}: ModelCheckpoint(save_weights_only=True) asks no callback and would save "
                    "the weights that are trained; leave save_weights_only out"
                )

    # Evaluation

    def _enter(self, trainer: Trainer) -> None:
        loaded = trainer.state.fn != TrainerFn.FITTING and trainer.ckpt_path is not None
        if not loaded:  # from a checkpoint, which has them already
            self._block = ExitStack()
            self._block.enter_context(self._others(trainer))

    def _leave(self) -> None:
        if self._block is not None:
            self._block.close()
            self._block = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter(trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._leave()

    # Checkpoints

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[self._key] = {name: _whole(p) for name, p in _trainable(pl_module).items()}
        with self._others(trainer):
            others = trainer.strategy.lightning_module_state_dict()
            checkpoint["state_dict"] = {
                name: value.clone() if isinstance(value, Tensor) else value for name, value in others.items()
            }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        params = dict(pl_module.named_parameters())
        with torch.no_grad():  # without this callback the checkpoint's state_dict is what was trained
            for name, whole in checkpoint.get(self._key, {}).items():
                params[name].copy_(_as(params[name], whole))


class EvaluationWeightsCallback(_OtherWeights):
    """Validate, test, predict and save with the weights that the optimizers are to be evaluated on.

    Lookahead's slow weights, Schedule-Free's x: all that answers to :func:`optzoo.optimizers.evaluation_weights`, the
    optimizers of the package schedulefree too. They are put into the model before, and the trained weights back after
    it, bit for bit. A checkpoint's ``state_dict`` holds them, so the best one is of the weights that were validated;
    training resumes from it bit for bit, as the trained weights are in it too (4 bytes per float32 parameter more).
    After ``fit`` the model holds the trained weights: take the others from a checkpoint, or ``with
    evaluation_weights(trainer.optimizers[0]): ...``. Buffers are not exchanged: see
    :class:`~optzoo.optimizers.ScheduleFreeAdamW` on batch norm.

    When: with every :class:`~optzoo.optimizers.Lookahead`, around whatever optimizer, and with
        :class:`~optzoo.optimizers.ScheduleFreeAdamW` and its like.

    Raises:
        TypeError: when training starts, if no optimizer has such weights.
        ValueError: a ModelCheckpoint has ``save_weights_only=True``, which passes callbacks by.

    >>> from lightning.pytorch.demos.boring_classes import BoringModel
    >>> from optzoo.optimizers import ScheduleFreeSGD
    >>> class Model(BoringModel):
    ...     def configure_optimizers(self):
    ...         return ScheduleFreeSGD(self.parameters(), lr=0.1)
    ...     def on_validation_epoch_start(self):
    ...         (optimizer,), p = self.trainer.optimizers, self.layer.weight
    ...         print("y is kept for later:", "trained_weights" in optimizer.state[p])
    >>> quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    >>> trainer = Trainer(callbacks=[EvaluationWeightsCallback()], max_steps=3, num_sanity_val_steps=0,
    ...                   accelerator="cpu", limit_train_batches=3, limit_val_batches=1, **quiet)
    >>> trainer.fit(Model())
    y is kept for later: True
    """

    _key = "trained_weights"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not any(map(has_evaluation_weights, trainer.optimizers)):
            names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "none"
            raise TypeError(
                f"{type(self).__name__}: no optimizer has weights to evaluate but those it trains ({names}); wrap "
                "it, Lookahead(optimizer), or take AveragedWeightsCallback, which goes with any"
            )

    @contextmanager
    def _others(self, trainer: Trainer) -> Iterator[None]:
        with ExitStack() as blocks:
            for optimizer in filter(has_evaluation_weights, trainer.optimizers):
                blocks.enter_context(evaluation_weights(optimizer))
            yield


class SlowWeightsCallback(EvaluationWeightsCallback):
    """The older name of :class:`EvaluationWeightsCallback`, with keys in checkpoints of its own: for Lookahead."""

    _key = "lookahead_trained_weights"


class AveragedWeightsCallback(_OtherWeights):
    """Validate, test, predict and save with the polynomial-decay average of the weights.

        x̄_t = (1 - w_t) x̄_{t-1} + w_t x_t,    w_t = (1+γ) / (t+γ)

    :class:`~optzoo.optimizers.PolynomialDecayAverager` in a Trainer: Shamir & Zhang, 2013, arXiv:1212.1824; what "DoG
    is SGD's Best Friend" (Ivgi, Hinder & Carmon, 2023, arXiv:2302.12022) evaluates. It takes in the weights after every
    batch that ends in an optimizer step. Evaluation, checkpoints and resuming: see :class:`EvaluationWeightsCallback`.
    Parameters that become trainable later are not averaged, nor are buffers: with BatchNorm take Lightning's
    ``WeightAveraging``, with ``use_buffers=True`` and :func:`~optzoo.optimizers.polynomial_decay_avg_fn`.

    When: with DoG, whose step size does not decay; or instead of decaying the lr of any optimizer.

    State: 4 bytes per float32 parameter, 8 for float64.

    Args:
        gamma: γ >= 0; larger forgets sooner. Default 8, the DoG paper's.

    Raises:
        ValueError: gamma is not a finite number >= 0; a ModelCheckpoint has ``save_weights_only=True``.

    >>> AveragedWeightsCallback(gamma=-1.0)
    Traceback (most recent call last):
    ValueError: AveragedWeightsCallback: gamma must be a finite number >= 0, got -1.0
    """

    _key = "averaged_trained_weights"

    def __init__(self, gamma: float = 8.0) -> None:
        super().__init__()
        if not NON_NEGATIVE.holds(gamma):
            raise ValueError(f"{type(self).__name__}: gamma must be {NON_NEGATIVE.wording}, got {gamma!r}")
        self.gamma = gamma
        self._averager: PolynomialDecayAverager | None = None
        self._loaded: dict[str, Any] | None = None
        self._global_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._averager = PolynomialDecayAverager(_trainable(pl_module).items(), self.gamma)
        self._restore(pl_module)  # a checkpoint is loaded before, or with sharded parameters after

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._global_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._averager is not None and trainer.global_step != self._global_step:  # else gradients accumulate
            self._averager.update()
            self._global_step = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._averager is not None:
            state = self._averager.state_dict()
            averages = {name: _whole(average) for name, average in state["averages"].items()}
            checkpoint[_AVERAGE] = {**state, "averages": averages}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if trainer.state.fn == TrainerFn.FITTING:
            self._loaded = checkpoint.get(_AVERAGE)
            self._restore(pl_module)

    def _restore(self, pl_module: LightningModule) -> None:
        if self._averager is not None and self._loaded is not None:
            params = _trainable(pl_module)
            averages = {name: _as(params.get(name), average) for name, average in self._loaded["averages"].items()}
            self._averager.load_state_dict({**self._loaded, "averages": averages})
            self._loaded = None

    def _others(self, trainer: Trainer) -> AbstractContextManager[object]:
        return nullcontext() if self._averager is None else self._averager.evaluation_weights()


_AVERAGE = "polynomial_decay_average"


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _whole(tensor: Tensor) -> Tensor:
    """A copy that is a plain tensor, on every rank."""
    detached = tensor.detach()
    return (detached.full_tensor() if isinstance(detached, DTensor) else detached).clone()


def _as(like: Tensor | None, whole: Tensor) -> Tensor:
    """A whole tensor, sharded as ``like`` is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
