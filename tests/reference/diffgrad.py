"""diffGrad (Dubey et al. 2019, arXiv:1909.11015), with g_0 = 0 and ε outside the root, after bias correction."""

import numpy as np

from .notation import Array, Options, State

DIFFGRAD = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "decoupled_weight_decay": False}


def update(g: Array, s: State, t: int, h: Options) -> Array:
    β1, β2 = h.betas
    s["m"] = β1 * s["m"] + (1 - β1) * g
    s["v"] = β2 * s["v"] + (1 - β2) * g**2
    ξ = 1 / (1 + np.exp(-np.abs(s["g"] - g)))
    s["g"] = g
    m_hat = s["m"] / (1 - β1**t)
    v_hat = s["v"] / (1 - β2**t)
    return ξ * m_hat / (np.sqrt(v_hat) + h.eps)
