"""Optimizers and schedules in Hugging Face's Trainer: both ways in, and resuming."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from optzoo.integrations.huggingface import ScheduleMixin
from optzoo.optimizers import PSGD, AdamW, CAdamW, Lookahead, psgd_groups
from optzoo.schedulers import Scheduler
from support.lightning_runs import LRS, RISE_HOLD_FALL
from support.problems import tensors

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


class ScheduledTrainer(ScheduleMixin, Trainer):
    """As a user defines it."""


class Model(nn.Module):
    """Two layers and a norm, which return their loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 1))
        shapes = [p.shape for p in self.network.parameters()]
        for p, t in zip(self.network.parameters(), tensors(shapes, torch.float32), strict=True):
            p.data.copy_(t)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.network(x) - 1).square().mean()}


class Values(TrainerCallback):
    """What the optimizer steps with."""

    def __init__(self, key: str = "lr") -> None:
        self.key, self.seen = key, []

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any, **__: Any) -> None:
        self.seen.append(optimizer.param_groups[0][self.key])


def train(
    directory: Path, trainer: type[Trainer] = ScheduledTrainer, steps: int = 10, resume: int = 0, **options: Any
) -> Any:
    """The learning rates and the trainer after so many steps."""
    lrs, arguments = Values(), options.pop("arguments", {})
    made = trainer(
        model=options.pop("model", None) or Model(),
        args=TrainingArguments(
            str(directory),
            max_steps=steps,
            per_device_train_batch_size=4,
            save_steps=4,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **arguments,
        ),
        train_dataset=[{"x": x} for x in tensors([(80, 3)], torch.float32, seed=1)[0]],
        callbacks=[lrs, *options.pop("callbacks", [])],
        **options,
    )
    made.train(resume_from_checkpoint=str(directory / f"checkpoint-{resume}") if resume else None)
    return lrs.seen, made


LOOKAHEAD = (Lookahead, {"base": CAdamW, "lr": 0.1, "k": 3})


def test_the_learning_rates_are_the_schedules_also_after_resuming(tmp_path: Path) -> None:
    """And so are the weights, bit for bit."""
    lrs, whole = train(tmp_path, schedule=RISE_HOLD_FALL, optimizer_cls_and_kwargs=LOOKAHEAD)
    assert lrs == pytest.approx(LRS, abs=5e-5)
    again, resumed = train(tmp_path, schedule=RISE_HOLD_FALL, optimizer_cls_and_kwargs=LOOKAHEAD, resume=4)
    assert again == lrs[4:]
    exactly(resumed.model.state_dict(), whole.model.state_dict())
    assert (
        resumed.optimizer.optimizer.state_dict()["param_groups"]
        == whole.optimizer.optimizer.state_dict()["param_groups"]
    )


def test_a_longer_run_is_its_own_schedule_from_there(tmp_path: Path) -> None:
    """The fractions are of the new total, and the state says only how far the run is."""
    train(tmp_path, schedule=RISE_HOLD_FALL, optimizer_cls_and_kwargs=LOOKAHEAD)
    longer, _ = train(tmp_path, schedule=RISE_HOLD_FALL, optimizer_cls_and_kwargs=LOOKAHEAD, resume=4, steps=20)
    assert longer[:6] == pytest.approx([0.1] * 6)
    assert longer[6:9] == pytest.approx([0.1 * (1 - (i / 10) ** 0.5) for i in range(3)])


def test_the_trainers_own_optimizer_its_groups_and_tracks(tmp_path: Path) -> None:
    """``args.optim`` with ``args.learning_rate``, per epoch, and accumulated batches."""
    decay = Values("weight_decay")
    lrs, made = train(
        tmp_path,
        schedule=RISE_HOLD_FALL,
        tracks={"weight_decay": "follow"},
        arguments={"learning_rate": 0.1, "weight_decay": 0.5, "gradient_accumulation_steps": 2},
        callbacks=[decay],
    )
    assert lrs == pytest.approx(LRS, abs=5e-5)
    assert decay.seen == pytest.approx([5 * lr for lr in lrs])
    assert [group["weight_decay"] for group in made.optimizer.param_groups][1] == 0


def test_an_optimizer_that_exists(tmp_path: Path) -> None:
    """PSGD with AdamW for vectors; and a pair without the mixin."""
    model = Model()
    optimizer = PSGD(psgd_groups(model, adamw_lr=0.01), lr=0.1)
    lrs, made = train(tmp_path, schedule=RISE_HOLD_FALL, optimizers=(optimizer, None), model=model)
    assert lrs == pytest.approx(LRS, abs=5e-5)
    assert [group["initial_lr"] for group in made.optimizer.param_groups] == [0.1, 0.01, 0.01]

    model = Model()
    optimizer = AdamW(model.parameters(), lr=0.1)
    scheduler = Scheduler(optimizer, RISE_HOLD_FALL, total=10)
    lrs, _ = train(tmp_path / "pair", Trainer, optimizers=(optimizer, scheduler), model=model)
    assert lrs == pytest.approx(LRS, abs=5e-5)
    again, _ = train(tmp_path / "pair", Trainer, optimizers=_pair(model := Model()), model=model, resume=4)
    assert again == lrs[4:]


def _pair(model: nn.Module) -> tuple[AdamW, Scheduler]:
    optimizer = AdamW(model.parameters(), lr=0.1)
    return optimizer, Scheduler(optimizer, RISE_HOLD_FALL, total=10)


def test_another_train_is_another_run(tmp_path: Path) -> None:
    lrs, trainer = train(tmp_path, schedule="linear", optimizer_cls_and_kwargs=(AdamW, {"lr": 0.1}), steps=4)
    lrs.clear()
    trainer.train()
    assert lrs == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="schedule"):
        ScheduledTrainer(model=Model())
    with pytest.raises(ValueError, match="linaer"):
        ScheduledTrainer(model=Model(), schedule="linaer")
    with pytest.raises(ValueError, match="30"):
        train(tmp_path, schedule="linear,warmup=30", steps=10)
