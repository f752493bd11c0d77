"""Matrices whose rows two ranks share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from optzoo.optimizers import Muon

from .problems import tensors

SHAPES, STEPS = [(9, 4)] * 3, 3
OPTIONS: dict[str, Any] = {"lr": 0.1, "parts": (3, 2, 4)}


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(SHAPES)]


def rows() -> list[list[Tensor]]:
    return [tensors(SHAPES, seed=step) for step in range(1, 1 + STEPS)]


def step_shards(rank: int, directory: Path) -> None:
    """Where the shards get to, put together, and how many collectives the steps took."""
    mesh = dist.init_device_mesh("cpu", (2,))
    params = [nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in parameters()]
    optimizer, collectives = Muon(params, **OPTIONS), 0
    for row in rows():
        for p, g in zip(params, row, strict=True):
            p.grad = distribute_tensor(g, mesh, [Shard(0)])
        with CommDebugMode() as counted:
            optimizer.step()
        collectives += counted.get_total_counts()
    whole = [p.full_tensor().detach() for p in params]
    torch.save({"params": whole, "collectives": collectives}, directory / f"{rank}.pt")
