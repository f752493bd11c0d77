"""PSGD with a low-rank preconditioner of all parameters of a group, or a diagonal one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from ..core import Options
from ..core.buckets import real_shape
from ..core.options import POSITIVE, Rule, one_of, optional
from ..core.rule import real_dtype
from .noise import Noise, coin
from .vector import Block, Pair, VectorPSGD, bounded, group_size


class PSGDLRA(VectorPSGD):
    """Curvature-Informed SGD via General Purpose Lie-Group Preconditioners (Pooladzandi & Li, 2024, arXiv:2402.04553).

        θ ← θ - lr · clip(P m),    P = QᵀQ,    Q = (I + UVᵀ) diag(d)      m ← β m + (1-β) g
        d, and U or V in turn by a fair coin, are moved towards the least E[hᵀPh + vᵀP⁻¹v]

    θ are all parameters of a group as one vector of n numbers, U and V are n × rank. With h = Hv and v ~ N(0, I), P
    comes to be |H|⁻¹ (``hessian="exact"`` or ``"finite_difference"``: Newton's method); with h = m, or g, and v apart
    from it, it comes to be E[mmᵀ]^(-1/2) (``hessian=None``: whitening, as Adam's but not of each coordinate alone).
    ``rank=0`` leaves the diagonal: Newton's method or RMSProp coordinate by coordinate.

    What ``hessian="exact"`` and ``"finite_difference"`` ask of the closure: :class:`optzoo.optimizers.PSGDNewton`.

    Parameters without a gradient, and their part of the state, stay as they are; so does everything in a step whose
    gradients are not finite. Random numbers come from (seed, position of the parameter, step). Sharded parameters
    (DTensor, FSDP1) are refused, and so is DistributedDataParallel with ``hessian="exact"``.

    When: coordinates of different tensors are coupled, and n · rank numbers fit; with Newton's method, for problems
        where curvature differs widely and is worth a second backward pass.

    State: at rank 10 88 bytes per parameter: 4 rank each for ``U`` and ``V``, 4 for ``d`` and 4 for ``exp_avg``; 12 per
        tensor (``L_u``, ``L_v``, ``L_d``) and 8 per tensor (``step``). At rank 0 8 bytes per parameter.

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim. A group has a preconditioner of its
            own.
        lr: step size, >= 0, a number or a Tensor of one element. Default 2e-4, as PSGD's for whitened momentum; 1e-3
            for ``whiten="grad"``; Newton's method begins with 0.01 to 1.
        momentum: β in [0, 1), a running mean until it is as long. Default 0.9, the authors'.
        weight_decay: λ >= 0. Default 0.
        decoupled_weight_decay: True (default): θ ← (1 - lr λ) θ; False: g ← g + λθ.
        rank: columns of U and V, >= 0. Default 10, the authors'.
        whiten: ``"momentum"`` (default) or ``"grad"``: what P whitens, where hessian is None.
        hessian: None (default), ``"exact"`` or ``"finite_difference"``, see above; the same in all groups.
        lr_preconditioner: step size of Q, relative to its curvature, > 0. Default 0.1, the paper's.
        precond_update_probability: how often Q is updated: a number in (0, 1], 1/4 being every fourth step, a function
            of the step, which checkpoints do not hold, or None: 1 for 500 steps, then falling to 0.03. Default 1, the
            authors'.
        beta_L: decay of the bounds L of Q's curvature, in [0, 1). Default 0.9, the authors'.
        damping: noise added to h, >= 0; it bounds P by 1/damping. Default 1e-9, the authors'.
        init_scale: d at first, > 0; if unsure choose smaller, P grows faster than it shrinks. None: the authors', from
            the size of the first h, which is best for Newton's method. Default 1.
        clip: of a whitened step, the largest RMS over the group and then the largest entry, or None. Default (2, 10).
        grad_clip_max_norm: of Newton's step, the largest norm of P m over the group, > 0, or None (default).
        seed: of the random numbers. Default 0.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value; capturable=True; a group on several devices.
        TypeError: an unknown option, with the nearest one there is; ``step`` without a closure where it needs one.
        RuntimeError: a closure made for the other ``hessian``; DistributedDataParallel with ``hessian="exact"``.
        NotImplementedError: sharded parameters.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    >>> optimizer = PSGDLRA([w], lr=0.5, rank=1, hessian="exact", init_scale=None)
    >>> for _ in range(200):
    ...     loss = optimizer.step(lambda: (w**2 * torch.tensor([1.0, 100.0])).sum())  # no backward()
    >>> bool(loss < 1e-4)
    True
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = ((w - 1) ** 4).sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer = PSGDLRA([w], lr=0.5, rank=0, hessian="finite_difference", init_scale=None)
    >>> for _ in range(200):
    ...     loss = optimizer.step(closure)
    >>> bool(loss < 1e-4)
    True
    """

    optional_buffers = frozenset({"U", "V", "d"})
    scalar_buffers = ("L_u", "L_v", "L_d")
    rules = {
        **VectorPSGD.rules,
        "rank": Rule(lambda x: type(x) is int and x >= 0, "an integer >= 0"),
        "whiten": one_of("momentum", "grad"),
        "hessian": one_of(None, "exact", "finite_difference"),
        "clip": optional(
            Rule(
                lambda x: isinstance(x, tuple) and len(x) == 2 and all(map(POSITIVE.holds, x)),
                "2 positive numbers: the largest RMS and the largest entry",
            )
        ),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = True,
        rank: int = 10,
        whiten: str = "momentum",
        hessian: str | None = None,
        lr_preconditioner: float = 0.1,
        precond_update_probability: float | Callable[[int], float] | None = 1.0,
        beta_L: float = 0.9,
        damping: float = 1e-9,
        init_scale: float | None = 1.0,
        clip: tuple[float, float] | None = (2.0, 10.0),
        grad_clip_max_norm: float | None = None,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> None:
        own = {
            name: value for name, value in locals().items() if name not in ("self", "params", "options", "__class__")
        }
        super().__init__(params, own, options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        if group["hessian"] is None and group["grad_clip_max_norm"] is not None:
            raise ValueError("PSGDLRA: grad_clip_max_norm is for Newton's step; a whitened one has clip")

    # State

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        low_rank = ("U", "V") if group["rank"] else ()
        return (*low_rank, "d", *super().buffer_names(group, param))

    def buffer_kind(self, name: str, param: Tensor, group: Mapping[str, Any]) -> tuple[Sequence[int], torch.dtype]:
        if name in ("U", "V"):
            return (*real_shape(param), group["rank"]), real_dtype(param.dtype)
        if name == "d":
            return real_shape(param), real_dtype(param.dtype)
        return super().buffer_kind(name, param, group)

    def new_buffer(self, name: str, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
        """d = init_scale; U and V random, of norm √0.1 over the group on average."""
        buffer = super().new_buffer(name, param, state, group)
        if name == "d":
            return buffer.fill_(group["init_scale"] or 1.0)
        if name not in ("U", "V"):
            return buffer
        index = next(i for i, p in enumerate(p for g in self.param_groups for p in g["params"]) if p is param)
        noise = Noise.at(group["seed"], [index], 0, stream=("U", "V").index(name))
        scale = (0.1 / max(group_size(group) * group["rank"], 1)) ** 0.5
        return buffer.copy_(noise.normal(1, *buffer.shape, like=buffer)[0]).mul_(scale)

    # The step

    def preconditioned(self, block: Block, x: Tensor, pair: Pair | None) -> Tensor:
        group, d = block.group, block.vector("d")
        U, V = (block.matrix("U"), block.matrix("V")) if group["rank"] else (d.new_empty(len(d), 0),) * 2
        if pair is not None:
            d = d * self.start(block, pair).where(pair.fits, 1.0)
            L = {name: self.bounds(group, name) for name in self.scalar_buffers}
            of_u = coin(group["seed"], block.indices[0], block.clock)
            *fitted, seen = _fitted(U, V, d, L, pair, group["lr_preconditioner"], group["beta_L"], of_u)
            U, V, d = [new.where(pair.fits, old) for new, old in zip(fitted, (U, V, d), strict=True)]
            for name, value in (("U", U), ("V", V), ("d", d)) if group["rank"] else (("d", d),):
                block.store(name, value)
            for name, bound in seen.items():
                self.store_bound(group, name, bound.where(pair.fits, L[name]))
        return d * _times(V, U, _times(U, V, d * x))


def _fitted(
    U: Tensor, V: Tensor, d: Tensor, L: Mapping[str, Tensor], pair: Pair, mu: float, beta: float, of_u: bool
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """One update of d and of U or V, from a = Qh and b = Q⁻ᵀv of the old ones; new values of the L that change."""
    v, h, _ = pair
    if U.shape[1]:
        U, V = _balanced(U, V)
    K = torch.eye(U.shape[1], dtype=U.dtype, device=U.device) + V.mT @ U
    a, b = _times(U, V, d * h), _solved(V, U, K.mT, v / d)
    hPh, vPv = h * d * _times(V, U, a), v * _solved(U, V, K, b) / d
    seen = {"L_d": bounded(L["L_d"], hPh.abs().amax() + vPv.abs().amax(), beta)}
    d = d - mu / seen["L_d"] * (hPh - vPv) * d
    if not U.shape[1]:
        return U, V, d, seen
    name, W = ("L_u", V) if of_u else ("L_v", U)
    aW, bW = W.mT @ a, W.mT @ b
    seen[name] = bounded(L[name], a.norm() * (W @ aW).norm() + b.norm() * (W @ bW).norm(), beta)
    step = mu / seen[name] * (torch.outer(a, aW) - torch.outer(b, bW))
    return (U - step @ K, V, d, seen) if of_u else (U, V - step - V @ (U.mT @ step), d, seen)


def _balanced(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """U and V of one norm, and a tenth of the way to UᵀU = VᵀV; UVᵀ stays as it is to second order."""
    rho = (U.norm() / V.norm()).sqrt()
    U, V = U / rho, V * rho
    UU, VV = U.mT @ U, V.mT @ V
    E = 0.1 * (UU - VV) / (UU.trace() + VV.trace())
    half = E @ E / 2
    return U - U @ (E - half), V + V @ (E + half)


def _times(A: Tensor, B: Tensor, x: Tensor) -> Tensor:
    """(I + ABᵀ) x"""
    return x + A @ (B.mT @ x) if A.shape[1] else x


def _solved(A: Tensor, B: Tensor, K: Tensor, x: Tensor) -> Tensor:
    """(I + ABᵀ)⁻¹ x, with K = I + BᵀA; without the check that would wait for the device."""
    return x - A @ torch.linalg.solve_ex(K, B.mT @ x)[0] if A.shape[1] else x
