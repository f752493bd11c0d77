"""Other processes: a fresh interpreter that resumes runs, and ranks that talk over loopback. None outlives its time."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from optzoo.optimizers import create_optimizer, list_optimizers

from .cases import FACTORING, JOINT
from .problems import gradients, tensors, trajectory

TESTS = Path(__file__).parents[1]
STEPS, SAVED_AFTER = 10, 5


def in_new_process(function: Callable[..., None], *arguments: object, seconds: float = 120) -> None:
    """Call a function of a module in tests/support in a fresh interpreter, which is killed when its time is over."""
    name = function.__name__
    code = f"import sys; from {function.__module__} import {name}; {name}(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=TESTS, timeout=seconds, check=True)


def resume(source: str, target: str) -> None:
    """Go on with every run in ``source`` and save where it ends; its options are known from the checkpoint alone.

    But for ``cautious``, which makes CAdamW and CLion what they are, so that loading leaves it as it is constructed.
    """
    ends = {}
    for key, run in torch.load(source, weights_only=True).items():
        params = [torch.nn.Parameter(p) for p in run["params"]]
        optimizer = create_optimizer(run["name"], params, cautious=run["cautious"])
        optimizer.load_state_dict(run["optimizer"])
        trajectory(optimizer, params, gradients(STEPS, dtype=params[0].dtype)[SAVED_AFTER:])
        ends[key] = {"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()}
    torch.save(ends, target)


def in_ranks(function: Callable[[int, Path], None], directory: Path, ranks: int = 2, seconds: float = 120) -> None:
    """Call ``function(rank, directory)`` in processes that form a gloo group and are ended when their time is over."""
    context = torch.multiprocessing.spawn(_rank, (function, ranks, directory), nprocs=ranks, join=False)
    deadline = time.monotonic() + seconds
    try:
        while not context.join(timeout=max(deadline - time.monotonic(), 0)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{function.__name__}: {ranks} ranks took more than {seconds} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join(10)


def _rank(rank: int, function: Callable[[int, Path], None], ranks: int, directory: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{directory / 'rendezvous'}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=60),
    )
    try:
        function(rank, directory)
    finally:
        dist.destroy_process_group()


# What the ranks do

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "floor": {"cautious": True},
    "xi": {"cautious": True, "cautious_scale": "xi"},
    "unscaled": {"cautious": True, "cautious_scale": None},
}


def run_options(name: str, options: str) -> dict[str, Any]:
    moving = {"reps_rel": 1.0} if name in JOINT else {}  # else DoG's steps are lost in the tolerance
    return {**OPTIONS[options], **FACTORING.get(name, {}), **moving}


RUNS = list(product(list_optimizers(), OPTIONS))
MESHES: Mapping[str, tuple[tuple[int, ...], tuple[Placement, ...]]] = {
    "sharded": ((2,), (Shard(0),)),
    "replicated and sharded": ((2, 1), (Replicate(), Shard(0))),
}
"""Shapes of meshes of two ranks, and the placements of parameters in them."""
DISTRIBUTED_SHAPES = [(5, 3), (1, 3), (4,), (3, 2, 2), (6,)]
"""Uneven, empty on the second rank, and so on; the last tensor stays a plain one."""


def distributed(rank: int, directory: Path) -> None:
    """All that is to be seen on two ranks, saved per rank."""
    seen = {
        "DTensor": {(*run, mesh): step_dtensors(*run, mesh) for run, mesh in product(RUNS, MESHES)},
        "FSDP2": {run: train_sharded(*run, slice(rank, None, 2), lambda: fully_shard(network())) for run in RUNS},
        "DDP": {run: train_replicated(*run, rank) for run in RUNS},
    }
    torch.save(seen, directory / f"{rank}.pt")


def step_dtensors(name: str, options: str, mesh: str) -> dict[str, Any]:
    """Where DTensors get to on gradients of several placements, and which of their state is placed otherwise."""
    shape, placements = MESHES[mesh]
    device_mesh = dist.init_device_mesh("cpu", shape)
    *whole, alone = tensors(DISTRIBUTED_SHAPES)
    params = [nn.Parameter(distribute_tensor(t, device_mesh, placements)) for t in whole] + [nn.Parameter(alone)]
    optimizer = create_optimizer(name, params, lr=0.01, weight_decay=0.1, **run_options(name, options))
    partial = [Partial(), *[Replicate()] * (len(shape) - 1)]
    for *row, g in gradients(4, DISTRIBUTED_SHAPES):
        grads = [None if t is None else distribute_tensor(t, device_mesh, placements) for t in row]
        grads[0] = distribute_tensor(row[0], device_mesh, [Replicate()] * len(shape))
        grads[1] = DTensor.from_local(row[1] / 2, device_mesh, partial)
        for p, grad in zip(params, (*grads, g), strict=True):
            p.grad = grad
        optimizer.step()
    misplaced = [
        key
        for p in params[:-1]
        for key, t in optimizer.state[p].items()
        if t.ndim == p.ndim and key[0] not in "QL" and t.placements != placements_of(t, p)  # PSGD's are whole
    ]
    return {"params": [p.full_tensor() for p in params[:-1]] + params[-1:], "misplaced": misplaced}


def placements_of(state: Tensor, param: DTensor) -> tuple[Placement, ...]:
    """Those of the parameter, but for dimensions that have size 1 in its state."""
    return tuple(
        placement
        if placement.is_replicate() or state.shape[placement.dim] == param.shape[placement.dim]
        else Replicate()
        for placement in param.placements
    )


def distributed_in_two_dimensions(rank: int, directory: Path) -> None:
    """Four ranks: the network is cut into two by tensor parallelism, and either half is sharded over two ranks."""
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}

    def sharded() -> nn.Module:
        return fully_shard(parallelize_module(network(EVEN), mesh["tensor"], plan), mesh=mesh["data"])

    part = slice(mesh.get_local_rank("data"), None, 2)
    seen = {run: train_sharded(*run, part, sharded) for run in RUNS_IN_TWO_DIMENSIONS}
    torch.save(seen, directory / f"{rank}.pt")


RUNS_IN_TWO_DIMENSIONS = list(product(list_optimizers(), ("plain", "floor")))
EVEN = (3, 8, 4)
"""Sizes of layers that FSDP2 can shard after tensor parallelism."""


def network(sizes: tuple[int, int, int] = (3, 5, 1)) -> nn.Module:
    first, second, third = sizes
    model = nn.Sequential(nn.Linear(first, second), nn.Tanh(), nn.Linear(second, third)).double()
    for p, t in zip(model.parameters(), tensors([p.shape for p in model.parameters()]), strict=True):
        p.data.copy_(t)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Sequence[int], part: slice = slice(None)) -> None:
    """Steps on the mean loss over a part of their batches."""
    for step in steps:
        (x,) = tensors([(8, 3)], seed=step)
        optimizer.zero_grad()
        model(x[part]).square().mean().backward()
        optimizer.step()


def train_sharded(name: str, options: str, part: slice, sharded: Callable[[], nn.Module]) -> dict[str, Any]:
    """Where a sharded network gets to, stopped after three steps and resumed from a full state dict, and not stopped.

    Both on this rank's part of the batches. Its options are known from the state dict alone, but for ``cautious``,
    which loading leaves as it is constructed.
    """
    full = StateDictOptions(full_state_dict=True)
    model, resumed = sharded(), sharded()
    optimizer = create_optimizer(name, model, lr=0.01, weight_decay=0.1, **run_options(name, options))
    train(model, optimizer, range(3), part)
    cautious = {"cautious": True} if OPTIONS[options] else {}
    second = create_optimizer(name, resumed, weight_decay=0.2, **cautious, **FACTORING.get(name, {}))
    saved = get_optimizer_state_dict(model, optimizer, options=full)
    saved = copy.deepcopy(saved)  # a load in the same process shares memory, in torch.optim as here
    set_optimizer_state_dict(resumed, second, saved, options=full)
    set_model_state_dict(resumed, get_model_state_dict(model, options=full), options=full)
    train(model, optimizer, range(3, 6), part)
    train(resumed, second, range(3, 6), part)
    return {"params": get_model_state_dict(model, options=full), "resumed": get_model_state_dict(resumed, options=full)}


def train_replicated(name: str, options: str, rank: int) -> dict[str, Tensor]:
    """Where DDP gets to on this rank."""
    model = network()
    optimizer = create_optimizer(name, model, lr=0.01, weight_decay=0.1, **run_options(name, options))
    train(DistributedDataParallel(model), optimizer, range(3), slice(rank, None, 2))
    return model.state_dict()
