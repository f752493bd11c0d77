"""Numbers of whole parameters out of what each rank knows of its shards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Sharding: TypeAlias = "tuple[Any, ...] | None"
"""Mesh and placements of a DTensor; None for a plain tensor."""


def over_shards(
    local: Sequence[Tensor], shardings: Sequence[Sharding], axes: Sequence[Collection[int]] | None = None
) -> list[Tensor]:
    """Sums over the shards of parameters: all of them in one all-reduce per mesh dimension.

    Dimensions that replicate are left alone: there every rank has the sum already.

    Args:
        local: what each rank has summed up over its own shard.
        shardings: how the parameter behind each of them is sharded.
        axes: the dimensions of that parameter the sum goes over; default all.
    """
    together: dict[Any, list[int]] = {}
    for i, (t, sharding) in enumerate(zip(local, shardings, strict=True)):
        if sharding is None:
            continue
        mesh, placements = sharding
        dims = tuple(
            dim
            for dim, placement in enumerate(placements)
            if not placement.is_replicate() and (axes is None or placement.dim in axes[i])
        )
        if dims:
            together.setdefault((mesh, dims, t.dtype), []).append(i)
    whole = list(local)
    for (mesh, dims, _), indices in together.items():
        vector = torch.cat([local[i].reshape(-1) for i in indices])
        for dim in dims:
            torch.distributed.all_reduce(vector, group=mesh.get_group(dim))
        parts = torch.split(vector, [local[i].numel() for i in indices])
        for i, part in zip(indices, parts, strict=True):
            whole[i] = part.view(local[i].shape)
    return whole


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """As one batch; a single tensor is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def gathered(shards: Tensor, sharding: Sharding, shape: Sequence[int]) -> Tensor:
    """The n whole tensors of this shape, of which ``shards`` (n, ...) are this rank's, in one collective."""
    if sharding is None:
        return shards
    from torch.distributed.tensor import DTensor

    whole = torch.Size((len(shards), *shape))
    stride = torch.empty(whole, device="meta").stride()
    mesh, placements = _of_stacks(sharding)
    stack = DTensor.from_local(shards, mesh, placements, run_check=False, shape=whole, stride=stride)
    result: Tensor = stack.full_tensor()
    return result


def own_shards(whole: Tensor, sharding: Sharding) -> Tensor:
    """This rank's shards of n tensors that every rank has, (n, ...)."""
    if sharding is None:
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, *_of_stacks(sharding), src_data_rank=None).to_local()


def _of_stacks(sharding: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    """How a stack of tensors lies that are sharded so: along the same dimensions, which come one later."""
    mesh, placements = sharding
    return mesh, [placement if placement.is_replicate() else _later(placement) for placement in placements]


def _later(placement: Any) -> Any:
    """A sharding along the next dimension; one of FSDP2 over tensor parallelism has a ``split_factor`` besides."""
    own = {name: getattr(placement, name) for name in ("split_factor",) if hasattr(placement, name)}
    return type(placement)(placement.dim + 1, **own)
