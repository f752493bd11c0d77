"""Schedules by ``trainer.global_step``, and recorded gradient norms, in runs of Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from optzoo.integrations.lightning import GradNormCallback, OptimizerCLI, ScheduleCallback
from optzoo.optimizers import AdamW, Lookahead
from optzoo.schedulers import Schedule, Scheduler
from optzoo.schedulers.recorder import GradNormRecorder
from support.lightning_runs import LRS, QUIET, RISE_HOLD_FALL, Regression, Trained, run_cli, whole_state
from support.problems import tensors

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
ADAMW = partial(AdamW, lr=0.1, weight_decay=0.5)


def fit(make: Any, *callbacks: Any, epochs: int = 2, resume: Path | None = None, **options: Any) -> Any:
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), **{**QUIET, "limit_val_batches": 0, **options}
    )
    trainer.fit(make if isinstance(make, Regression) else Trained(make), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize(
    "schedule",
    [
        RISE_HOLD_FALL,
        Schedule(start=0).to(1, 0.2).hold().to(0, 0.5, shape="sqrt"),
        "wsd,warmup=0.2,cooldown=0.5,shape=sqrt,compat=hf",
    ],
)
def test_the_learning_rates_are_the_schedules(schedule: Any) -> None:
    """Ten steps in two epochs; the weight decay goes along."""
    callback = ScheduleCallback(schedule, tracks={"weight_decay": "follow"})
    trainer = fit(ADAMW, callback, limit_train_batches=5, enable_checkpointing=False)
    assert trainer.lightning_module.lrs == pytest.approx(LRS, abs=5e-5)
    assert trainer.optimizers[0].param_groups[0]["weight_decay"] == pytest.approx(5 * LRS[-1], abs=3e-4)


def test_accumulated_batches_are_one_step() -> None:
    callback = ScheduleCallback(RISE_HOLD_FALL)
    trainer = fit(ADAMW, callback, accumulate_grad_batches=2, enable_checkpointing=False)
    assert trainer.lightning_module.lrs[::2] == pytest.approx(LRS, abs=5e-5)
    assert trainer.lightning_module.lrs[1::2] == pytest.approx(LRS, abs=5e-5)


def test_a_run_resumes_where_it_was(tmp_path: Path) -> None:
    """Bit for bit, though the callback has no state."""
    options = {"limit_train_batches": 5}
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    whole = fit(partial(Lookahead, base=ADAMW), ScheduleCallback(RISE_HOLD_FALL), saving, **options)
    again = fit(
        partial(Lookahead, base=ADAMW),
        ScheduleCallback(RISE_HOLD_FALL),
        resume=tmp_path / "step=5.ckpt",
        enable_checkpointing=False,
        **options,
    )
    assert again.lightning_module.lrs == whole.lightning_module.lrs[5:]
    exactly(whole_state(again.lightning_module), whole_state(whole.lightning_module))


def test_from_yaml() -> None:
    callback = {
        "class_path": "optzoo.integrations.lightning.ScheduleCallback",
        "init_args": {"schedule": RISE_HOLD_FALL},
    }
    optimizer = {"class_path": "AdamW", "init_args": {"lr": 0.1}}
    found = run_cli({"optimizer": optimizer}, max_epochs=1, callbacks=[callback])
    assert found.model.lrs == pytest.approx(LRS, abs=5e-5)
    assert isinstance(found, OptimizerCLI)


class Endless(IterableDataset[Any]):
    """Data without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(tensors([(8, 4, 3)], seed=1)[0][:, None])


class Streamed(Regression):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Endless(), None)


