"""Fitting and applying the Kronecker factors of a preconditioner, the same for every geometry: functions of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .factors import along, apply, apply_merged, gram, per_entry, solve_transposed, squared, times, transposed
from .geometries import GEOMETRIES, Geometry
from .noise import Noise
from .norms import NORMS, Norm, largest

Number: TypeAlias = "float | Tensor"
"""A number; of a compiled function a tensor of one element, which may be another in every call."""

FIRST_SCALES = 1e-2, 1e2
"""Least and largest Q at first that a single gradient or Hv can lead to."""


def fit(
    factors: Sequence[Tensor],
    bounds: Tensor,
    signal: Tensor,
    v: Tensor | None,
    products: Sequence[Tensor] | None,
    seeds: Tensor,
    step_size: Number,
    beta: Number,
    damping: Number,
    *,
    geometry: str,
    norm: str,
    auto_scale: bool = False,
) -> tuple[list[Tensor], Tensor]:
    """Factors and bounds after an update; those of a batch entry whose signal is zero or not finite stay as they are.

    signal: the gradient, or Hv with its ``v``. seeds: of the noise. auto_scale: factors that are new are scaled first.
    """
    rule, noise = GEOMETRIES[geometry], Noise(seeds)
    nu = noise.normal(*signal.shape, like=signal)
    size = largest(signal)
    usable = (size > 0) & (size < torch.inf)
    signal = chosen(usable, signal, 0.0)
    start = factors
    if auto_scale:
        scale = first_scale(signal, v, damping) ** ((2 if rule.factor_is_p else 1) / len(factors))
        scale = scale.where((bounds == 0).all(1), 1.0)
        start, products = [q * per_entry(scale.to(q.dtype), q) for q in factors], None
    fitted, seen = update(
        balanced(start) if rule.balanced_every_update else start,
        bounds,
        damped(signal, damping, nu),
        nu if v is None else v,
        rule,
        newton=v is not None,
        products=products,
        step_size=step_size,
        beta=beta,
        norm=NORMS[norm],
        noise=noise,
    )
    kept = [chosen(usable, new, old) for new, old in zip(fitted, factors, strict=True)]
    return kept, seen.where(usable[:, None], bounds)


def first_scale(h: Tensor, v: Tensor | None, damping: Number) -> Tensor:
    """The size of Q, about |h|^(-1/2) where h whitens and |H|^(-1/2) where h = Hv, for each entry of a batch."""
    wide = torch.promote_types(h.dtype, torch.float32)
    scale = (h.flatten(1).to(wide).pow(4).mean(1) + damping**4).pow(-1 / 8)
    if v is not None:
        scale = scale * v.flatten(1).to(wide).square().mean(1).pow(1 / 4)
    return scale.clamp(*FIRST_SCALES)


def direct(
    factors: Sequence[Tensor], x: Tensor, clip: Sequence[Number] | None, *, geometry: str, products: bool
) -> Tensor:
    """P(X) in float32 at least, clipped, and 0 where X is not finite. products: the factors are those of P."""
    u = apply_merged(factors, x) if products else precondition(factors, x, GEOMETRIES[geometry])
    return chosen(largest(x).isfinite(), clipped(u.to(torch.promote_types(u.dtype, torch.float32)), clip), 0.0)


def chosen(flags: Tensor, new: Tensor, old: Tensor | float) -> Tensor:
    """``new`` where its batch entry's flag is set; without a pass over it where the host knows that all are."""
    if flags.device.type == "cpu" and not torch.compiler.is_compiling() and bool(flags.all()):
        return new
    return new.where(per_entry(flags, new) if flags.ndim else flags, old)


def clipped(u: Tensor, clip: Sequence[Number] | None) -> Tensor:
    """Each of a batch scaled down to an RMS, and its entries then cut off."""
    if clip is None:
        return u
    rms, entry = clip
    limits: Any = (-entry, entry)  # which torch's annotations want to be Tensors
    norm: Tensor = torch.linalg.vector_norm(u.flatten(1), dim=1)
    factor = (rms * u[0].numel() ** 0.5 / norm).clamp(max=1.0)
    return (u * per_entry(factor, u)).clamp_(*limits)


def precondition(factors: Sequence[Tensor], x: Tensor, geometry: Geometry) -> Tensor:
    """P(X), with P = QᵀQ, or P itself where the factors are its own."""
    if geometry.factor_is_p:
        return apply_merged(factors, x)
    if any(q.ndim == 3 and q.shape[1] ** 2 > x[0].numel() for q in factors):
        return apply_merged([transposed(q) for q in factors], apply_merged(factors, x))
    return apply_merged([squared(q) for q in factors], x)  # n³ instead of n² · numel / n for an axis


def damped(x: Tensor, damping: Number, nu: Tensor) -> Tensor:
    """X + (damping + eps |X|) ⊙ ν: what keeps P bounded where X is zero or exact."""
    return x.abs().mul_(torch.finfo(x.dtype).eps).add_(damping).mul_(nu).add_(x)


def update(
    factors: Sequence[Tensor],
    bounds: Tensor,
    h: Tensor,
    v: Tensor,
    geometry: Geometry,
    *,
    newton: bool,
    products: Sequence[Tensor] | None = None,
    step_size: Number,
    beta: Number,
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
        geometry.rule(q, _difference(m1, m2).mul_(per_entry(-step.to(q.dtype), q)), norm, noise)
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
    """M1 - M2, in the memory of M1"""
    if isinstance(m2, Tensor) or m1.ndim == 2:
        return m1.sub_(m2)
    m1.diagonal(dim1=1, dim2=2).sub_(m2)
    return m1
