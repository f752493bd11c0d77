"""The geometries of the group in which a factor Q moves, as data: what differs between them is one row each.

A step of Q is along D = -s (M1 - M2), where M1 is made of the gradient (or of h = Hv) and M2 of the noise (or of v): at
the minimum of E[hᵀPh + vᵀP⁻¹v] they are equal on average. All are from "Stochastic Hessian Fittings with Lie Groups"
(Li, 2024, arXiv:2402.11858) and the authors' later code, and find the same P.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .factors import plus_product, transposed
from .noise import Noise
from .norms import TINY, Norm

Rule = Callable[[Tensor, Tensor, Norm, Noise], Tensor]
"""A new factor from the old one, the step D, and how to take norms."""


@dataclass(frozen=True)
class Geometry:
    """How a factor moves: what M1 is made of, and the step along D."""

    probe: str
    """What M1 is the gram of: ``"P"`` for P(G), ``"PQ"`` for P(G) ×_i Q_i, ``"Q"`` for Q(G)."""
    rule: Rule
    factor_is_p: bool = False
    """The factors multiply to P itself, not to Q with P = QᵀQ."""
    balanced_every_update: bool = False


def _left(q: Tensor, d: Tensor, norm: Norm, noise: Noise) -> Tensor:
    return plus_product(q, d, q)


def _right(q: Tensor, d: Tensor, norm: Norm, noise: Noise) -> Tensor:
    return plus_product(q, q, d)


def _triangular(q: Tensor, d: Tensor, norm: Norm, noise: Noise) -> Tensor:
    return plus_product(q, d.triu() if d.ndim == 3 else d, q)


def _left_rotated(q: Tensor, d: Tensor, norm: Norm, noise: Noise) -> Tensor:
    q = plus_product(q, d, q)
    return q if q.ndim == 2 else procrustes2(q, norm, noise)


def _quadratic(half: float) -> Rule:
    """Q ← (1 + D) Q (1 + D), kept symmetric; half of D where the factor is Q, all of it where it is P."""

    def rule(q: Tensor, d: Tensor, norm: Norm, noise: Noise) -> Tensor:
        d = d * half
        q = plus_product(q, d, q)
        q = plus_product(q, q, d)
        return (q + transposed(q)) / 2

    return rule


def _left_symmetrized(p: Tensor, d: Tensor, norm: Norm, noise: Noise) -> Tensor:
    p = plus_product(p, d, p)
    if p.ndim == 2:
        return p
    p = procrustes3(p, norm, noise)
    for _ in range(9):
        asymmetric = (p - p.mT).abs().amax((1, 2)) >= 1e-3 * p.abs().amax((1, 2))
        p = procrustes3(p, norm, noise).where(asymmetric[:, None, None], p)
    return p


GEOMETRIES: dict[str, Geometry] = {
    "Q0.5EQ1.5": Geometry("P", _left_rotated),
    "EQ": Geometry("Q", _triangular),
    "QEQ": Geometry("P", _right),
    "QUAD": Geometry("P", _quadratic(0.5)),
    "QEP": Geometry("PQ", _left, balanced_every_update=True),
    "PRO4P": Geometry("P", _left_symmetrized, factor_is_p=True),
    "QUAD4P": Geometry("P", _quadratic(1.0), factor_is_p=True),
}


def procrustes2(q: Tensor, norm: Norm, noise: Noise) -> Tensor:
    """Q turned a little towards a symmetric matrix: along R = Qᵀ - Q so far as raises tr Q most, to second order."""
    r, rq = _rotation(q, norm, noise)
    t1, t2 = _trace(rq), -_inner(r, rq)
    a = (-t1 / t2.where(t2 < 0, -1.0)).clamp(max=1 / 8).where(t2 < 0, 1 / 8)[:, None, None]
    return plus_product(q, r.mul_(a), rq.mul_(a / 2).add_(q))  # q + a R q + a²/2 R² q


def procrustes3(p: Tensor, norm: Norm, noise: Noise) -> Tensor:
    """The same to third order: a is the positive root of t1 + t2 a + (3/8) t3 a², if there is one, and at most 1/3.

    The authors' form of the root, (-t2 - √…) / (0.75 t3), cancels near symmetry, and leaves P as asymmetric as √eps.
    """
    r, rp = _rotation(p, norm, noise)
    r2p = r @ rp
    t1, t2, t3 = (t.float() if t.dtype.itemsize < 4 else t for t in (_trace(rp), _trace(r2p), -_inner(r, r2p)))
    inside = (t1 > 0) & (t3 < 0)
    w = t2.abs() + (t2.square() - 1.5 * t1 * t3).clamp(min=0).sqrt()
    root = (2 * t1 / w).where(t2 < 0, -w / (0.75 * t3)).clamp(max=1 / 3)
    a = root.where(inside, 0.0).to(p.dtype)[:, None, None]
    return plus_product(p, r.mul_(a), r2p.mul_(a / 4).add_(rp).mul_(a / 2).add_(p))  # p + aRp + a²R²p/2 + a³R³p/8


def _rotation(q: Tensor, norm: Norm, noise: Noise) -> tuple[Tensor, Tensor]:
    """R of norm 1, and RQ."""
    r = q.mT - q
    r /= (norm(r, noise) + TINY)[:, None, None]
    return r, r @ q


def _trace(a: Tensor) -> Tensor:
    return a.diagonal(dim1=1, dim2=2).sum(1)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """tr AᵀB"""
    inner: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return inner
