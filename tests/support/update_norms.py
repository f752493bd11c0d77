"""Update norms the long way, in float64 from copies of everything, and what the distributed tests train."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from optzoo.integrations.lightning import UpdateNormMonitor
from optzoo.optimizers import AdamW

from .problems import tensors

Copies = Mapping[str, Tensor]


class Numbers:
    """Takes the place of a SummaryWriter, and keeps what is written: step, key, value."""

    def __init__(self) -> None:
        self.scalars: dict[int, dict[str, float]] = {}
        self.histograms: dict[int, dict[str, Tensor]] = {}

    def add_scalar(self, key: str, value: float, step: int) -> None:
        assert key not in self.scalars.setdefault(step, {})
        self.scalars[step][key] = value

    def add_histogram(self, key: str, values: Tensor, step: int) -> None:
        self.histograms.setdefault(step, {})[key] = values


def copies(model: nn.Module, gradients: bool = False) -> dict[str, Tensor]:
    """Parameters or gradients by name, zeros where there are none."""
    found = {}
    for name, p in model.named_parameters():
        t = p.grad if gradients else p.detach()
        wide = torch.complex128 if p.is_complex() else torch.float64
        found[name.replace("_orig_mod.", "")] = torch.zeros_like(p, dtype=wide) if t is None else t.to(wide, copy=True)
    return found


def norm(*parts: Tensor) -> float:
    return math.sqrt(sum(part.abs().square().sum().item() for part in parts))


def by_hand(before: Copies, after: Copies, clipped: Copies, unclipped: Copies | None = None) -> dict[str, float]:
    """The norms of a step, of each parameter and in total."""
    expected = {}
    for label, names in [*((name, [name]) for name in before), ("total", list(before))]:
        weight = norm(*(before[name] for name in names))
        update = norm(*(after[name] - before[name] for name in names))
        expected[f"update_norm/{label}"] = update
        expected[f"update_ratio/{label}"] = update / weight if weight else math.nan
        expected[f"weight_norm/{label}"] = weight
        expected[f"grad_norm_clipped/{label}"] = norm(*(clipped[name] for name in names))
        if unclipped is not None:
            expected[f"grad_norm/{label}"] = norm(*(unclipped[name] for name in names))
    return expected


def network() -> nn.Sequential:
    """Two layers in float64, the second of one output, so that a shard of it is empty."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    for p, t in zip(model.parameters(), tensors([p.shape for p in model.parameters()]), strict=True):
        p.data.copy_(t)
    return model


class Regression(pl.LightningModule):
    """Of ranks, each takes its share of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def loss(self, x: Tensor) -> Tensor:
        return (self.net(x) - 1).square().mean()

    def training_step(self, batch: Sequence[Tensor], index: int) -> Any:
        loss = self.loss(batch[0][self.global_rank :: self.trainer.world_size])
        self.log("loss", loss.detach())
        return loss

    def train_dataloader(self) -> DataLoader[Any]:
        (x,) = tensors([(48, 3)], seed=1)
        return DataLoader(TensorDataset(x), batch_size=8)

    def configure_optimizers(self) -> Any:
        return AdamW(self.parameters(), lr=0.01, weight_decay=0.1, cautious=True)


class Sharded(Regression):
    def configure_model(self) -> None:
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


QUIET: dict[str, Any] = dict(
    accelerator="cpu",
    enable_progress_bar=False,
    enable_model_summary=False,
    enable_checkpointing=False,
    log_every_n_steps=1,
    max_epochs=1,
)


def train_in_rank(rank: int, directory: Path) -> None:
    """The same training under DDP and FSDP2, its numbers in files; torch.distributed is up already."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
        TORCHELASTIC_RUN_ID="1", MASTER_ADDR="localhost", MASTER_PORT="1",
    )  # fmt: skip
    for low_memory in (False, True):
        ddp = DDPStrategy(process_group_backend="gloo")
        log(Regression(), directory / f"ddp{low_memory}", low_memory, strategy=ddp, devices=2)
        fsdp2 = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
        log(Sharded(), directory / f"fsdp2{low_memory}", low_memory, strategy=fsdp2, devices=2)
    from . import update_norms_in_transformers as transformers

    transformers.log(directory, "two.json", per_device_train_batch_size=4, ddp_backend="gloo")


def log(model: pl.LightningModule, directory: Path, low_memory: bool, **options: Any) -> None:
    """A short training with all quantities in a CSV file."""
    trainer = pl.Trainer(
        **QUIET,
        **options,
        logger=CSVLogger(directory, name="", version=""),
        callbacks=[UpdateNormMonitor(2, low_memory=low_memory)],
        gradient_clip_val=0.3,
        use_distributed_sampler=False,
    )
    trainer.fit(model)


STEPS = 7


def batches(count: int = STEPS) -> list[Tensor]:
    return [tensors([(8, 3)], seed=seed)[0] for seed in range(count)]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, norms: Any = None, clip: float = 0.2, steps: int = STEPS
) -> list[dict[str, float]]:
    """Clipped steps, what they did by hand, and the cosines by hand."""
    expected = []
    for x in batches(steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        before, unclipped = copies(model), copies(model, gradients=True)
        if norms is not None:
            norms.before_clipping()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        expected.append(by_hand(before, copies(model), copies(model, gradients=True), unclipped))
        for name, p in model.named_parameters():
            state = optimizer.state[p]
            m = state.get("exp_avg", state.get("momentum_buffer"))
            if m is not None:
                flat = [torch.view_as_real(t) if t.is_complex() else t for t in (p.detach() - before[name], m)]
                cos = torch.cosine_similarity(*(t.flatten().double() for t in flat), dim=0).item()
                expected[-1][f"update_momentum_cos/{name}"] = -cos if cos else math.nan
    return expected
