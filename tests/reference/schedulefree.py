"""Schedule-Free AdamW and SGD (Defazio et al. 2024, arXiv:2405.15682), as in the authors' code from 1.4.1 on.

Gradients are of y = (1-β1) z + β1 x, which is θ. A transform T changes by how much y moves; x is then what makes y lie
where it does.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .notation import Array, Options, State
from .transforms import transform

SGD = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.0, "warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0}
ADAMW = {**SGD, "lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8}


def step(
    theta: Sequence[Array],
    gradients: Mapping[int, Array],
    states: Mapping[int, State],
    steps: Counter[int],
    h: Options,
) -> list[Array]:
    result = list(theta)
    for i, g in gradients.items():
        s, y, β1 = states[i], theta[i], h.betas[0] if "betas" in vars(h) else h.momentum
        if not steps[i]:
            s["z"] = s["x"] = y
        steps[i] += 1
        t = steps[i]
        η = h.lr * (min(1, t / h.warmup_steps) if h.warmup_steps else 1)
        d = g + h.weight_decay * y
        if "betas" in vars(h):
            β2 = h.betas[1]
            s["v"] = β2 * s["v"] + (1 - β2) * g**2
            d = g / (np.sqrt(s["v"] / (1 - β2**t)) + h.eps) + h.weight_decay * y
        s["η_max"] = max(s["η_max"], η)
        w = t**h.r * s["η_max"] ** h.weight_lr_power
        s["Σw"] = s["Σw"] + w
        c = w / s["Σw"] if s["Σw"] else 0.0
        s["z"] = s["z"] - η * d
        s["x"] = (1 - c) * s["x"] + c * s["z"]
        meant = (1 - β1) * s["z"] + β1 * s["x"]
        result[i] = y - transform(y - meant, g, h)
        s["x"] = (result[i] - (1 - β1) * s["z"]) / β1
    return result
