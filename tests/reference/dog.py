"""DoG and L-DoG (Ivgi, Hinder & Carmon 2023, arXiv:2302.12022): one step size for a block of tensors.

A block is all tensors together, or with scope "param" (L-DoG) each by itself. It begins at its first gradient, and from
then on counts the distance of all its tensors, also of those without one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .notation import Array, Options, State
from .transforms import transform

DOG = {
    "lr": 1.0,
    "reps_rel": 1e-6,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "init_eta": None,
    "scope": "all",
    "decoupled_weight_decay": False,
}
LDOG = {**DOG, "scope": "param"}


def step(
    theta: Sequence[Array],
    gradients: Mapping[int, Array],
    states: Mapping[int, State],
    steps: Counter[int],
    h: Options,
) -> list[Array]:
    together = [list(range(len(theta)))] if gradients else []  # there is one group, so "all" and "group" are the same
    result = list(theta)
    for block in [[i] for i in gradients] if h.scope == "param" else together:
        g = {i: gradients[i] for i in block if i in gradients}
        if not h.decoupled_weight_decay:
            g = {i: g[i] + h.weight_decay * theta[i] for i in g}
        s, first = states[block[0]], not any(steps[i] for i in block)
        if first:
            for i in block:
                states[i]["x0"] = theta[i]
            s["r̄"] = 0.0 if h.init_eta else h.reps_rel * (1 + norm(theta[i] for i in block))
            s["G"] = h.eps
        s["r̄"] = max(s["r̄"], norm(theta[i] - states[i]["x0"] for i in block))
        s["G"] = s["G"] + norm(g.values()) ** 2
        η = h.init_eta if first and h.init_eta else s["r̄"] / np.sqrt(s["G"])
        for i in g:
            λ = h.weight_decay if h.decoupled_weight_decay else 0.0
            result[i] = theta[i] - h.lr * η * (transform(g[i], g[i], h) + λ * theta[i])
    steps.update(gradients.keys())
    return result


def norm(tensors: Iterable[Array]) -> float:
    """Of all of them as one vector."""
    return float(np.sqrt(sum(np.sum(x**2) for x in tensors)))
