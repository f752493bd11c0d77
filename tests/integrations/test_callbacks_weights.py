"""Slow and averaged weights in a Trainer: what is evaluated, what a checkpoint holds, and how training goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from optzoo.integrations.lightning import AveragedWeightsCallback, EvaluationWeightsCallback, SlowWeightsCallback
from optzoo.optimizers import AdamW, Cautious, DoG, Lookahead, ScheduleFreeAdamW, ScheduleFreeSGD, evaluation_weights
from support.checkpoints import differences
from support.lightning_runs import QUIET, WEIGHTS, Trained, trained_by_hand, whole_state

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)

LOOKAHEAD, _ = WEIGHTS["Lookahead"]


def fit(directory: Path, make: Any, callback: Any, epochs: int, resume: Path | None = None, **options: Any) -> Any:
    """Epochs of four steps, with a checkpoint after each; no epoch ends with a sync."""
    saving = ModelCheckpoint(directory, filename="{epoch}", save_top_k=-1)
    callbacks = [saving, *([] if callback is None else [callback])]
    limits = {"limit_train_batches": 4, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    trainer = lightning.Trainer(max_epochs=epochs, callbacks=callbacks, **{**QUIET, **limits, **options})
    trainer.fit(Trained(make), ckpt_path=resume)
    return trainer


CASES = {
    **WEIGHTS,
    "Lookahead around Cautious": (partial(Lookahead, base=Cautious), SlowWeightsCallback),
    "Lookahead, by the new name": (LOOKAHEAD, EvaluationWeightsCallback),
    "Schedule-Free SGD": (partial(ScheduleFreeSGD, lr=0.1), EvaluationWeightsCallback),
    "Cautious around Schedule-Free": (partial(Cautious, base=ScheduleFreeAdamW), EvaluationWeightsCallback),
}


@pytest.mark.parametrize("name", CASES)
def test_other_weights_are_evaluated_and_saved_and_the_trained_go_on(name: str, tmp_path: Path) -> None:
    make, callback = CASES[name]
    averaged = callback is AveragedWeightsCallback
    trainer = fit(tmp_path / "whole", make, callback(), 3)
    for epoch in range(3):
        trained, others = trained_by_hand(make, 4 * epoch + 4, averaged)
        assert not torch.equal(trained["network.0.weight"], others["network.0.weight"])
        exactly(trainer.lightning_module.seen[epoch], others)
        checkpoint = torch.load(tmp_path / "whole" / f"epoch={epoch}.ckpt", weights_only=True)
        exactly(checkpoint["state_dict"], others)
    exactly(whole_state(trainer.lightning_module), trained)

    resumed = fit(tmp_path / "resumed", make, callback(), 3, tmp_path / "whole" / "epoch=0.ckpt")
    exactly(whole_state(resumed.lightning_module), trained)
    exactly(resumed.lightning_module.seen, trainer.lightning_module.seen[1:])
    last, again = (torch.load(tmp_path / run / "epoch=2.ckpt", weights_only=True) for run in ("whole", "resumed"))
    exactly(again["optimizer_states"][0]["state"], last["optimizer_states"][0]["state"])
    for key in ("state_dict", callback._key):
        exactly(again[key], last[key])


class Judged(Trained):
    """Best in its second epoch."""

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        super().validation_step(batch, index)
        self.log("loss", abs(self.current_epoch - 1.0))

    def loss(self, x: Tensor) -> Tensor:
        return super().loss(x.to(self.network[0].weight.dtype))


def judged(directory: Path, make: Any, precision: Any, resume: Path | None = None) -> tuple[Any, Any]:
    """Three epochs with a file of the best and one of each."""
    best = ModelCheckpoint(directory, monitor="loss", filename="best")
    each = ModelCheckpoint(directory, save_top_k=-1, filename="{epoch}")
    limits = {"limit_train_batches": 4, "limit_val_batches": 1, "num_sanity_val_steps": 0, "max_epochs": 3}
    trainer = lightning.Trainer(
        callbacks=[best, each, EvaluationWeightsCallback()], precision=precision, **QUIET, **limits
    )
    model = Judged(make).float()
    trainer.fit(model, ckpt_path=resume)
    return trainer, torch.load(directory / "epoch=2.ckpt", weights_only=True)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize(
    "make",
    [LOOKAHEAD, partial(ScheduleFreeAdamW, lr=0.05, weight_decay=0.1), partial(ScheduleFreeSGD, lr=0.1)],
    ids=["Lookahead", "Schedule-Free AdamW", "Schedule-Free SGD"],
)
def test_the_best_file_holds_what_was_validated_and_resumes_exactly(make: Any, precision: str, tmp_path: Path) -> None:
    trainer, last = judged(tmp_path / "whole", make, precision)
    model = trainer.lightning_module
    best = torch.load(tmp_path / "whole" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 1
    exactly(best["state_dict"], model.seen[1])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    trained = whole_state(model)
    assert not torch.equal(trained["network.0.weight"], model.seen[2]["network.0.weight"])
    with evaluation_weights(trainer.optimizers[0]):
        exactly(whole_state(model), model.seen[2])

    resumed, again = judged(tmp_path / "resumed", make, precision, tmp_path / "whole" / "best.ckpt")
    exactly(whole_state(resumed.lightning_module), trained)
    exactly(resumed.lightning_module.seen, model.seen[2:])
    assert differences(again["optimizer_states"], last["optimizer_states"]) == []
    exactly(again["state_dict"], last["state_dict"])


def test_tests_are_of_the_other_weights_or_of_the_checkpoint_as_it_is(tmp_path: Path) -> None:
    trainer = fit(tmp_path, LOOKAHEAD, SlowWeightsCallback(), 2)
    model = trainer.lightning_module
    trained = whole_state(model)
    for checkpoint, steps in ((None, 8), (tmp_path / "epoch=0.ckpt", 4)):
        model.seen.clear()
        trainer.test(model, ckpt_path=checkpoint, verbose=False)
        exactly(model.seen[0], trained_by_hand(LOOKAHEAD, steps)[1])
        if checkpoint is None:
            exactly(whole_state(model), trained)
    loaded = Trained.load_from_checkpoint(tmp_path / "epoch=1.ckpt", make=None)
    exactly(whole_state(loaded), trained_by_hand(LOOKAHEAD, 8)[1])


def test_a_checkpoint_after_the_fit_holds_what_one_during_it_does(tmp_path: Path) -> None:
    trainer = fit(tmp_path, LOOKAHEAD, SlowWeightsCallback(), 1)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    exactly(torch.load(tmp_path / "after.ckpt")["state_dict"], trained_by_hand(LOOKAHEAD, 4)[1])
    resumed = fit(tmp_path / "resumed", LOOKAHEAD, SlowWeightsCallback(), 2, tmp_path / "after.ckpt")
    exactly(whole_state(resumed.lightning_module), trained_by_hand(LOOKAHEAD, 8)[0])


def test_accumulated_batches_are_one_step_of_the_average(tmp_path: Path) -> None:
    trainer = fit(tmp_path, DoG, AveragedWeightsCallback(), 1, accumulate_grad_batches=2)
    assert trainer.global_step == 2
    assert torch.load(tmp_path / "epoch=0.ckpt")["polynomial_decay_average"]["step"] == 2


def test_a_checkpoint_from_before_the_callback_is_what_was_trained(tmp_path: Path) -> None:
    fit(tmp_path, LOOKAHEAD, None, 1)
    resumed = fit(tmp_path / "resumed", LOOKAHEAD, SlowWeightsCallback(), 2, tmp_path / "epoch=0.ckpt")
    exactly(whole_state(resumed.lightning_module), trained_by_hand(LOOKAHEAD, 8)[0])


def test_weights_are_put_back_when_validation_fails(tmp_path: Path) -> None:
    class Failing(Trained):
        def validation_step(self, batch: list[Tensor], index: int) -> None:
            raise KeyboardInterrupt

    model = Failing(LOOKAHEAD)
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=[SlowWeightsCallback()],
        enable_checkpointing=False,
        **{**QUIET, "limit_train_batches": 4},
    )
    with pytest.raises(SystemExit):
        trainer.fit(model)
    exactly(whole_state(model), whole_state(Trained()))


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no optimizer has weights to evaluate.* \(AdamW\); wrap it, Lookahead\(optim"):
        fit(tmp_path, AdamW, SlowWeightsCallback(), 1)
    callbacks = [SlowWeightsCallback(), ModelCheckpoint(tmp_path, save_weights_only=True)]
    trainer = lightning.Trainer(max_epochs=1, callbacks=callbacks, **QUIET)
    with pytest.raises(ValueError, match="leave save_weights_only out"):
        trainer.fit(Trained(LOOKAHEAD))
    with pytest.raises(ValueError, match="gamma must be a finite number >= 0, got -1"):
        AveragedWeightsCallback(gamma=-1)
