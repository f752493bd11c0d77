"""PSGD in other processes: one that resumes, and two ranks that share tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
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
from torch.distributed.tensor import distribute_tensor

from optzoo.optimizers.psgd.whitening import PSGD

from .problems import gradients, tensors, trajectory
from .processes import MESHES, network, train

STEPS = 112
RUNS: Mapping[str, tuple[Mapping[str, Any], int]] = {
    "between updates": ({"precond_update_probability": 0.25}, 6),
    "at an update": ({"precond_update_probability": 0.25}, 4),
    "before a balancing": ({"precond_update_probability": 1.0, "geometry": "QUAD"}, 97),
    "of the gradient": ({"whiten": "grad", "geometry": "EQ", "update_first": False, "weight_decay": 0.1}, 9),
    "in bfloat16": ({"precond_dtype": "bfloat16", "geometry": "QEP", "seed": 7}, 9),
    "cached": ({"precond_update_probability": 0.3, "cache_preconditioner": True, "max_skew": 0.0}, 3),
}
"""Options, and after how many steps a run is saved."""
SHAPES = [(), (5,), (3, 4), (2, 3, 2)]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(SHAPES, torch.float32)]


def go_on(optimizer: PSGD, params: list[Any], first: int, last: int = STEPS) -> None:
    trajectory(optimizer, params, gradients(STEPS, SHAPES, torch.float32)[first:last])


def resume(source: str, target: str) -> None:
    """Go on with every run in ``source``, whose options are known from the checkpoint alone."""
    ends = {}
    for name, run in torch.load(source, weights_only=True).items():
        params = [nn.Parameter(p) for p in run["params"]]
        optimizer = PSGD(params)
        optimizer.load_state_dict(run["optimizer"])
        go_on(optimizer, params, RUNS[name][1])
        ends[name] = {"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()}
    torch.save(ends, target)


# Two ranks

SHARDED_SHAPES = [(5, 3), (1, 3), (4,), (3, 2, 2), (2,), (1,), (6,)]
"""Uneven, empty on the second rank, and so on; the last tensor stays a plain one."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "default": {"weight_decay": 0.1},
    "dense": {"geometry": "QUAD4P", "max_skew": float("inf"), "whiten": "grad"},
    "cautious": {"cautious": True, "geometry": "EQ", "decoupled_weight_decay": False, "weight_decay": 0.1},
    "adamw": {"adamw": True, "weight_decay": 0.1},
}


def step_dtensors(options: str, mesh: str) -> list[Tensor]:
    """Where sharded parameters get to; one of their gradients is not finite on one rank only."""
    shape, placements = MESHES[mesh]
    device_mesh = dist.init_device_mesh("cpu", shape)
    *whole, alone = tensors(SHARDED_SHAPES)
    params = [nn.Parameter(distribute_tensor(t, device_mesh, placements)) for t in whole] + [nn.Parameter(alone)]
    optimizer = PSGD(params, lr=0.01, **OPTIONS[options])
    for *row, g in sharded_gradients(options):
        grads = [None if t is None else distribute_tensor(t, device_mesh, placements) for t in row]
        for p, grad in zip(params, (*grads, g), strict=True):
            p.grad = grad
        optimizer.step()
    return [p.full_tensor().detach() for p in params[:-1]] + [alone.detach() for alone in params[-1:]]


def sharded_gradients(options: str) -> list[list[Any]]:
    rows = gradients(5, SHARDED_SHAPES)
    if options != "adamw":
        rows[3][0][0, 0] = float("nan")
    return rows


def train_fully_sharded(options: str, rank: int) -> dict[str, Any]:
    """Where FSDP2 gets to, and where it does when stopped after three steps and resumed from a full state dict."""
    full, part = StateDictOptions(full_state_dict=True), slice(rank, None, 2)
    model, resumed = fully_shard(network()), fully_shard(network())
    optimizer = PSGD(model.parameters(), lr=0.01, **OPTIONS[options])
    train(model, optimizer, range(3), part)
    second = PSGD(resumed.parameters(), **OPTIONS[options])  # whose state torch takes as the pattern
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=full))
    set_optimizer_state_dict(resumed, second, saved, options=full)
    set_model_state_dict(resumed, get_model_state_dict(model, options=full), options=full)
    train(model, optimizer, range(3, 6), part)
    train(resumed, second, range(3, 6), part)
    return {"params": get_model_state_dict(model, options=full), "resumed": get_model_state_dict(resumed, options=full)}


def train_replicated(rank: int) -> dict[str, Any]:
    """Where DDP gets to."""
    model = network()
    optimizer = PSGD(model.parameters(), lr=0.01, **OPTIONS["default"])
    train(nn.parallel.DistributedDataParallel(model), optimizer, range(3), slice(rank, None, 2))
    return model.state_dict()


def distributed(rank: int, directory: Path) -> None:
    """All that is to be seen on two ranks, saved per rank."""
    seen = {
        "DTensor": {run: step_dtensors(*run) for run in product(OPTIONS, MESHES)},
        "FSDP2": {options: train_fully_sharded(options, rank) for options in OPTIONS},
        "DDP": train_replicated(rank),
    }
    torch.save(seen, directory / f"{rank}.pt")
