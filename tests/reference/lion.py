"""Lion (Chen et al. 2023, arXiv:2302.06675)."""

import numpy as np

from .notation import Array, Options, State

LION = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0, "decoupled_weight_decay": True}


def update(g: Array, s: State, t: int, h: Options) -> Array:
    β1, β2 = h.betas
    c = β1 * s["m"] + (1 - β1) * g
    s["m"] = β2 * s["m"] + (1 - β2) * g
    return np.sign(c)
