"""Grams (Cao et al. 2024, arXiv:2412.17107): Adam's magnitude, the current gradient's sign."""

import numpy as np

from .notation import Array, Options, State

GRAMS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "decoupled_weight_decay": True}


def update(g: Array, s: State, t: int, h: Options) -> Array:
    β1, β2 = h.betas
    s["m"] = β1 * s["m"] + (1 - β1) * g
    s["v"] = β2 * s["v"] + (1 - β2) * g**2
    m_hat = s["m"] / (1 - β1**t)
    v_hat = s["v"] / (1 - β2**t)
    return np.sign(g) * np.abs(m_hat / (np.sqrt(v_hat) + h.eps))
