"""PSGD with Kronecker factors that whiten the momentum or the gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from ..core import Options
from ..core.options import arguments, one_of
from ..matrices import MatrixOptimizer
from .batch import KronBatch
from .kron_optimizer import KronOptimizer


class PSGD(KronOptimizer):
    """Stochastic Hessian Fittings with Lie Groups (Li, 2024, arXiv:2402.11858): Kronecker whitening, PSGD-Kron.

        θ ← θ - lr · clip(P m),    P = QᵀQ,    Q = Q_1 ⊗ ... ⊗ Q_d
        m ← β m + (1-β) g,    Q_i ← Q_i moved against M1 - M2, with which E[(P m)(P m)ᵀ] comes to be I

    One factor per axis of a tensor (those of size 1 left out): dense, n × n, where n <= max_size and
    n² <= max_skew · numel, else diagonal. With max_skew=1 the shorter side of a matrix is dense, of a square one both,
    and vectors are diagonal. The update has an RMS near 1, as Adam's, whatever the gradient's scale.

    A ``geometry`` is a way for Q to move: all find the same P. ``"Q0.5EQ1.5"`` (the authors' default) needs no
    triangular solves and works in bfloat16; ``"EQ"`` is the oldest, that of kron_torch, timm and HeavyBall's PSGDKron,
    and slow; ``"QEQ"``, ``"QUAD"`` (symmetric Q) and the two that fit P itself, ``"QUAD4P"`` and ``"PRO4P"``, are sound
    in float32; ``"QEP"`` is slow to fit, and worst in bfloat16.

    A step whose signal is zero updates nothing (factors would grow by 1 + lr_preconditioner each); one whose gradient
    is not finite leaves the tensor alone, and is counted in its state as ``skipped``. Random numbers come from (seed,
    position of the parameter, step): they are the same on all replicas, and torch's global generators are not touched.
    Sharded parameters (DTensor, FSDP2) are gathered for it: the result does not depend on how many ranks there are.

    When: fewer steps than AdamW's matter more than cheap steps: a step multiplies each matrix by its factors. For
        matrices and convolutions; give vectors and embeddings to AdamW, in groups with ``adamw=True``, as
        :func:`optzoo.optimizers.create_optimizer` and :func:`optzoo.optimizers.psgd_groups` do.

    State: 4 bytes per parameter (``exp_avg``); the factors ``Q0``, ``Q1``, ... of 4 n² or 4 n bytes; 4 per factor
        (``L``); 12 per tensor (``step``, ``skipped``). Groups with ``adamw=True``: 8 bytes per parameter.

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0, a number or a Tensor of one element. Default 2e-4, the authors' for momentum;
            1e-3 for ``whiten="grad"``, whose updates have an RMS of 0.23.
        momentum: β in [0, 1), a running mean until it is as long. Default 0.9, the authors'.
        weight_decay: λ >= 0. Default 0.
        decoupled_weight_decay: True (default): θ ← (1 - lr λ) θ; False: g ← g + λθ.
        whiten: ``"momentum"`` (default, the authors') or ``"grad"``: what P whitens.
        geometry: see above. Default ``"Q0.5EQ1.5"``.
        lr_preconditioner: step size of Q, relative to its curvature, > 0. Default 0.1, the papers'.
        precond_update_probability: how often Q is updated: a number in (0, 1], 1/4 being every fourth step, or a
            function of the step, which checkpoints do not hold. Default None: 1 for 500 steps, then
            e^(-0.001 (step - 500)), at least 0.03, as in kron_torch and timm.
        beta_L: decay of the bounds L of Q's curvature, in [0, 1). Default 0.9, the authors'.
        damping: noise added to what is whitened, >= 0; it bounds P by 1/damping. Default 1e-9, the authors'.
        init_scale: Q at first, > 0. Default 1, the authors'. If unsure choose smaller: P grows faster than it shrinks.
            None: of each tensor about |g|^(-1/2), from its first gradient that is not zero.
        max_size: largest n of a dense factor. Default 8192.
        max_skew: see above, >= 0; 0: all diagonal, infinity: all dense. Default 1, the authors'.
        merge_dims: None (default, the authors'), ``"spatial"`` (all dimensions from the third on are one) or
            ``"matrix"`` (all from the second on).
        update_first: whether Q is updated before it is used. Default True, the authors'.
        clip: largest RMS of an update and then of an entry, or None. Default (2, 10), the authors'.
        norm: how spectral norms are estimated: ``"subspace"`` (default; random, seeded), ``"power"`` (not random,
            looser) or ``"exact"``.
        precond_dtype: precision of Q and its arithmetic, such as ``"bfloat16"``. Default None: that of the parameter,
            float32 at least. With bfloat16 keep lr_preconditioner >= 0.1, smaller steps are lost in rounding.
        cache_preconditioner: True keeps P_i = Q_iᵀQ_i beside Q_i (``P0``, ``P1``, ..., as large): steps without an
            update take half as long. Default None: where precond_update_probability is a number below 1/2.
        seed: of the random numbers. Default 0.
        adamw: True makes a group AdamW's, with its own ``lr``. Default False.
        adamw_betas: betas of groups with ``adamw=True``. Default (0.9, 0.999), AdamW's.
        adamw_eps: eps of groups with ``adamw=True``. Default 1e-8, AdamW's.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value; capturable=True.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.ones(4, 6))
    >>> optimizer = PSGD([w], lr=0.01)
    >>> optimizer.init_state(); {name: tuple(value.shape) for name, value in optimizer.state[w].items()}
    {'step': (), 'Q0': (4, 4), 'Q1': (6,), 'L': (2,), 'exp_avg': (4, 6), 'skipped': ()}
    >>> w.grad = torch.randn(4, 6)
    >>> optimizer.step()
    """

    rules = {**MatrixOptimizer.rules, **KronOptimizer.rules}
    rules |= {"whiten": one_of("momentum", "grad"), "update_first": one_of(True, False)}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = True,
        whiten: str = "momentum",
        geometry: str = "Q0.5EQ1.5",
        lr_preconditioner: float = 0.1,
        precond_update_probability: float | Callable[[int], float] | None = None,
        beta_L: float = 0.9,
        damping: float = 1e-9,
        init_scale: float | None = 1.0,
        max_size: float = 8192,
        max_skew: float = 1.0,
        merge_dims: str | None = None,
        update_first: bool = True,
        clip: tuple[float, float] | None = (2.0, 10.0),
        norm: str = "subspace",
        precond_dtype: str | torch.dtype | None = None,
        cache_preconditioner: bool | None = None,
        seed: int = 0,
        adamw: bool = False,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), options)

    def signal(self, batch: KronBatch, mean: Tensor) -> tuple[Tensor, None]:
        return (mean if batch.bucket.h.whiten == "momentum" else batch.seen(batch.gradients)), None
