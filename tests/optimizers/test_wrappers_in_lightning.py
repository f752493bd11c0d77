"""Wrappers under a Lightning Trainer: automatic and manual optimization, checkpoints, LightningCLI."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch import cli
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from optzoo.optimizers import AdamW
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.lookahead import Lookahead
from support.problems import tensors
from support.wrapped import WRAPPED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


class Regression(lightning.LightningModule):
    def __init__(self, make: Any = None) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(3, 1), make
        (weight,) = tensors([(1, 3)], torch.float32)
        self.layer.weight.data.copy_(weight)
        self.layer.bias.data.zero_()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return (self.layer(batch[0]) - 1).square().mean()

    def train_dataloader(self) -> DataLoader[Any]:
        (x,) = tensors([(40, 3)], torch.float32, seed=1)
        return DataLoader(TensorDataset(x), batch_size=10)

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


QUIET: dict[str, Any] = dict(
    accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0
)


def fit(model: Any, directory: Path, epochs: int, checkpoint: Path | None = None) -> Any:
    callback = lightning.callbacks.ModelCheckpoint(directory, filename="{epoch}", save_top_k=-1)
    trainer = lightning.Trainer(max_epochs=epochs, callbacks=[callback], **QUIET)
    trainer.fit(model, ckpt_path=checkpoint)
    return trainer


@pytest.mark.parametrize("name", ["Lookahead(AdamW)", "Lookahead(Cautious(SGD))", "Cautious(torch AdamW)"])
def test_a_fit_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Stopped after 4 steps, where a sync is every third; its losses are those of a plain loop."""
    whole, stopped, resumed = (Regression(WRAPPED[name]) for _ in range(3))
    trainer = fit(whole, tmp_path / "whole", 3)
    fit(stopped, tmp_path / "stopped", 1)
    assert not torch.equal(stopped.layer.weight, whole.layer.weight)
    again = fit(resumed, tmp_path / "resumed", 3, tmp_path / "stopped" / "epoch=0.ckpt")
    exactly(resumed.state_dict(), whole.state_dict())
    exactly(again.optimizers[0].state_dict()["state"], trainer.optimizers[0].state_dict()["state"])
    assert again.optimizers[0].param_groups[0].get("lookahead_step", 0) == 0

    loop = Regression(WRAPPED[name])
    (optimizer,), (scheduler,) = loop.configure_optimizers()
    for _ in range(3):
        for batch in loop.train_dataloader():
            optimizer.zero_grad()
            loop.training_step(batch, 0).backward()
            nn.utils.clip_grad_norm_(loop.parameters(), 1.0)
            optimizer.step()
        scheduler.step()
    exactly(loop.state_dict(), whole.state_dict())


class Manual(Regression):
    """Optimizes by hand, and looks at the slow weights through Lightning's own optimizer object."""

    def __init__(self) -> None:
        super().__init__(partial(Lookahead, base=torch.optim.SGD, k=4, lr=0.1))
        self.automatic_optimization = False
        self.seen: list[tuple[Tensor, ...]] = []

    def training_step(self, batch: list[Tensor], index: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, index))
        optimizer.step()
        weight = self.layer.weight
        fast, slow = weight.detach().clone(), optimizer.state[weight]["lookahead_slow"].clone()
        with optimizer.slow_weights():
            within = weight.detach().clone()
            for forbidden in (optimizer.step, optimizer.state_dict, self.trainer.optimizers[0].step):
                with pytest.raises(RuntimeError, match="within evaluation_weights"):
                    forbidden()
        self.seen.append((fast, weight.detach().clone(), within, slow))
        if index == 1:
            optimizer.sync_now()


def test_slow_weights_through_the_optimizer_of_lightning() -> None:
    """What is done there must be done to the optimizer itself: Lightning's object keeps attributes of its own."""
    model = Manual()
    trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, **{**QUIET, "gradient_clip_val": None})
    trainer.fit(model)
    assert len(model.seen) == 4
    for fast, after, within, slow in model.seen:
        exactly(after, fast)
        exactly(within, slow)
    assert not torch.equal(model.seen[0][0], model.seen[0][3])
    assert trainer.optimizers[0].param_groups[0]["lookahead_step"] == 2


@pytest.mark.parametrize(
    ("arguments", "wrapper", "base", "lr", "k"),
    [
        (["optzoo.optimizers.lookahead.Lookahead", "--optimizer.k=2"], Lookahead, AdamW, 1e-3, 2),
        (
            [
                "optzoo.optimizers.lookahead.Lookahead",
                "--optimizer.base=torch.optim.SGD",
                "--optimizer.base.lr=.2",
                "--optimizer.alpha=.8",
            ],
            Lookahead,
            torch.optim.SGD,
            0.2,
            5,
        ),
        (
            ["optzoo.optimizers.cautious.Cautious", "--optimizer.base=torch.optim.NAdam", "--optimizer.base.lr=.2"],
            Cautious,
            torch.optim.NAdam,
            0.2,
            None,
        ),
    ],
)
def test_lightning_cli_makes_wrapper_and_base(
    arguments: list[str], wrapper: type, base: type, lr: float, k: int | None
) -> None:

    class Bare(Regression):
        configure_optimizers = lightning.LightningModule.configure_optimizers

    made = cli.LightningCLI(
        Bare,
        args=["fit", f"--optimizer={arguments[0]}", *arguments[1:]],
        trainer_defaults={**QUIET, "max_epochs": 1, "enable_checkpointing": False},
        save_config_callback=None,
        seed_everything_default=0,
    )
    (optimizer,) = made.trainer.optimizers
    assert type(optimizer) is wrapper
    assert type(optimizer.base_optimizer) is base
    group = optimizer.param_groups[0]
    assert (group["lr"], group.get("lookahead_k")) == (lr, k)
    assert group.get("lookahead_step") == (4 % k if k else None)
