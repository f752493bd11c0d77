"""Runs that change their optimizer and go on from the checkpoint, in Lightning and in Hugging Face's Trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import AdamW, AdEMAMix, CAdamW, Lookahead

pytest.importorskip("lightning")
pytest.importorskip("transformers")

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from transformers import Trainer as HFTrainer
from transformers import TrainingArguments

from optzoo.integrations.huggingface import AdoptMixin
from optzoo.integrations.lightning import AdoptCallback

pytestmark = pytest.mark.filterwarnings("ignore")


class Boring(BoringModel):
    def __init__(self, make: Any, **options: Any) -> None:
        super().__init__()
        self.make, self.options = make, options

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters(), **self.options)


def fit(
    directory: Path, model: Boring, steps: int, callbacks: list[Any], ckpt_path: Any = None
) -> tuple[Any, list[str]]:
    trainer = Trainer(
        default_root_dir=directory,
        max_steps=steps,
        limit_train_batches=20,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(dirpath=directory, filename="{step}", every_n_train_steps=1, save_top_k=-1),
            *callbacks,
        ],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, ckpt_path=ckpt_path)
    return trainer.optimizers[0], [str(w.message) for w in caught if "adopt(" in str(w.message)]


def test_lightning_changes_the_optimizer_at_a_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, Boring(CAdamW, lr=0.01), 3, [])
    path = tmp_path / "step=3.ckpt"
    optimizer, messages = fit(tmp_path / "plain", Boring(AdamW, lr=0.5), 4, [], path)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["cautious"]) == (0.01, False)
    assert len(messages) == 1
    for make, base in ((AdEMAMix, AdEMAMix), (lambda params, lr: Lookahead(params, AdEMAMix, lr=lr), Lookahead)):
        optimizer, messages = fit(tmp_path / base.__name__, Boring(make, lr=0.5), 4, [AdoptCallback()], path)
        state = next(iter(optimizer.state.values()))
        assert (type(optimizer), messages, optimizer.param_groups[0]["lr"]) == (base, [], 0.5)
        assert (state["step"].item(), optimizer.param_groups[0]["schedule_start"]) == (4, 3)
    resumed, messages = fit(
        tmp_path / "again", Boring(AdEMAMix, lr=0.1), 6, [AdoptCallback()], tmp_path / "AdEMAMix" / "step=4.ckpt"
    )
    assert (messages, resumed.param_groups[0]["lr"], resumed.param_groups[0]["schedule_start"]) == ([], 0.5, 3)


def test_the_callback_needs_an_optimizer_of_ours(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"AdoptCallback: no optimizer is one of optzoo's \(SGD\)"):
        fit(tmp_path, Boring(torch.optim.SGD, lr=0.1), 1, [AdoptCallback()])


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": ((self.layer(x) - labels) ** 2).mean()}


class AdoptingTrainer(AdoptMixin, HFTrainer): ...


def train(cls: Any, directory: Path, make: Any, lr: float, steps: int, source: Any = None) -> tuple[Any, list[str]]:
    rows = [{"x": torch.full((3,), float(i % 5)), "labels": torch.ones(1)} for i in range(32)]
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=4,
        save_steps=1,
        lr_scheduler_type="constant",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_strategy="no",
    )
    trainer = cls(model=Regression(), args=arguments, train_dataset=rows, optimizer_cls_and_kwargs=(make, {"lr": lr}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train(resume_from_checkpoint=source and str(source))
    return trainer.optimizer.optimizer, [str(w.message) for w in caught if "adopt(" in str(w.message)]


def test_the_trainer_changes_the_optimizer_at_a_checkpoint(tmp_path: Path) -> None:
    train(HFTrainer, tmp_path / "first", CAdamW, 0.01, 3)
    path = tmp_path / "first" / "checkpoint-3"
    optimizer, messages = train(HFTrainer, tmp_path / "plain", AdamW, 0.5, 4, path)
    assert (optimizer.param_groups[0]["cautious"], len(messages)) == (False, 1)
    optimizer, messages = train(AdoptingTrainer, tmp_path / "adopted", AdEMAMix, 0.5, 4, path)
    state = next(iter(optimizer.state.values()))
    assert (type(optimizer), messages, state["step"].item()) == (AdEMAMix, [], 4)
    assert (optimizer.param_groups[0]["alpha"], optimizer.param_groups[0]["schedule_start"]) == (5.0, 3)
    optimizer, messages = train(
        AdoptingTrainer, tmp_path / "again", AdEMAMix, 0.1, 6, tmp_path / "adopted" / "checkpoint-4"
    )
    assert (messages, optimizer.param_groups[0]["schedule_start"]) == ([], 3)


def test_the_mixin_needs_an_optimizer_of_ours(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must be one of optzoo's, got SGD"):
        train(AdoptingTrainer, tmp_path, torch.optim.SGD, 0.1, 1)
