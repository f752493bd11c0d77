"""Layers that are unfrozen in a run: Lightning's BackboneFinetuning, with groups that are named, and resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from optzoo.integrations.lightning import OptimizerCLI
from optzoo.optimizers import Lookahead, create_optimizer, param_groups
from support.lightning_runs import QUIET
from support.problems import tensors

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


class Finetuned(lightning.LightningModule):
    """A backbone that is frozen up to the second epoch, and a head."""

    def __init__(self, make: Callable[[nn.Module], Any] | None = None) -> None:
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 1)
        for p, t in zip(self.parameters(), tensors([p.shape for p in self.parameters()], torch.float32), strict=True):
            p.data.copy_(t)
        self.make, self.moved = make, list[bool]()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss: Tensor = (self.head(self.backbone(batch[0])) - 1).square().mean()
        return loss

    def on_train_start(self) -> None:
        if self.current_epoch > 1:
            self.backbone.requires_grad_(True)  # which Lightning does not do when it resumes

    def on_train_epoch_end(self) -> None:
        start = tensors([p.shape for p in self.parameters()], torch.float32)[0]
        self.moved.append(not torch.equal(self.backbone[0].weight, start))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(tensors([(8, 3)], torch.float32, seed=1)[0]), 4)

    def configure_optimizers(self) -> Any:
        assert self.make is not None
        return self.make(self)


MAKE: Mapping[str, Callable[[nn.Module], Any]] = {
    "by name": partial(create_optimizer, "cadamw", lr=0.05),
    "a wrapper of torch's": lambda model: Lookahead(param_groups(model, 0.1), torch.optim.AdamW, k=3, lr=0.05),
}


def fit(model: Finetuned, directory: Path, epochs: int, resume: Path | None = None) -> lightning.Trainer:
    trainer = lightning.Trainer(
        **QUIET,
        max_epochs=epochs,
        default_root_dir=directory,
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=1)],
    )
    trainer.fit(model, ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_the_backbone_is_trained_from_then_on_also_after_resuming(make: Any, tmp_path: Path) -> None:
    whole = Finetuned(make)
    (optimizer,) = fit(whole, tmp_path / "whole", 4).optimizers
    assert whole.moved == [False, True, True, True]
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["head.weight"],
        ["head.bias"],
        ["added.2.0", "added.2.1"],
    ]
    fit(Finetuned(make), tmp_path / "first", 2)
    (checkpoint,) = (tmp_path / "first").rglob("*.ckpt")
    resumed = Finetuned(make)
    fit(resumed, tmp_path / "second", 4, checkpoint)
    exactly(resumed.state_dict(), whole.state_dict())


def test_frozen_parameters_in_the_groups_are_trained_once_they_are_unfrozen(tmp_path: Path) -> None:
    model = Finetuned(partial(create_optimizer, "adamw", lr=0.05, include_frozen=True))
    (optimizer,) = fit(model, tmp_path, 3).optimizers
    assert model.moved == [False, True, True]
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["backbone.0.weight", "head.weight"],
        ["backbone.0.bias", "head.bias"],
    ]


@pytest.mark.parametrize("arguments", [[], ["--groups=null"], ["--groups.include_frozen=false"]])
def test_the_command_line(arguments: list[str]) -> None:
    trainer = {**QUIET, "enable_checkpointing": False, "max_epochs": 3}
    found = OptimizerCLI(
        Finetuned,
        args=["--optimizer=CAdamW", *arguments],
        run=False,
        trainer_defaults={**trainer, "callbacks": [BackboneFinetuning(unfreeze_backbone_at_epoch=1)]},
        seed_everything_default=False,
        save_config_callback=None,
    )
    found.trainer.fit(found.model)
    assert found.model.moved == [False, True, True]
