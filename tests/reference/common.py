"""What every reference shares: the step around an update rule, the Cautious transform, and the driver.

    θ ← θ − η (T(u) + λθ),    u = update(g, s, t, h)

An update rule reads the gradient g, the state s (every quantity starts at 0), the step count t = 1, 2, … of its own
tensor and the options h, and returns u. Complex parameters are passed as their real view, the way torch treats them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import adam, ademamix, amsgrad, diffgrad, grams, lion
from .notation import Array, Options, State

SHARED = {"maximize": False, "grams": False, "cautious": False, "cautious_scale": "floor", "cautious_floor": 1e-3}

RULES: Mapping[str, tuple[Callable[[Array, State, int, Options], Array], Mapping[str, Any]]] = {
    "adam": (adam.update, adam.ADAM),
    "adamw": (adam.update, adam.ADAMW),
    "amsgrad": (amsgrad.update, amsgrad.AMSGRAD),
    "ademamix": (ademamix.update, ademamix.ADEMAMIX),
    "grams": (grams.update, grams.GRAMS),
    "lion": (lion.update, lion.LION),
    "diffgrad": (diffgrad.update, diffgrad.DIFFGRAD),
    "cadamw": (adam.update, {**adam.ADAMW, "cautious": True}),
    "clion": (lion.update, {**lion.LION, "cautious": True}),
}


class Reference:
    """One optimizer at work: options in `h`, state and step count per tensor; `step` maps parameters to new ones."""

    def __init__(self, name: str, **options: Any) -> None:
        self.update, defaults = RULES[name]
        known = {**SHARED, **defaults}
        if unknown := options.keys() - known.keys():
            raise TypeError(f"reference {name!r} has no option {sorted(unknown)}; it has {sorted(known)}")
        self.h = Options(**{**known, **options})
        self.states: defaultdict[int, State] = defaultdict(lambda: defaultdict(lambda: np.zeros(())))
        self.steps: Counter[int] = Counter()

    def step(self, theta: Sequence[Array], gradients: Sequence[Array | None]) -> list[Array]:
        pairs = enumerate(zip(theta, gradients, strict=True))
        return [p if g is None or g.size == 0 else self._step(i, p, g) for i, (p, g) in pairs]

    def _step(self, i: int, θ: Array, g: Array) -> Array:
        h, η, λ = self.h, self.h.lr, self.h.weight_decay
        g = -g if h.maximize else g
        if not h.decoupled_weight_decay:
            g, λ = g + λ * θ, 0.0
        self.steps[i] += 1
        u = self.update(g, self.states[i], self.steps[i], h)
        if h.grams:
            u = np.sign(g) * np.abs(u)
        if h.cautious:
            u = cautious(u, g, h.cautious_scale, h.cautious_floor)
        return θ - η * (u + λ * θ)


def cautious(u: Array, g: Array, scale: str | None = "floor", floor: float = 1e-3) -> Array:
    """Keep the entries of u that agree in sign with g and make up for the others (Liang et al. 2024, Alg. 1 and 2)."""
    φ = np.sign(u) * np.sign(g) > 0
    n, d = np.count_nonzero(φ), φ.size
    s = {"floor": 1 / max(n / d, floor), "xi": d / (n + 1), None: 1.0}[scale]
    return np.where(φ, s * u, 0.0)


def run(
    name: str, theta0: Sequence[Array], gradients: Iterable[Sequence[Array | None]], **options: Any
) -> list[list[Array]]:
    """Parameters after every step, for gradients given in advance; a tensor whose gradient is None does not step."""
    reference = Reference(name, **options)
    theta = [np.asarray(p, dtype=np.float64) for p in theta0]
    trajectory = []
    for g in gradients:
        theta = reference.step(theta, [None if x is None else np.asarray(x, dtype=np.float64) for x in g])
        trajectory.append(theta)
    return trajectory
