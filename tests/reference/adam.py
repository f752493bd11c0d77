"""Adam (Kingma & Ba 2014, arXiv:1412.6980) and AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101)."""

import numpy as np

from . import amsgrad
from .notation import Array, Options, State

ADAM = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "decoupled_weight_decay": False,
    "amsgrad": False,
}
ADAMW = {**ADAM, "weight_decay": 1e-2, "decoupled_weight_decay": True}


def update(g: Array, s: State, t: int, h: Options) -> Array:
    if h.amsgrad:
        return amsgrad.direction(g, s, t, h, variant="torch" if h.amsgrad is True else h.amsgrad)
    β1, β2 = h.betas
    s["m"] = β1 * s["m"] + (1 - β1) * g
    s["v"] = β2 * s["v"] + (1 - β2) * g**2
    m_hat = s["m"] / (1 - β1**t)
    v_hat = s["v"] / (1 - β2**t)
    return m_hat / (np.sqrt(v_hat) + h.eps)
