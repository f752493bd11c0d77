"""Small runs of Lightning's Trainer, in this process and in ranks that share the work."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from optzoo.integrations.lightning import (
    AveragedWeightsCallback,
    EvaluationWeightsCallback,
    OptimizerCLI,
    SlowWeightsCallback,
)
from optzoo.optimizers import (
    AdamW,
    DoG,
    Lookahead,
    PolynomialDecayAverager,
    ScheduleFreeAdamW,
    evaluation_weights,
)

from .problems import tensors

QUIET: dict[str, Any] = dict(
    accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1
)
RISE_HOLD_FALL = [{"start": 0, "to": 1, "steps": 0.2}, {"hold": "rest"}, {"to": 0, "steps": 0.5, "shape": "sqrt"}]
LRS = [0, 0.05, 0.1, 0.1, 0.1, 0.1, 0.0553, 0.0368, 0.0225, 0.0106]
"""Of ten steps with that schedule and a base lr of 0.1, rounded."""


class Regression(lightning.LightningModule):
    """Two layers and a norm in float64, ten batches; validation keeps the weights it saw."""

    def __init__(self, make: Any = None, batch_size: int = 4) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 1)).double()
        for p, t in zip(self.network.parameters(), tensors([p.shape for p in self.network.parameters()]), strict=True):
            p.data.copy_(t)
        self.make, self.batch_size = make, batch_size
        self.seen: list[dict[str, Tensor]] = []
        self.lrs: list[float] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        optimizer = self.optimizers()
        self.lrs.append(float(optimizer.param_groups[0]["lr"]))
        return self.loss(batch[0])

    def loss(self, x: Tensor) -> Tensor:
        return (self.network(x) - 1).square().mean()

    def data(self) -> Tensor:
        return tensors([(40, 3)], seed=1)[0]

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.seen.append(whole_state(self))

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self.seen.append(whole_state(self))

    def train_dataloader(self) -> DataLoader[Any]:
        part = slice(self.global_rank, None, self.trainer.world_size)
        return DataLoader(TensorDataset(self.data()[part]), self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(tensors([(2, 3)], seed=2)[0]), 1)

    test_dataloader = val_dataloader


class Trained(Regression):
    """With an optimizer of its own."""

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


class Sharded(Regression):
    """With layers that every rank has a part of."""

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            fully_shard(self.network, mesh=self.device_mesh["data_parallel"])


class ShardedTrained(Sharded, Trained):
    """Both."""


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters, gathered."""
    state = {name: p.detach() for name, p in module.named_parameters()}
    return {name: p.full_tensor() if hasattr(p, "full_tensor") else p.clone() for name, p in state.items()}


def run_cli(
    arguments: dict[str, Any], model: type = Regression, cli: type[LightningCLI] = OptimizerCLI, **trainer: Any
) -> Any:
    config = {"subcommand": "fit", "fit": {**arguments, "trainer": {**QUIET, "enable_checkpointing": False, **trainer}}}
    return cli(model, args=config, save_config_callback=None, seed_everything_default=0)


def trained_by_hand(make: Any, steps: int, averager: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is trained in so many steps by hand, and its slow or averaged weights."""
    model = Trained(make)
    optimizer = model.configure_optimizers()
    average = PolynomialDecayAverager(model.named_parameters()) if averager else None
    batches = model.data().split(4)[:4]
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(batches[step % 4]).backward()
        optimizer.step()
        if average is not None:
            average.update()
    trained = whole_state(model)
    with evaluation_weights(average or optimizer):
        return trained, whole_state(model)


# What the ranks do


def fully_sharded(rank: int, directory: Path) -> None:
    """All that is to be seen with FSDP2 on two ranks."""
    seen = {"cli": cli_on_ranks(rank, directory), "weights": weights_on_ranks(rank, directory)}
    if rank == 0:
        torch.save(seen, directory / "seen.pt")


def two_ranks_trainer(directory: Path, rank: int, **options: Any) -> dict[str, Any]:
    """Options of a Trainer whose two processes there are already."""
    os.environ["LOCAL_RANK"] = str(rank)
    return {**QUIET, "devices": 2, "use_distributed_sampler": False, "default_root_dir": str(directory), **options}


def cli_on_ranks(rank: int, directory: Path) -> dict[str, Any]:
    """Every case of ``CLI_CASES`` with FSDP2 by command line; the weights it gets to."""
    strategy = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1},
    }
    trainer = two_ranks_trainer(directory, rank, strategy=strategy, max_epochs=1, enable_checkpointing=False)
    ends = {}
    for name, arguments in CLI_CASES.items():
        config = {"fit": {**arguments, "trainer": trainer, "model": {"batch_size": 2}}, "subcommand": "fit"}
        cli = OptimizerCLI(Sharded, args=config, save_config_callback=None, seed_everything_default=0)
        ends[name] = whole_state(cli.model)
    return ends


CLI_CASES: dict[str, dict[str, Any]] = {
    "AdamW": {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.1, "weight_decay": 0.1}}},
    "PSGD": {"optimizer": {"class_path": "PSGD", "init_args": {"lr": 0.01, "weight_decay": 0.1}}},
    "Lookahead(DoG)": {"optimizer": {"class_path": "Lookahead", "init_args": {"k": 3, "base": {"class_path": "DoG"}}}},
}


WEIGHTS: dict[str, tuple[Any, type[lightning.Callback]]] = {
    "Lookahead": (partial(Lookahead, base=AdamW, lr=0.05), SlowWeightsCallback),
    "average of DoG": (DoG, AveragedWeightsCallback),
    "Schedule-Free": (partial(ScheduleFreeAdamW, lr=0.05, weight_decay=0.1), EvaluationWeightsCallback),
}
"""What makes an optimizer, and the callback that goes with it."""


WEIGHTS_ON_RANKS = [
    ("Lookahead", False),
    ("Lookahead", True),
    ("average of DoG", True),
    ("Schedule-Free", False),
    ("Schedule-Free", True),
]
"""Each with a checkpoint that is whole or in shards."""


def weights_on_ranks(rank: int, directory: Path) -> dict[Any, Any]:
    """Two epochs of four steps with FSDP2, and the second one again from the checkpoint of the first."""
    found = {}
    for name, sharded_checkpoint in WEIGHTS_ON_RANKS:
        make, callback = WEIGHTS[name]
        run: dict[str, Any] = {}
        for resumed in ("", " after resuming"):
            place = directory / (name + " sharded" * sharded_checkpoint)
            saving = ModelCheckpoint(place / resumed, filename="{epoch}", save_top_k=-1)
            strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=sharded_checkpoint)
            options = two_ranks_trainer(directory, rank, strategy=strategy, callbacks=[saving, callback()])
            limits = {"limit_train_batches": 4, "limit_val_batches": 1, "num_sanity_val_steps": 0}
            trainer = lightning.Trainer(max_epochs=2, **options, **limits)
            model = ShardedTrained(make, batch_size=2)
            trainer.fit(model, ckpt_path=place / "epoch=0.ckpt" if resumed else None)
            run["resumed" if resumed else "trained"] = whole_state(model)
            run["evaluated" + resumed] = model.seen[-1]
        found[name, sharded_checkpoint] = run
    return found
