"""One update of the Kronecker factors of a preconditioner, the same skeleton for every geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .factors import along, apply, apply_merged, gram, per_entry, solve_transposed, squared, times, transposed
from .geometries import Geometry
from .noise import Noise
from .norms import Norm, largest


def precondition(factors: Sequence[Tensor], x: Tensor, geometry: Geometry) -> Tensor:
    """P(X), with P = QᵀQ, or P itself where the factors are its own."""
    if geometry.factor_is_p:
        return apply_merged(factors, x)
    if any(q.ndim == 3 and q.shape[1] ** 2 > x[0].numel() for q in factors):
        return apply_merged([transposed(q) for q in factors], apply_merged(factors, x))
    return apply_merged([squared(q) for q in factors], x)  # n³ instead of n² · numel / n for an axis


def damped(x: Tensor, damping: float, nu: Tensor) -> Tensor:
    """X + (damping + eps |X|) ⊙ ν: what keeps P bounded where X is zero or exact."""
    return torch.addcmul(x, x.abs().mul_(torch.finfo(x.dtype).eps).add_(damping), nu)


def update(
    factors: Sequence[Tensor],
    bounds: Tensor,
    h: Tensor,
    v: Tensor,
    geometry: Geometry,
    *,
    newton: bool,
    products: Sequence[Tensor] | None = None,
    step_size: float,
    beta: float,
    norm: Norm,
    noise: Noise,
) -> tuple[list[Tensor], Tensor]:
    """New factors, and new L: what bounds their curvatures, (batch, factors).

    h: the gradient, or Hv, with its damping. v: the v of Hv, or the noise of the damping. products: the factors of P,
    where they are at hand.
    """
    pairs = list(_moments(factors, h, v, geometry, newton, products))
    seen = torch.stack([_curvature(m1, m2, norm, noise) for m1, m2 in pairs], dim=1)
    bounds = torch.maximum(beta * bounds + (1 - beta) * seen, seen)
    steps = (step_size / bounds).unbind(1)
    updated = [
        geometry.rule(q, _difference(m1, m2), step.to(q.dtype), norm, noise)
        for q, (m1, m2), step in zip(factors, pairs, steps, strict=True)
    ]
    return updated, bounds


def balanced(factors: Sequence[Tensor]) -> list[Tensor]:
    """The factors scaled to one largest entry, which leaves their product as it is."""
    if len(factors) == 1:
        return list(factors)
    logs = torch.stack([largest(q).log() for q in factors])
    scales = (logs.mean(0) - logs).exp()
    return [q * per_entry(scale.to(q.dtype), q) for q, scale in zip(factors, scales, strict=True)]


def _moments(
    factors: Sequence[Tensor], h: Tensor, v: Tensor, geometry: Geometry, newton: bool, products: Sequence[Tensor] | None
) -> Iterator[tuple[Tensor, Tensor | float]]:
    """M1 and M2 of every factor; a number stands for that multiple of the identity."""
    if geometry.probe == "Q":
        x, counterpart = apply(factors, h), v
        for axis, q in enumerate(factors):
            counterpart = solve_transposed(q, counterpart, axis)
    else:
        x, counterpart = precondition(factors, h, geometry) if products is None else apply_merged(products, h), v
    for axis, q in enumerate(factors):
        dense = q.ndim == 3
        share = h[0].numel() / h.shape[axis + 1]
        if geometry.probe == "PQ":
            m1 = gram(along(x, q, axis), axis, dense)
            yield m1, gram(along(v, q, axis), axis, dense) if newton else share * times(q, transposed(q))
        elif newton or geometry.probe == "Q":
            yield gram(x, axis, dense), gram(counterpart, axis, dense)
        else:
            yield gram(x, axis, dense), share


def _curvature(m1: Tensor, m2: Tensor | float, norm: Norm, noise: Noise) -> Tensor:
    """‖M1 + M2‖₂"""
    total = m1 + m2 if isinstance(m2, Tensor) else m1
    length = norm(total, noise) if total.ndim == 3 else total.amax(1)
    length = length.to(torch.promote_types(length.dtype, torch.float32))
    return length if isinstance(m2, Tensor) else length + m2


def _difference(m1: Tensor, m2: Tensor | float) -> Tensor:
    """M1 - M2"""
    if isinstance(m2, Tensor) or m1.ndim == 2:
        return m1 - m2
    m1.diagonal(dim1=1, dim2=2).sub_(m2)  # which is not needed again
    return m1
