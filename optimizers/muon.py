"""Muon: momentum made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .core import Options
from .core.options import DECAY, Rule, arguments, one_of, optional
from .matrices import MatrixOptimizer

QUINTIC = ((3.4445, -4.7750, 2.0315),)
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
METHODS = {"quintic": (QUINTIC, 1.0, 5), "polar_express": (POLAR_EXPRESS, 1.01, 8)}
"""The triples (a, b, c) of steps, of which the last repeats; the factor s of the norm; the number of steps."""

ADJUSTMENTS: Mapping[str, Callable[[int, int], float]] = {
    "original": lambda a, b: math.sqrt(max(1, a / b)),
    "match_rms_adamw": lambda a, b: 0.2 * math.sqrt(max(a, b)),
    "spectral_unclamped": lambda a, b: math.sqrt(a / b),
}


class Muon(MatrixOptimizer):
    """Muon is Scalable for LLM Training (Liu et al., 2025, arXiv:2502.16982), after Keller Jordan's Muon of 2024.

        M ← μ M + (1-μ) G,    N = (1-μ) G + μ M,    θ ← (1 - lr λ) θ - lr · r · polar(N)
        polar(U S Vᵀ) = U Vᵀ by steps of    X ← a X + (b XXᵀ + c (XXᵀ)²) X    from    X = N / (s ‖N‖ + eps)

    The steepest descent in the spectral norm: what the momentum has of every direction is taken at one length.
    Convolutions are matrices of out × rest, complex matrices of out × rest pairs. Vectors and scalars, and groups with
    ``adamw=True``, are AdamW's. Sharded matrices (DTensor, FSDP2) are gathered for it.

    When: the hidden matrices and convolutions of a network; language models took about half of AdamW's compute in the
        paper. Embeddings and the output layer are better off with AdamW: :func:`optzoo.optimizers.matrix_groups`, and
        :func:`optzoo.optimizers.create_optimizer` of a model, give them that, with an lr of their own.

    State: 4 bytes per parameter (``momentum_buffer``) and 8 per tensor (``step``); what is AdamW's has 8 per parameter.

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0, a number or a Tensor of one element. Default 1e-3, torch's. One that is tuned
            for one ``adjust`` does not do for another: with ``"original"`` it is 0.02 in Jordan's runs.
        momentum: μ in [0, 1). Default 0.95, Jordan's.
        weight_decay: λ >= 0. Default 0.1, the paper's.
        nesterov: True (default, Jordan's): N as above; False: N = M.
        method: how polar(N) is found. ``"quintic"`` (default): Jordan's (3.4445, -4.7750, 2.0315), which leaves
            singular values between 0.68 and 1.13. ``"polar_express"``: The Polar Express (Amsel et al., 2025,
            arXiv:2505.16932), 1 to ten digits from 1e-3 ‖N‖ on. ``"svd"``: exact, slow, for tests.
        ns_steps: how many steps, >= 1. Default None: 5 of "quintic", all 8 of "polar_express".
        ns_dtype: precision of the steps, such as ``"bfloat16"``, which is faster on GPUs and what torch takes. Default
            None: that of the parameter, float32 at least.
        adjust: r for a matrix of A × B. ``"match_rms_adamw"`` (default, the paper's): 0.2 √max(A, B), with which lr and
            weight_decay are AdamW's, so that one lr does for vectors too; ``"original"`` (Jordan's and torch's):
            √max(1, A/B); ``"spectral_unclamped"``: √(A/B); None: 1.
        eps: added to the norm, >= 0. Default 1e-7, Jordan's. With 0, a matrix without gradient is 0/0.
        parts: rows of the parts that a group's tensors consist of, such as (512, 128, 128) of a fused QKV: each part is
            a matrix of its own. Default None.
        adamw: True makes a group AdamW's, with its own ``lr``. Default False.
        adamw_betas: betas of AdamW. Default (0.9, 0.95), the paper's.
        adamw_eps: eps of AdamW. Default 1e-8, AdamW's.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value; a ``parts`` that is not the rows of a tensor.
        TypeError: an unknown option, with the nearest one there is.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> optimizer = Muon(model.parameters(), lr=1e-3)
    >>> model(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> [sorted(optimizer.state[p]) for p in model[0].parameters()]
    [['momentum_buffer', 'step'], ['exp_avg', 'exp_avg_sq', 'step']]
    """

    vector_rule = "AdamW"  # a comparison marks it
    buffers = ("momentum_buffer",)
    rules = {
        **MatrixOptimizer.rules,
        "momentum": DECAY,
        "nesterov": one_of(True, False),
        "method": one_of(*METHODS, "svd"),
        "ns_steps": optional(Rule(lambda x: type(x) is int and x > 0, "an integer > 0")),
        "ns_dtype": one_of(None, "float64", "float32", "bfloat16"),
        "adjust": one_of(None, *ADJUSTMENTS),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        *,
        nesterov: bool = True,
        method: str = "quintic",
        ns_steps: int | None = None,
        ns_dtype: str | torch.dtype | None = None,
        adjust: str | None = "match_rms_adamw",
        eps: float = 1e-7,
        parts: tuple[int, ...] | None = None,
        adamw: bool = False,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), options)

    @staticmethod
    def directions(g: Tensor, s: Any, h: Any) -> Tensor:
        m = s.momentum_buffer.lerp_(g, 1 - h.momentum)
        n = (g.lerp(m, h.momentum) if h.nesterov else m).flatten(2)
        u = polar(n, h.method, h.ns_steps, h.ns_dtype, h.eps)
        return (u if h.adjust is None else u.mul_(ADJUSTMENTS[h.adjust](*n.shape[1:]))).reshape(g.shape)


def polar(n: Tensor, method: str, steps: int | None, dtype: str | None, eps: float) -> Tensor:
    """U Vᵀ, or about that, of each matrix U S Vᵀ of a batch, where S is not 0."""
    if method == "svd":
        u, sigma, v = torch.linalg.svd(n, full_matrices=False)
        least = sigma[:, :1] * (max(n.shape[1:]) * torch.finfo(n.dtype).eps)
        exact: Tensor = (u * (sigma > least).unsqueeze(1)) @ v
        return exact
    triples, s, default = METHODS[method]
    x: Tensor = n / torch.linalg.vector_norm(n, dim=(1, 2), keepdim=True).mul_(s).add_(eps)
    x = x if dtype is None else x.to(getattr(torch, dtype))
    x = x.mT if (tall := x.shape[1] > x.shape[2]) else x
    for i in range(steps or default):
        a, b, c = triples[min(i, len(triples) - 1)]
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(n.dtype)
