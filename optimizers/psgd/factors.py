"""Kronecker factors: one per axis of a tensor, dense (n × n) or diagonal (n), for a batch of tensors of one shape.

Everything here has the batch as its first dimension: X is (batch, n_1, ..., n_d), a dense factor (batch, n, n), a
diagonal one (batch, n). ``axis`` counts from 0 without the batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class Layout(NamedTuple):
    """How a parameter is seen by its preconditioner."""

    shape: tuple[int, ...]
    """Its axes without those of size 1, merged as asked for; a scalar has one axis of size 1."""
    dense: tuple[bool, ...]
    """Which of them have a dense factor."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def layout(shape: Sequence[int], group: Mapping[str, Any]) -> Layout:
    """The axes of a parameter, and which are dense: those of n <= max_size with n² <= max_skew · numel elements."""
    keep = {None: len(shape), "spatial": 2, "matrix": 1}[group["merge_dims"]]
    merged = (*shape[:keep], math.prod(shape[keep:]))
    axes = tuple(n for n in merged if n != 1) or (1,)
    numel = math.prod(axes)
    wanted = [n > 1 and n * n <= group["max_skew"] * numel for n in axes]
    for n, dense in zip(axes, wanted, strict=True):
        if dense and n > group["max_size"]:
            _log_fallback(tuple(shape), n, group["max_size"])
    return Layout(axes, tuple(dense and n <= group["max_size"] for n, dense in zip(axes, wanted, strict=True)))


@cache  # once
def _log_fallback(shape: tuple[int, ...], n: int, max_size: float) -> None:
    logger.warning(
        "PSGD: the axis of %d of a parameter of shape %s gets a diagonal factor, for it is longer than max_size=%g",
        n,
        shape,
        max_size,
    )


def along(x: Tensor, factor: Tensor, axis: int, transposed: bool = False) -> Tensor:
    """X ×_i A, or X ×_i Aᵀ: every fibre of X along an axis multiplied by the factor of its batch entry."""
    batch, *shape = x.shape
    left, n, right = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if factor.ndim == 2:
        return (x.reshape(batch, left, n, right) * factor[:, None, :, None]).reshape(x.shape)
    if right == 1:  # rows times a matrix, rather than a matrix times very many columns of one
        return (x.reshape(batch, left, n) @ (factor if transposed else factor.mT)).reshape(x.shape)
    if left == 1:
        return ((factor.mT if transposed else factor) @ x.reshape(batch, n, right)).reshape(x.shape)
    # one product of long rows: a factor broadcast over the axes before it would be copied for each of their entries
    rows = x.reshape(batch, left, n, right).transpose(2, 3).reshape(batch, left * right, n)
    product = rows @ (factor if transposed else factor.mT)
    return product.view(batch, left, right, n).transpose(2, 3).reshape(x.shape)


def gram(x: Tensor, axis: int, dense: bool) -> Tensor:
    """X_(i) X_(i)ᵀ of the unfolding along an axis, or its diagonal."""
    batch, *shape = x.shape
    fibres = x.movedim(axis + 1, 1).reshape(batch, shape[axis], -1)
    return symmetric(fibres) if dense else fibres.square().sum(2)


BLOCK = 128
"""Symmetric products of more rows are put together from blocks of at least half as many."""


def symmetric(a: Tensor) -> Tensor:
    """A Aᵀ; of big ones on CPU only half of the blocks off the diagonal are multiplied: 3/4 of the work or less."""
    if len(a) > 1 or a.shape[1] < 2 * BLOCK or a.device.type != "cpu":
        return a @ a.mT
    product: Tensor = torch.ops.optzoo.symmetric(a[0])
    return product[None]


@torch.library.custom_op("optzoo::symmetric", mutates_args=())
def _symmetric(a: Tensor) -> Tensor:
    """An operator, since torch.compile takes no part of a tensor as ``out``."""
    out = a.new_empty(len(a), len(a))
    _fill_symmetric(a, out)
    return out


@_symmetric.register_fake
def _(a: Tensor) -> Tensor:
    return a.new_empty(len(a), len(a))


def _fill_symmetric(a: Tensor, out: Tensor) -> None:
    n = len(a)
    if n < 2 * BLOCK:
        torch.mm(a, a.T, out=out)
        return
    half = n // 2
    _fill_symmetric(a[:half], out[:half, :half])
    _fill_symmetric(a[half:], out[half:, half:])
    torch.mm(a[half:], a[:half].T, out=out[half:, :half])
    out[:half, half:] = out[half:, :half].T


def squared(q: Tensor) -> Tensor:
    """QᵀQ"""
    return symmetric(q.mT) if q.ndim == 3 else q.square()


def apply(factors: Sequence[Tensor], x: Tensor, transposed: bool = False) -> Tensor:
    """(Q_1 ⊗ ... ⊗ Q_d) X, or with every factor transposed."""
    for axis, factor in enumerate(factors):
        x = along(x, factor, axis, transposed)
    return x


SMALL = 64
"""Dense factors of neighbouring axes are multiplied out to one of at most this size."""


def apply_merged(factors: Sequence[Tensor], x: Tensor) -> Tensor:
    """The same where small axes have one factor together: of a convolution's 3 × 3 one product, not many tiny ones."""
    merged: list[Tensor] = []
    for factor in factors:
        last = merged[-1] if merged else None
        if last is not None and last.ndim == factor.ndim == 3 and last.shape[1] * factor.shape[1] <= SMALL:
            n = last.shape[1] * factor.shape[1]
            merged[-1] = torch.einsum("bij,bkl->bikjl", last, factor).reshape(-1, n, n)
        else:
            merged.append(factor)
    return apply(merged, x.reshape(len(x), *[factor.shape[1] for factor in merged])).reshape(x.shape)


def solve_transposed(factor: Tensor, x: Tensor, axis: int) -> Tensor:
    """X ×_i Q_i^{-T} of an upper triangular or a diagonal factor."""
    if factor.ndim == 2:
        return along(x, factor.reciprocal(), axis)
    batch, *shape = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)  # there is no solver for less
    if axis == len(shape) - 1:  # fibres are rows
        rows = x.reshape(batch, -1, shape[axis]).to(dtype)
        solved: Tensor = torch.linalg.solve_triangular(factor.to(dtype), rows, upper=True, left=False)
        return solved.to(x.dtype).view(x.shape)
    fibres = x.movedim(axis + 1, 1).reshape(batch, shape[axis], -1).to(dtype)
    solved = torch.linalg.solve_triangular(factor.mT.to(dtype), fibres, upper=False).to(x.dtype)
    return solved.reshape(batch, shape[axis], *shape[:axis], *shape[axis + 1 :]).movedim(1, axis + 1)


def times(left: Tensor, right: Tensor) -> Tensor:
    """The product of two factors of one kind."""
    return left @ right if left.ndim == 3 else left * right


def plus_product(factor: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """A factor plus the product of two of its kind, in one pass where all are matrices."""
    if factor.ndim == 3 and isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.baddbmm(factor, left, right)
    return factor + times(left, right)


def transposed(factor: Tensor) -> Tensor:
    return factor.mT if factor.ndim == 3 else factor


def per_entry(number: Tensor, factor: Tensor) -> Tensor:
    """A number per batch entry, shaped to multiply a factor or a tensor."""
    return number.reshape(-1, *[1] * (factor.ndim - 1))
