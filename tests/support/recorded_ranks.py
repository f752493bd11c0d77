"""What the recorder of gradient norms sees on ranks that hold parts of the parameters, or parts of the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from optzoo.schedulers.recorder import GradNormRecorder

from .problems import gradients, tensors
from .processes import DISTRIBUTED_SHAPES, MESHES, network, train

NORMS = ("l1", "l2", "update")


def recorder_of(params: Any) -> GradNormRecorder:
    return GradNormRecorder(torch.optim.AdamW(params, lr=0.01, weight_decay=0.1, foreach=False), norms=NORMS)


def plain() -> GradNormRecorder:
    """Of whole tensors."""
    params = [nn.Parameter(t) for t in tensors(DISTRIBUTED_SHAPES)]
    recorder = recorder_of(params)
    for row in gradients(4, DISTRIBUTED_SHAPES):
        for p, grad in zip(params, row, strict=True):
            p.grad = grad
        recorder.optimizer.step()
    return recorder


def trained() -> GradNormRecorder:
    """On whole batches."""
    model = network()
    recorder = recorder_of(model.parameters())
    train(model, recorder.optimizer, range(4))
    return recorder


def sharded(mesh: str) -> GradNormRecorder:
    """The tensors of ``plain`` in shards, their gradients placed in several ways."""
    shape, placements = MESHES[mesh]
    device_mesh = dist.init_device_mesh("cpu", shape)
    *whole, alone = tensors(DISTRIBUTED_SHAPES)
    params = [nn.Parameter(distribute_tensor(t, device_mesh, placements)) for t in whole] + [nn.Parameter(alone)]
    recorder = recorder_of(params)
    for *row, g in gradients(4, DISTRIBUTED_SHAPES):
        grads = [None if t is None else distribute_tensor(t, device_mesh, placements) for t in row]
        grads[0] = distribute_tensor(row[0], device_mesh, [Replicate()] * len(shape))
        grads[1] = DTensor.from_local(row[1] / 2, device_mesh, [Partial(), *[Replicate()] * (len(shape) - 1)])
        for p, grad in zip(params, [*grads, g], strict=True):
            p.grad = grad
        handle = recorder.optimizer.register_step_pre_hook(place)  # after the recorder: AdamW wants them placed alike
        recorder.optimizer.step()
        handle.remove()
    return recorder


def place(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if isinstance(p, DTensor) and p.grad is not None:
                p.grad = p.grad.redistribute(placements=p.placements)


def fully_sharded(rank: int) -> GradNormRecorder:
    model = network()
    fully_shard(model)
    recorder = recorder_of(model.parameters())
    train(model, recorder.optimizer, range(4), slice(4 * rank, 4 * rank + 4))
    return recorder


def replicated(rank: int) -> GradNormRecorder:
    model = DistributedDataParallel(network())
    recorder = recorder_of(model.parameters())
    train(model, recorder.optimizer, range(4), slice(4 * rank, 4 * rank + 4))
    return recorder


def recorded(rank: int, directory: Path) -> None:
    """All of them; the first rank saves alone, without waiting for the other."""
    runs = {mesh: sharded(mesh) for mesh in MESHES}
    runs |= {"FSDP2": fully_sharded(rank), "DDP": replicated(rank)}
    if rank == 0:
        for name, recorder in runs.items():
            recorder.save(directory / f"{name}.npz")
    else:
        states = {name: recorder.state_dict() for name, recorder in runs.items()}
        (directory / "second.json").write_text(json.dumps(states))
