"""AMSGrad (Reddi, Kale & Kumar 2018, arXiv:1904.09237) in the three forms that carry the name.

torch     the largest raw v_t, bias-corrected by the present step's 1 − β2^t: torch.optim, timm, Keras
paper     Algorithm 2: no bias correction of either moment (ε is added outside the root, so that g = 0 gives 0)
debiased  the largest v̂_t: optax
"""

import numpy as np

from .notation import Array, Options, State

AMSGRAD = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "decoupled_weight_decay": False,
    "variant": "torch",
}


def update(g: Array, s: State, t: int, h: Options) -> Array:
    return direction(g, s, t, h, h.variant)


def direction(g: Array, s: State, t: int, h: Options, variant: str) -> Array:
    β1, β2 = h.betas
    c1, c2 = 1 - β1**t, 1 - β2**t
    s["m"] = β1 * s["m"] + (1 - β1) * g
    s["v"] = β2 * s["v"] + (1 - β2) * g**2
    s["v_max"] = np.maximum(s["v_max"], s["v"] / c2 if variant == "debiased" else s["v"])
    if variant == "torch":
        return s["m"] / c1 / (np.sqrt(s["v_max"] / c2) + h.eps)
    if variant == "paper":
        return s["m"] / (np.sqrt(s["v_max"]) + h.eps)
    if variant == "debiased":
        return s["m"] / c1 / (np.sqrt(s["v_max"]) + h.eps)
    raise ValueError(f"variant {variant!r} is none of torch, paper, debiased")
