"""PSGD with Kronecker factors that are fitted to the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from ..core import Options, rule
from ..core.buckets import Bucket
from ..core.options import arguments
from ..core.reductions import stacked
from .batch import KronBatch
from .kron_optimizer import KronOptimizer
from .newton import Newton


class PSGDNewton(Newton, KronOptimizer):
    """Curvature-Informed SGD via General Purpose Lie-Group Preconditioners (Pooladzandi & Li, 2024, arXiv:2402.04553).

        θ ← θ - lr P m,    P = QᵀQ,    Q = Q_1 ⊗ ... ⊗ Q_d      P → |H|⁻¹, fitted to pairs (v, Hv), v ~ N(0, I)
        m ← β m + (1-β) g

    :class:`PSGD` whose factors are fitted to products of the Hessian with random vectors instead of gradients: a
    stochastic Newton method that neither needs a positive definite Hessian nor is fooled by gradient noise. Which axes
    are dense, the geometries and the noise are PSGD's.

    ``hessian="exact"``: ``step`` takes a closure that returns the loss and does not call backward(). All operations
    need second derivatives (fused attention has none), and one process sees the whole batch: products bypass
    DistributedDataParallel, which is refused. ``hessian="finite_difference"``: an ordinary closure, with zero_grad()
    and backward(). When P is updated it is called twice, at θ and at θ + √eps v, with the same random numbers of torch,
    so that dropout has one mask; averages a forward pass keeps, as in batch norm, see the first alone. It must see the
    same batch and not clip gradients. Without a closure there is a clear error: GradScaler passes none, and autocast in
    bfloat16 needs no scaler. After the step ``p.grad`` is the gradient.

    When: the loss is smooth, and a step may cost two to three gradients; small or ill-conditioned problems.

    State: 4 bytes per parameter (``exp_avg``) and :class:`PSGD`'s factors, ``L``, ``step`` and ``skipped``.

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0; near 1 it is Newton's method. Default 0.01, the authors'.
        momentum: β in [0, 1), a running mean until it is as long. Default 0.9.
        weight_decay: λ >= 0. Default 0.
        hessian: ``"exact"`` (default) or ``"finite_difference"``.
        decoupled_weight_decay: True (default): θ ← (1 - lr λ) θ; False: g ← g + λθ, and Hv ← Hv + λv.
        geometry: see :class:`PSGD`. Default ``"Q0.5EQ1.5"``.
        lr_preconditioner: step size of Q, relative to its curvature, > 0. Default 0.1, the papers'.
        precond_update_probability: how often Q is updated, see :class:`PSGD`. Default 1.
        beta_L: decay of the bounds L of Q's curvature, in [0, 1). Default 0.9, the authors'.
        damping: noise added to Hv, >= 0; it bounds P. Default 1e-9, the authors'.
        init_scale: Q at first, > 0. Default 1. If unsure choose smaller. None: for each tensor about |H|^(-1/2), from
            its first Hv that is not zero.
        max_size: largest n of a dense factor. Default 8192.
        max_skew: see :class:`PSGD`, >= 0. Default 1, the authors'.
        merge_dims: None (default), ``"spatial"`` or ``"matrix"``, see :class:`PSGD`.
        clip: largest RMS of an update and then of an entry, or None (default): Newton steps have the parameters' scale.
        norm: ``"subspace"`` (default), ``"power"`` or ``"exact"``, see :class:`PSGD`.
        precond_dtype: precision of Q and its arithmetic. Default None: the parameter's, float32 at least.
        cache_preconditioner: see :class:`PSGD`. Default None.
        seed: of v and the noise. Default 0.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value; capturable=True.
        TypeError: an unknown option, with the nearest one there is; in ``step``, no closure.
        RuntimeError: in ``step``, a closure for the other ``hessian``; DistributedDataParallel with "exact".
        NotImplementedError: in ``step``, sharded parameters.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    >>> optimizer = PSGDNewton([w], lr=0.5, lr_preconditioner=0.5, momentum=0.0)
    >>> for _ in range(60):
    ...     loss = optimizer.step(lambda: (w * torch.tensor([100.0, 1.0]) * w).sum())
    >>> bool(w.abs().max() < 1e-3)
    True
    >>> optimizer = PSGDNewton([w], lr=0.5, hessian="finite_difference")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (w * torch.tensor([100.0, 1.0]) * w).sum()
    ...     loss.backward()
    ...     return loss
    >>> loss = optimizer.step(closure)
    """

    rules = {**KronOptimizer.rules, **Newton.rules}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        hessian: str = "exact",
        decoupled_weight_decay: bool = True,
        geometry: str = "Q0.5EQ1.5",
        lr_preconditioner: float = 0.1,
        precond_update_probability: float | Callable[[int], float] | None = 1.0,
        beta_L: float = 0.9,
        damping: float = 1e-9,
        init_scale: float | None = 1.0,
        max_size: float = 8192,
        max_skew: float = 1.0,
        merge_dims: str | None = None,
        clip: tuple[float, float] | None = None,
        norm: str = "subspace",
        precond_dtype: str | torch.dtype | None = None,
        cache_preconditioner: bool | None = None,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), options)

    def updates_first(self, h: Any) -> bool:
        return True

    def is_due(self, bucket: Bucket, step: int) -> bool:
        return "product" in bucket.buffers

    def signal(self, batch: KronBatch, mean: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(batch.local("vector"), batch.local("product"), strict=True)
        followed = [rule.operands(v, product, batch.bucket.h) for v, product in pairs]  # as the gradient is
        v, product = (stacked(column) for column in zip(*followed, strict=True))
        return batch.seen(product), batch.seen(v)
