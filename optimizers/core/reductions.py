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


def gathered(local: Tensor, sharding: Sharding, shape: Sequence[int]) -> Tensor:
    """The whole tensor of this shape, of which ``local`` is this rank's shard; all its ranks must ask."""
    if sharding is None:
        return local
    from torch.distributed.tensor import DTensor

    mesh, placements = sharding
    stride = torch.empty(shape, device="meta").stride()
    shard = DTensor.from_local(local, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)
    whole: Tensor = shard.full_tensor()
    return whole


def own_part(whole: Tensor, sharding: Sharding) -> Tensor:
    """This rank's shard of a tensor that every rank has."""
    if sharding is None:
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, *sharding, src_data_rank=None).to_local()
