"""Parameters of one shape that are preconditioned in one call, and their state as one tensor of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import rule
from ..core.buckets import Bucket
from ..core.reductions import gathered, own_part
from .factors import squared, stacked
from .kron import chosen


class Batch:
    """Some rows of a bucket, in the ``shape`` their preconditioner sees."""

    def __init__(self, bucket: Bucket, rows: Sequence[int], shape: Sequence[int]) -> None:
        self.bucket, self.rows, self.shape = bucket, rows, shape
        self.params = [bucket.params[i] for i in rows]
        self.states = [bucket.states[i] for i in rows]
        self.gradients = [rule.operands(bucket.rows[i][0], bucket.rows[i][1], bucket.h)[1] for i in rows]

    def operands(self, name: str) -> list[Tensor]:
        """A buffer of each, as the bucket has it."""
        index = 2 + self.bucket.buffers.index(name)
        return [self.bucket.rows[i][index] for i in self.rows]

    def means(self, step: int) -> list[Tensor]:
        """The gradients' running mean, until it is as long as the average, and then that."""
        taken = step - torch.stack([state["skipped"] for state in self.states])
        weights = taken.reciprocal().clamp(min=1 - self.bucket.h.momentum)
        averages = self.operands("exp_avg")
        return [a.lerp(g, w.to(a.dtype)) for a, g, w in zip(averages, self.gradients, weights, strict=True)]

    def whole(self, local: Sequence[Tensor]) -> Tensor:
        """Tensors of this rank as whole ones, in the shape and the precision of their factors."""
        sharding = self.bucket.sharding
        whole = [gathered(t, sharding, real_shape(p)) for t, p in zip(local, self.params, strict=True)]
        return stacked(whole).reshape(len(whole), *self.shape).to(self.states[0]["Q0"].dtype)

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

    def put(self, u: Tensor, means: Sequence[Tensor], finite: Tensor) -> None:
        """Keep the means, count who is skipped, and leave each its direction as the only operand."""
        torch._foreach_add_([state["skipped"] for state in self.states], list((~finite).float().unbind()))
        for i, p, average, mean, own, flag in zip(
            self.rows, self.params, self.operands("exp_avg"), means, u, finite, strict=True
        ):
            average.copy_(chosen(flag, mean, average))
            direction = own_part(own.reshape(real_shape(p)), self.bucket.sharding)
            self.bucket.rows[i] = (*self.bucket.rows[i][:2], direction.to(mean.dtype))


def real_shape(param: Tensor) -> tuple[int, ...]:
    """The shape of a parameter as real numbers: complex ones have an axis of two more."""
    return (*param.shape, 2) if param.is_complex() else tuple(param.shape)


def factor_dtype(param: Tensor, group: Mapping[str, Any]) -> torch.dtype:
    """The precision of the factors."""
    if group["precond_dtype"] is None:
        return rule.real_dtype(param.dtype)
    dtype: torch.dtype = getattr(torch, group["precond_dtype"])
    return dtype