class StreamedTrained(Streamed, Trained):
    """With an optimizer of its own."""


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_epochs": -1}])
def test_a_run_whose_steps_are_not_known(limits: dict[str, int]) -> None:
    """Says what would tell; a schedule that needs no total goes without."""
    options = {"enable_checkpointing": False, **limits}
    arguments = {
        "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.1}},
        "lr_scheduler": {"class_path": "Linear"},
    }
    with pytest.raises(ValueError, match=r"max_steps=-1.*set its max_steps, or give the schedule its total"):
        run_cli(arguments, model=Streamed, **options)
    with pytest.raises(ValueError, match=r"set its max_steps, or write the schedule in steps"):
        fit(StreamedTrained(ADAMW), ScheduleCallback("linear"), epochs=limits["max_epochs"], enable_checkpointing=False)
    limited = {"max_steps": 4, "enable_checkpointing": False}
    decay = pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert run_cli(arguments, model=Streamed, **limited).model.lrs == decay
    trainer = fit(StreamedTrained(ADAMW), ScheduleCallback("linear"), epochs=-1, **limited)
    assert trainer.lightning_module.lrs == decay
    if limits["max_epochs"] > 0:
        arguments["lr_scheduler"] = {"class_path": "ConstantWarmup", "init_args": {"warmup": 3}}
        assert run_cli(arguments, model=Streamed, **options).model.lrs[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])


def test_a_run_without_batches() -> None:
    arguments = {"optimizer": {"class_path": "AdamW"}, "lr_scheduler": {"class_path": "Linear"}}
    assert run_cli(arguments, max_epochs=1, limit_train_batches=0).model.lrs == []


class SelfCounting(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters(), lr=0.1)
        Scheduler(optimizer, RISE_HOLD_FALL, 10, clock="optimizer")
        return optimizer


def test_a_schedule_that_only_the_optimizer_keeps() -> None:
    trainer = fit(SelfCounting(), epochs=1, enable_checkpointing=False)
    assert trainer.lightning_module.lrs == pytest.approx(LRS, abs=5e-5)


# Gradient norms


def test_gradient_norms_of_a_run_that_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """Are those a recorder in a plain loop writes."""
    model = Trained(ADAMW)
    optimizer = model.configure_optimizers()
    recorder = GradNormRecorder(optimizer)
    for batch in 2 * model.data().split(4):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    recorder.save(tmp_path / "expected.npz")

    saving = ModelCheckpoint(tmp_path, filename="{epoch}")
    fit(ADAMW, GradNormCallback(tmp_path / "first.npz"), saving, epochs=1)
    fit(ADAMW, GradNormCallback(tmp_path / "found.npz"), resume=tmp_path / "epoch=0.ckpt", enable_checkpointing=False)
    expected, found = np.load(tmp_path / "expected.npz"), np.load(tmp_path / "found.npz")
    assert expected.files == found.files
    for name in expected.files:
        np.testing.assert_array_equal(found[name], expected[name])


def test_the_file_is_in_the_log_directory(tmp_path: Path) -> None:
    fit(
        ADAMW, GradNormCallback(norms=("l2",), every=2), epochs=1, default_root_dir=tmp_path, enable_checkpointing=False
    )
    assert (tmp_path / "grad_norms.json").exists()


# What is refused


class Several(Regression):
    def configure_optimizers(self) -> Any:
        self.automatic_optimization = False
        return [AdamW(self.network[0].parameters()), AdamW(self.network[2].parameters())]


class Scheduled(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = AdamW(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 3)]


@pytest.mark.parametrize(
    ("model", "callback", "message"),
    [
        (
            Several,
            ScheduleCallback("linear"),
            "is for one optimizer.*there are 2: give each a Scheduler with clock='optim",
        ),
        (Several, GradNormCallback(), "is for one optimizer.*there are 2: give each a GradNormRecorder"),
        (Scheduled, ScheduleCallback("linear"), "returns a StepLR, and both would set the lr; take one"),
        (Trained, ScheduleCallback("linear,warmup=30"), "30"),
    ],
)
def test_what_cannot_be_is_said_when_training_starts(model: Any, callback: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(model(ADAMW), callback, epochs=1, enable_checkpointing=False)


def test_what_is_no_schedule_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="linaer"):
        ScheduleCallback("linaer")
