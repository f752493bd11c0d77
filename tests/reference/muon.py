"""Muon (Liu et al. 2025, arXiv:2502.16982), with Jordan's quintic or The Polar Express (Amsel et al. 2025,
arXiv:2505.16932); tensors of fewer than two axes longer than 1 are AdamW's.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np

from . import adam
from .notation import Array, Options, State
from .transforms import transform

MUON = {
    "lr": 1e-3,
    "momentum": 0.95,
    "weight_decay": 0.1,
    "nesterov": True,
    "method": "quintic",
    "ns_steps": None,
    "adjust": "match_rms_adamw",
    "eps": 1e-7,
    "adamw": False,
    "adamw_betas": (0.9, 0.95),
    "adamw_eps": 1e-8,
}
QUINTIC = [(3.4445, -4.7750, 2.0315)]
POLAR_EXPRESS = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]


def step(
    theta: Sequence[Array],
    gradients: Mapping[int, Array],
    states: Mapping[int, State],
    steps: Counter[int],
    h: Options,
) -> list[Array]:
    steps.update(gradients.keys())
    return [descend(θ, gradients[i], states[i], steps[i], h) if i in gradients else θ for i, θ in enumerate(theta)]


def descend(θ: Array, g: Array, s: State, t: int, h: Options) -> Array:
    if h.adamw or sum(n > 1 for n in θ.shape) < 2:
        u = adam.update(g, s, t, SimpleNamespace(betas=h.adamw_betas, eps=h.adamw_eps, amsgrad=False))
    else:
        μ = h.momentum
        s["M"] = μ * s["M"] + (1 - μ) * g
        N = (1 - μ) * g + μ * s["M"] if h.nesterov else s["M"]
        N = N.reshape(len(N), -1)
        u = (ratio(*N.shape, h.adjust) * polar(N, h)).reshape(g.shape)
    return θ - h.lr * (transform(u, g, h) + h.weight_decay * θ)


def ratio(A: int, B: int, adjust: str | None) -> float:
    return {
        "original": max(1, A / B) ** 0.5,
        "match_rms_adamw": 0.2 * max(A, B) ** 0.5,
        "spectral_unclamped": (A / B) ** 0.5,
        None: 1.0,
    }[adjust]


def polar(N: Array, h: Options) -> Array:
    """By eigenvalues rather than products of matrices: U p(p(…S)) Vt with p(σ) = aσ + bσ³ + cσ⁵."""
    U, σ, Vt = np.linalg.svd(N, full_matrices=False)
    if h.method == "svd":
        return U @ Vt
    triples, s = {"quintic": (QUINTIC, 1.0), "polar_express": (POLAR_EXPRESS, 1.01)}[h.method]
    x = σ / (s * np.sqrt(np.sum(σ**2)) + h.eps)
    for i in range(h.ns_steps or max(5, len(triples))):
        a, b, c = triples[min(i, len(triples) - 1)]
        x = a * x + b * x**3 + c * x**5
    return U * x @ Vt
