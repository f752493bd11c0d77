"""SAM on two ranks: sharded, replicated, and on pieces that no norm is right for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from optzoo.optimizers import SAM, AdamW
from optzoo.optimizers.core.closures import step_on

from .first_steps import warned
from .problems import tensors
from .processes import network

Make = Callable[[Any], torch.optim.Optimizer]

MAKE: Mapping[str, Make] = {
    "SGD": partial(SAM, base=partial(torch.optim.SGD, lr=0.05, momentum=0.9), rho=0.3),
    "AdamW, adaptive": partial(SAM, base=partial(AdamW, lr=0.02), rho=0.5, adaptive=True),
}
STEPS = 5


def train(model: nn.Module, optimizer: torch.optim.Optimizer, part: slice = slice(None)) -> None:
    for step in range(STEPS):
        (x,) = tensors([(8, 3)], seed=step)
        step_on(optimizer, lambda x=x: model(x[part]).square().mean())  # type: ignore[misc]


def on_two_ranks(rank: int, directory: Path) -> None:
    """Where it leads, and the reductions that it took; saved per rank."""
    part, seen = slice(rank, None, 2), {}
    for name, make in MAKE.items():
        model = fully_shard(network())
        reductions = counted(lambda m=model, make=make: train(m, make(m.parameters()), part))  # type: ignore[misc]
        whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        replica = network()
        train(DistributedDataParallel(replica), make(replica.parameters()), part)
        seen[name] = {"sharded": whole, "reductions": reductions, "replicated": replica.state_dict()}
        pieces = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
        seen[name]["pieces"] = warned(lambda m=pieces, make=make: train(m, make(m.parameters()), part))  # type: ignore[misc]
    torch.save(seen, directory / f"{rank}.pt")


def counted(function: Callable[[], None]) -> int:
    """How many all-reduces it makes."""
    calls, all_reduce = [], dist.all_reduce
    dist.all_reduce = lambda *args, **kwargs: calls.append(args) or all_reduce(*args, **kwargs)  # type: ignore
    try:
        function()
    finally:
        dist.all_reduce = all_reduce  # type: ignore[assignment]
    return len(calls)
