"""The transforms T of an update u that every optimizer takes, and maximize."""

import numpy as np

from .notation import Array, Options

SHARED = {"maximize": False, "grams": False, "cautious": False, "cautious_scale": "floor", "cautious_floor": 1e-3}


def transform(u: Array, g: Array, h: Options) -> Array:
    """T(u), by the signs of the gradient g."""
    if h.grams:
        u = np.sign(g) * np.abs(u)
    if h.cautious:
        u = cautious(u, g, h.cautious_scale, h.cautious_floor)
    return u


def cautious(u: Array, g: Array, scale: str | None = "floor", floor: float = 1e-3) -> Array:
    """Keep the entries of u that agree in sign with g and make up for the others (Liang et al. 2024, Alg. 1 and 2)."""
    φ = np.sign(u) * np.sign(g) > 0
    n, d = np.count_nonzero(φ), φ.size
    s = {"floor": 1 / max(n / d, floor), "xi": d / (n + 1), None: 1.0}[scale]
    return np.where(φ, s * u, 0.0)
