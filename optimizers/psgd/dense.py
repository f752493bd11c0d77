"""PSGD with one dense preconditioner of all parameters of a group: Newton's method for small problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from ..core import Options
from ..core.buckets import real_shape
from ..core.options import POSITIVE, one_of
from ..core.rule import real_dtype
from .geometries import GEOMETRIES, Geometry
from .noise import Noise
from .norms import NORMS
from .vector import Block, Pair, VectorPSGD, bounded, group_size, real_numel

_NORMS = 2
"""The stream of norm estimates, which is independent of v and of the noise in the damping."""


class PSGDDense(VectorPSGD):
    """Stochastic Hessian Fittings with Lie Groups (Li, 2024, arXiv:2402.11858), Newton's method with a dense P.

        θ ← θ - lr · P m,    P = QᵀQ,    m ← β m + (1-β) g
        Q is moved towards the least E[hᵀPh + vᵀP⁻¹v] with h = Hv, v ~ N(0, I), where P = |H|⁻¹

    θ are all parameters of a group as one vector of n numbers, Q is n × n. At a saddle point |H|⁻¹ leads away from it,
    where H⁻¹ leads into it; and noise in h makes P smaller, not worthless. ``geometry`` is as in
    :class:`optzoo.optimizers.PSGD`; in all of them an update of Q takes O(n²), but for the rotations of
    ``"Q0.5EQ1.5"`` and ``"PRO4P"`` and the triangular solve of ``"EQ"``.

    What ``hessian="exact"`` and ``"finite_difference"`` ask of the closure: :class:`optzoo.optimizers.PSGDNewton`.

    Parameters without a gradient, and their part of the state, stay as they are; so does everything in a step whose
    gradients are not finite. Random numbers come from (seed, position of the parameter, step). Sharded parameters
    (DTensor, FSDP1) are refused, and so is DistributedDataParallel with ``hessian="exact"``.

    When: a few thousand parameters at most, and badly scaled; beyond, :class:`optzoo.optimizers.PSGDLRA` or
        :class:`optzoo.optimizers.PSGD`.

    State: 4 n + 4 bytes per parameter: its row of ``Q`` and ``exp_avg``; 4 per tensor (``L``) and 8 per tensor
        (``step``). A step copies Q, and an update takes a few times its memory.

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim. A group has a preconditioner of its
            own. Parameters that are not trained count in n; leave them out.
        lr: step size, >= 0, a number or a Tensor of one element. Default 0.01, the authors'; 1 is Newton's step.
        momentum: β in [0, 1), a running mean until it is as long. Default 0.9, of the authors' examples.
        weight_decay: λ >= 0. Default 0.
        decoupled_weight_decay: True (default): θ ← (1 - lr λ) θ; False: g ← g + λθ.
        hessian: ``"exact"`` (default) or ``"finite_difference"``, see above; the same in all groups.
        geometry: ``"Q0.5EQ1.5"`` (default, the authors'), ``"EQ"``, ``"QEQ"``, ``"QUAD"``, ``"QEP"``, ``"PRO4P"`` or
            ``"QUAD4P"``.
        lr_preconditioner: step size of Q, relative to its curvature, > 0. Default 0.1, the paper's.
        precond_update_probability: how often Q is updated: a number in (0, 1], 1/4 being every fourth step, a function
            of the step, which checkpoints do not hold, or None: 1 for 500 steps, then falling to 0.03. Default 1, the
            authors'.
        beta_L: decay of the bound L of Q's curvature, in [0, 1). Default 0.9, the authors'.
        damping: noise added to Hv, >= 0; it bounds P by 1/damping. Default 1e-9, the authors'.
        init_scale: Q = init_scale · I at first, > 0; rather too small than too large, P grows faster than it shrinks.
            Default None, the authors': about |H|^(-1/2), from the first Hv.
        grad_clip_max_norm: the largest norm of P m over the group, > 0, or None (default).
        max_size: largest n. Default 10,000, whose Q takes 400 MB in float32.
        norm: how rotations are measured: ``"subspace"`` (default; random, seeded), ``"power"`` (not random, looser) or
            ``"exact"``.
        seed: of the random numbers. Default 0.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value; capturable=True; a group of more than max_size
            numbers, or on several devices.
        TypeError: an unknown option, with the nearest one there is; ``step`` without a closure.
        RuntimeError: a closure made for the other ``hessian``; DistributedDataParallel with ``hessian="exact"``.
        NotImplementedError: sharded parameters.

    >>> import torch
    >>> xy = torch.nn.Parameter(torch.tensor([-1.5, 2.0]))
    >>> optimizer = PSGDDense([xy], lr=0.5, lr_preconditioner=0.5)
    >>> def rosenbrock():
    ...     x, y = xy
    ...     return (1 - x) ** 2 + 100 * (y - x**2) ** 2  # no backward()
    >>> for _ in range(400):
    ...     loss = optimizer.step(rosenbrock)
    >>> bool(loss < 1e-3)
    True
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = rosenbrock()
    ...     loss.backward()
    ...     return loss
    >>> optimizer = PSGDDense([xy], lr=0.5, hessian="finite_difference")
    >>> loss = optimizer.step(closure)
    """

    buffers = ("Q",)
    scalar_buffers = ("L",)
    rules = {
        **VectorPSGD.rules,
        "geometry": one_of(*GEOMETRIES),
        "max_size": POSITIVE,
        "norm": one_of(*NORMS),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = True,
        hessian: str = "exact",
        geometry: str = "Q0.5EQ1.5",
        lr_preconditioner: float = 0.1,
        precond_update_probability: float | Callable[[int], float] | None = 1.0,
        beta_L: float = 0.9,
        damping: float = 1e-9,
        init_scale: float | None = None,
        grad_clip_max_norm: float | None = None,
        max_size: int = 10_000,
        norm: str = "subspace",
        seed: int = 0,
        **options: Unpack[Options],
    ) -> None:
        own = {
            name: value for name, value in locals().items() if name not in ("self", "params", "options", "__class__")
        }
        super().__init__(params, own, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim, for groups of at most max_size numbers."""
        super().add_param_group(param_group)
        n, largest = group_size(self.param_groups[-1]), self.param_groups[-1]["max_size"]
        if n > largest:
            self.param_groups.pop()
            raise ValueError(
                f"PSGDDense: a group of {n:,} numbers needs a matrix of {n:,} × {n:,}; max_size is {largest:,}. Use "
                "PSGDLRA, whose state grows with n, or raise max_size"
            )

    # State

    def buffer_kind(self, name: str, param: Tensor, group: Mapping[str, Any]) -> tuple[Sequence[int], torch.dtype]:
        if name != "Q":
            return super().buffer_kind(name, param, group)
        return (*real_shape(param), group_size(self._group_of(param))), real_dtype(param.dtype)

    def new_buffer(self, name: str, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
        """The parameter's rows of init_scale · I."""
        buffer = super().new_buffer(name, param, state, group)
        if name == "Q":
            scale = (group["init_scale"] or 1.0) ** (2 if GEOMETRIES[group["geometry"]].factor_is_p else 1)
            rows = buffer.view(-1, buffer.shape[-1])
            rows.diagonal(_offset(self._group_of(param), param)).fill_(scale)
        return buffer

    def _group_of(self, param: Tensor) -> dict[str, Any]:
        return next(group for group in self.param_groups if any(p is param for p in group["params"]))

    # The step

    def preconditioned(self, block: Block, x: Tensor, pair: Pair | None) -> Tensor:
        group, geometry = block.group, GEOMETRIES[block.group["geometry"]]
        rows, own = block.matrix("Q"), _columns(block)
        q = rows[:, own]
        if pair is not None:
            start = self.start(block, pair) ** (2 if geometry.factor_is_p else 1)
            q = q * start.where(pair.fits, 1.0)
            noise = Noise.at(group["seed"], block.indices[:1], block.clock, _NORMS)
            L = self.bounds(group, "L")
            D, seen = _moments(q, pair, geometry)
            bound = bounded(L, seen, group["beta_L"])
            D = D * (-group["lr_preconditioner"] / bound).to(q.dtype)
            q = geometry.rule(q[None], D, NORMS[group["norm"]], noise)[0].where(pair.fits, q)
            rows[:, own] = q
            block.store("Q", rows)
            self.store_bound(group, "L", bound.where(pair.fits, L))
        x = q @ x
        return x if geometry.factor_is_p else q.mT @ x


def _offset(group: Mapping[str, Any], param: Tensor) -> int:
    """How many numbers of the group come before a parameter."""
    before = 0
    for p in group["params"]:
        if p is param:
            break
        before += real_numel(p)
    return before


def _columns(block: Block) -> Any:
    """Which columns belong to parameters with a gradient."""
    params = [bucket.params[i] for bucket, i in zip(block.buckets, block.rows, strict=True)]
    if sum(block.sizes) == group_size(block.group):
        return slice(None)
    starts = [_offset(block.group, p) for p in params]
    return torch.cat([torch.arange(start, start + n) for start, n in zip(starts, block.sizes, strict=True)]).to(
        block.device
    )


def _moments(q: Tensor, pair: Pair, geometry: Geometry) -> tuple[Any, Tensor]:
    """D = aaᵀ - bbᵀ, and ‖a‖² + ‖b‖², which bounds ‖aaᵀ + bbᵀ‖."""
    v, h, _ = pair
    a, b = q @ h, v
    if geometry.probe == "Q":
        b = torch.linalg.solve_triangular(q.mT, v[:, None], upper=False)[:, 0]
    elif not geometry.factor_is_p:
        a = q.mT @ a
    if geometry.probe == "PQ":
        a, b = q @ a, q @ v
    return _Difference(a[None, :, None], b[None, :, None]), a.square().sum() + b.square().sum()


class _Difference:
    """scale · (aaᵀ - bbᵀ) in products, O(n²) each, where the geometries have a matrix D."""

    ndim = 3

    def __init__(self, a: Tensor, b: Tensor, scale: Tensor | float = 1.0) -> None:
        self.a, self.b, self.scale = a, b, scale

    def __mul__(self, scale: Tensor | float) -> _Difference:
        return type(self)(self.a, self.b, self.scale * scale)

    def __matmul__(self, q: Tensor) -> Tensor:
        return self.scale * (self.a @ (self.a.mT @ q) - self.b @ (self.b.mT @ q))

    def __rmatmul__(self, q: Tensor) -> Tensor:
        return self.scale * ((q @ self.a) @ self.a.mT - (q @ self.b) @ self.b.mT)

    def triu(self) -> _UpperDifference:
        return _UpperDifference(self.a, self.b, self.scale)


class _UpperDifference(_Difference):
    """Its upper triangle: row i of the product is a_i Σ a_j q_j - b_i Σ b_j q_j, summed over j >= i."""

    def __matmul__(self, q: Tensor) -> Tensor:
        return self.scale * (self.a * _from_here(self.a * q) - self.b * _from_here(self.b * q))


def _from_here(rows: Tensor) -> Tensor:
    """For every row the sum of it and those below."""
    return rows.flip(1).cumsum(1).flip(1)
