"""Adafactor (Shazeer & Stern 2018, arXiv:1804.04235) as its authors maintain it in T5X.

`momentum_of` says what β1 averages: the "step" α_t U (the authors' code, T5X, optax), or the "update" U
(big_vision), which is scaled afterwards.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .notation import Array, Options, State
from .transforms import transform

ADAFACTOR = {
    "lr": None,
    "beta1": None,
    "decay_rate": 0.8,
    "decay_offset": 0,
    "beta2_cap": None,
    "eps": (1e-30, 1e-3),
    "clip_threshold": 1.0,
    "scale_parameter": True,
    "warmup_init": False,
    "weight_decay": 0.0,
    "min_dim_size_to_factor": 128,
    "factored": True,
    "momentum_of": "step",
}


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
    ε1, ε2 = h.eps
    ρ = relative_step(t, h.warmup_init) if h.lr is None else h.lr
    α = ρ * max(ε2, rms(θ)) if h.scale_parameter else ρ
    U = direction(g, g**2 + ε1, s, beta2(t, h), factored_axes(θ.shape, h))
    if h.clip_threshold is not None:
        U = U / max(1.0, rms(U) / h.clip_threshold)
    if h.beta1 is not None:
        s["m"] = h.beta1 * s["m"] + (1 - h.beta1) * (α * U if h.momentum_of == "step" else U)
        U = s["m"]
    scaled = h.beta1 is not None and h.momentum_of == "step"
    return θ * (1 - h.weight_decay * ρ) - (1.0 if scaled else α) * transform(U, g, h)


def direction(g: Array, S: Array, s: State, β2: float, axes: tuple[int, int] | None) -> Array:
    if axes is None:
        s["V"] = β2 * s["V"] + (1 - β2) * S
        return g / np.sqrt(s["V"])
    a, b = axes
    s["R"] = β2 * s["R"] + (1 - β2) * S.mean(b, keepdims=True)
    s["C"] = β2 * s["C"] + (1 - β2) * S.mean(a, keepdims=True)
    return g / np.sqrt(s["R"] / s["R"].mean(a, keepdims=True)) / np.sqrt(s["C"])


def factored_axes(shape: tuple[int, ...], h: Options) -> tuple[int, int] | None:
    """The second largest axis and the largest; every other axis numbers a batch of matrices."""
    if not h.factored or len(shape) < 2:
        return None
    *_, a, b = (int(axis) for axis in np.argsort(shape, stable=True))
    return (a, b) if shape[a] >= h.min_dim_size_to_factor else None


def relative_step(t: int, warmup_init: bool) -> float:
    return min(1e-6 * t if warmup_init else 1e-2, t**-0.5)


def beta2(t: int, h: Options) -> float:
    β2 = 1 - max(t - h.decay_offset, 1) ** -h.decay_rate
    return β2 if h.beta2_cap is None else min(β2, h.beta2_cap)


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))
