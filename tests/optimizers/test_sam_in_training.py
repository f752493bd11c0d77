"""SAM where runs happen: on two ranks, and under a Lightning Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from optzoo.optimizers import SAM
from support import sam_ranks
from support.checkpoints import differences
from support.problems import tensors
from support.processes import in_ranks, network
from support.sam_ranks import MAKE, STEPS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


# Ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Mapping[str, Any]]:
    """What each of two ranks has seen."""
    directory = tmp_path_factory.mktemp("ranks")
    in_ranks(sam_ranks.on_two_ranks, directory)
    return [torch.load(directory / f"{rank}.pt") for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize("name", MAKE)
def test_two_ranks_get_where_one_gets(name: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    """The norm is that of whole parameters, in one all-reduce a step."""
    model = network()
    sam_ranks.train(model, MAKE[name](model.parameters()))
    for rank in ranks:
        for how in ("sharded", "replicated"):
            torch.testing.assert_close(rank[name][how], model.state_dict(), rtol=1e-12, atol=1e-12)
        assert rank[name]["reductions"] == STEPS
        (text,) = rank[name]["pieces"]
        assert text.startswith("SAM needs whole parameters")


# Lightning


class Regression(lightning.LightningModule):
    """With dropout and batch norm; counts what it is asked."""

    def __init__(self, rho: float, base: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.make = partial(SAM, base=base, rho=rho) if rho >= 0 else base
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = (self.layers(batch[0]) - 1).square().mean()
        self.losses.append(loss.item())
        return loss

    def train_dataloader(self) -> DataLoader[Any]:
        (x,) = tensors([(40, 3)], torch.float32, seed=1)
        return DataLoader(TensorDataset(x), batch_size=10)

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
QUIET: dict[str, Any] = dict(
    accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0
)


def fit(model: Regression, directory: Path, epochs: int, checkpoint: Path | None = None, **options: Any) -> Any:
    callback = lightning.callbacks.ModelCheckpoint(directory, filename="{epoch}", save_top_k=-1)
    trainer = lightning.Trainer(max_epochs=epochs, callbacks=[callback], **{**QUIET, **options})
    torch.manual_seed(7)
    trainer.fit(model, ckpt_path=checkpoint)
    return trainer


def test_automatic_optimization_is_a_plain_loop(tmp_path: Path) -> None:
    """Its closure calls backward(); a step counts once, and is asked for twice."""
    model, loop = Regression(0.2, SGD), Regression(0.2, SGD)
    trainer = fit(model, tmp_path, 2)
    assert trainer.global_step == 8
    assert len(model.losses) == 16
    (optimizer,), (scheduler,) = loop.configure_optimizers()
    torch.manual_seed(7)
    for _ in range(2):
        for batch in loop.train_dataloader():

            def closure(batch: list[Tensor] = batch) -> Tensor:
                optimizer.zero_grad()
                loss = loop.training_step(batch, 0)
                loss.backward()
                return loss

            optimizer.step(closure)
        scheduler.step()
    assert differences(model.layers.state_dict(), loop.layers.state_dict()) == []
    assert model.losses == loop.losses
    assert model.layers[1].num_batches_tracked == 8


@pytest.mark.parametrize("base", [SGD, torch.optim.AdamW])
def test_without_rho_a_fit_is_that_of_its_base(base: Any, tmp_path: Path) -> None:
    """Dropout and averages included, with gradients clipped and added up over two batches."""
    options = dict(gradient_clip_val=0.5, accumulate_grad_batches=2)
    model, plain = Regression(0.0, base), Regression(-1.0, base)
    for net in (model, plain):
        fit(net, tmp_path / str(net.make), 2, **options)
    assert differences(model.layers.state_dict(), plain.layers.state_dict()) == []
    assert model.losses == plain.losses


def test_a_fit_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped, resumed = (Regression(0.2, SGD) for _ in range(3))
    for net in (whole, stopped, resumed):
        net.layers[2].p = 0.0  # random numbers are no part of a checkpoint
    fit(whole, tmp_path / "whole", 2)
    fit(stopped, tmp_path / "stopped", 1)
    trainer = fit(resumed, tmp_path / "resumed", 2, tmp_path / "stopped" / "epoch=0.ckpt")
    assert differences(resumed.layers.state_dict(), whole.layers.state_dict()) == []
    saved = torch.load(tmp_path / "whole" / "epoch=1.ckpt", weights_only=True)["optimizer_states"][0]
    assert differences(trainer.optimizers[0].state_dict()["state"], saved["state"]) == []


class ByHand(Regression):
    """Manual optimization through Lightning's own optimizer object, two micro-batches a step."""

    def __init__(self) -> None:
        super().__init__(0.2, SGD)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], index: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        for move in (optimizer.ascend, optimizer.descend):
            optimizer.zero_grad()
            for part in batch[0].chunk(2):
                self.manual_backward((self.layers(part) - 1).square().mean() / 2)
            move()
        optimizer.step()


def test_by_hand_through_the_optimizer_of_lightning(tmp_path: Path) -> None:
    model, start = ByHand(), ByHand().layers.state_dict()
    trainer = fit(model, tmp_path, 1)
    assert trainer.global_step == 4
    moved = [not torch.equal(p, start[name]) for name, p in model.layers.named_parameters()]
    assert moved.count(True) >= len(moved) - 1  # the bias before batch norm has no gradient but rounding's
    assert not trainer.optimizers[0]._explicit.points
