"""Lookahead (Zhang, Lucas, Hinton & Ba 2019, arXiv:1907.08610), algorithm 1, and what it says of the inner momentum."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .notation import Array, State


class Momentum:
    """Stochastic gradient descent with momentum: m ← μm + g, θ ← θ − ηm."""

    def __init__(self, lr: float, momentum: float) -> None:
        self.η, self.μ = lr, momentum
        self.states: defaultdict[int, State] = defaultdict(lambda: defaultdict(lambda: np.zeros(())))

    def step(self, theta: Sequence[Array], gradients: Sequence[Array | None]) -> list[Array]:
        return [
            p if g is None else self._step(p, g, self.states[i])
            for i, (p, g) in enumerate(zip(theta, gradients, strict=True))
        ]

    def _step(self, θ: Array, g: Array, s: State) -> Array:
        s["m"] = self.μ * s["m"] + g
        return θ - self.η * s["m"]


def run(
    inner: Any,
    theta0: Iterable[Any],
    gradients: Iterable[Sequence[Any]],
    k: int,
    alpha: float,
    momentum: str = "none",
) -> Iterator[list[Array]]:
    """Parameters after every step; `inner` maps parameters and gradients to new parameters, its momentum is `m`."""
    θ = φ = [np.asarray(p, dtype=np.float64) for p in theta0]
    slow: defaultdict[int, Array] = defaultdict(lambda: np.zeros(()))
    for t, g in enumerate(gradients, start=1):
        θ = inner.step(θ, [None if x is None else np.asarray(x, dtype=np.float64) for x in g])
        if t % k == 0:
            θ = φ = [a + alpha * (b - a) for a, b in zip(φ, θ, strict=True)]
            for i, s in inner.states.items():
                if momentum == "reset":
                    s["m"] = 0 * s["m"]
                elif momentum == "pullback":
                    s["m"] = slow[i] = alpha * s["m"] + (1 - alpha) * slow[i]
        yield θ
