"""Parameters of one shape that are preconditioned in one call, and their state as one tensor of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import rule
from ..core.buckets import Bucket, real_shape
from ..core.reductions import stacked
from ..matrices import Batch
from .factors import layout, per_entry, squared
from .kron import chosen


class KronBatch(Batch):
    """Some rows of a bucket, in the ``shape`` their preconditioner sees."""

    def __init__(self, bucket: Bucket, rows: range) -> None:
        super().__init__(bucket, rows)
        self.shape = layout(real_shape(self.params[0]), bucket.group).shape

    def means(self, step: int) -> Tensor:
        """The gradients' running mean, until it is as long as the average, and then that."""
        taken = step - torch.stack([state["skipped"] for state in self.states])
        weights = taken.reciprocal().clamp(min=1 - self.bucket.h.momentum)
        averages = stacked(self.local("exp_avg"))
        return averages.lerp(self.gradients, per_entry(weights.to(averages.dtype), averages))

    def seen(self, shards: Tensor) -> Tensor:
        """Tensors of this rank as whole ones, in the shape and the precision of their factors."""
        whole = self.whole(shards, self.params[0])
        return whole.reshape(len(whole), *self.shape).to(self.states[0]["Q0"].dtype)

    def stacked(self, kind: str) -> list[Tensor]:
        """The factors ``"Q"``, or ``"P"``, of every axis."""
        return [stacked([state[f"{kind}{i}"] for state in self.states]) for i in range(len(self.shape))]

    def stacked_bounds(self) -> Tensor:
        return stacked([state["L"] for state in self.states])

    def store(self, factors: Sequence[Tensor], bounds: Tensor) -> None:
        """Bring the preconditioners up to date."""
        made = {"L": bounds, **{f"Q{i}": q for i, q in enumerate(factors)}}
        if "P0" in self.states[0]:  # also if it is not used just now
            made |= {f"P{i}": squared(q) for i, q in enumerate(factors)}
        for name, stack in made.items():
            torch._foreach_copy_([state[name] for state in self.states], list(stack.unbind()))

    def put(self, u: Tensor, means: Tensor, finite: Tensor) -> list[Tensor]:
        """Keep the means, and count who is skipped; returns the directions."""
        torch._foreach_add_([state["skipped"] for state in self.states], list((~finite).float().unbind()))
        averages = self.local("exp_avg")
        torch._foreach_copy_(averages, list(chosen(finite, means, stacked(averages)).unbind()))
        return self.own(u.reshape(-1, *real_shape(self.params[0])).to(means.dtype), self.params[0])


def factor_dtype(param: Tensor, group: Mapping[str, Any]) -> torch.dtype:
    """The precision of the factors."""
    if group["precond_dtype"] is None:
        return rule.real_dtype(param.dtype)
    dtype: torch.dtype = getattr(torch, group["precond_dtype"])
    return dtype
