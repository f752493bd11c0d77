"""Convex problems trained by SGD in NumPy, many lrs and seeds at once: what schedules are tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from optzoo.schedulers.bounds import Array

LRS = 2.0 ** np.arange(-2, 6.51, 0.5)
Gradient = Callable[[int, Array, np.random.Generator], Array]
"""Of the step, points of shape (lrs, seeds, d) and a generator: gradients of that shape; noise is shared by the lrs."""


class Logistic:
    """Logistic regression on unit rows with flipped labels; ``condition`` is that of the features' scales."""

    def __init__(
        self, data_seed: int, batch: Callable[[float], int], n: int = 1000, d: int = 40, condition: float = 1.0
    ) -> None:
        rng = np.random.default_rng(data_seed)
        x = rng.standard_normal((n, d)) * np.logspace(0, -np.log10(condition) / 2, d)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        y = np.sign(x @ rng.standard_normal(d))
        self.rows = x * np.where(rng.random(n) < 0.1, -y, y)[:, None]
        self.batch, self.d = batch, d
        self.least = self._least()

    def _least(self) -> float:
        """By Newton's method."""
        w = np.zeros(self.d)
        for _ in range(100):
            p = 1 / (1 + np.exp(self.rows @ w))
            hessian = (self.rows * (p * (1 - p))[:, None]).T @ self.rows
            w += np.linalg.solve(hessian + 1e-12 * np.eye(self.d), self.rows.T @ p)
        return float(self.loss(w))

    def loss(self, w: Array) -> Array:
        return np.logaddexp(0, -(w @ self.rows.T)).mean(-1)

    def excess(self, w: Array) -> Array:
        return self.loss(w) - self.least

    def gradient(self, u: float, w: Array, rng: np.random.Generator) -> Array:
        size = self.batch(u)
        seeds = w.shape[1]
        rows = self.rows[rng.integers(len(self.rows), size=(seeds, size))]
        p = 1 / (1 + np.exp(np.einsum("lsd,sbd->lsb", w, rows)))
        return -np.einsum("lsb,sbd->lsd", p, rows) / size

    def start(self, lrs: int, seeds: int) -> Array:
        return np.zeros((lrs, seeds, self.d))


class Norm:
    """f(x) = ‖x‖ with gaussian noise of a strength that depends on the part of the run that is over."""

    def __init__(self, noise: Callable[[float], float], d: int = 200) -> None:
        self.noise, self.d = noise, d

    def excess(self, x: Array) -> Array:
        return np.linalg.norm(x, axis=-1)

    def gradient(self, u: float, x: Array, rng: np.random.Generator) -> Array:
        noise = rng.standard_normal(x.shape[1:]) * self.noise(u) / np.sqrt(self.d)
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300) + noise

    def start(self, lrs: int, seeds: int) -> Array:
        return np.full((lrs, seeds, self.d), 1 / np.sqrt(self.d))


class Median:
    """f(x) = E|a·x - noise|, d gaussian features: median regression, from distance 3."""

    def __init__(self, d: int = 40) -> None:
        self.d = d

    def excess(self, x: Array) -> Array:
        """a·x is gaussian with deviation ‖x‖, the noise with 1: E|·| = √(2/π) √(1 + ‖x‖²)."""
        return np.sqrt(2 / np.pi) * (np.sqrt(1 + (x**2).sum(-1)) - 1)

    def gradient(self, u: float, x: Array, rng: np.random.Generator) -> Array:
        a = rng.standard_normal(x.shape[1:])
        return np.sign((a * x).sum(-1) - rng.standard_normal(x.shape[1]))[..., None] * a

    def start(self, lrs: int, seeds: int) -> Array:
        return np.full((lrs, seeds, self.d), 3 / np.sqrt(self.d))


def train(
    problem: Any, multipliers: Sequence[float], lrs: Sequence[float], seeds: int, stream: int
) -> tuple[Array, Array]:
    """Mean excess loss at the end, per lr, and the l2 norms of the first seed's gradients, per lr and step."""
    rng = np.random.default_rng(stream)
    w = problem.start(len(lrs), seeds)
    lr = np.asarray(lrs)[:, None, None]
    norms = []
    for t, m in enumerate(multipliers):
        g = problem.gradient(t / len(multipliers), w, rng)
        norms.append(np.sqrt((g**2).sum(-1))[:, 0])
        w = w - lr * m * g
    return problem.excess(w).mean(1), np.array(norms).T


def best(
    problem: Any, multipliers: Sequence[float], lrs: Sequence[float], seeds: int = 6, stream: int = 2
) -> tuple[float, float]:
    """The best lr, by a parabola through the log losses around the best of ``lrs``, and the loss there."""
    losses, _ = train(problem, multipliers, lrs, seeds, stream)
    i = int(losses.argmin())
    assert 0 < i < len(lrs) - 1, f"the best lr, {lrs[i]}, is at an end of the grid"
    left, middle, right = np.log(losses[i - 1 : i + 2])
    offset = 0.5 * (left - right) / (left - 2 * middle + right)
    return float(lrs[i] * (lrs[i + 1] / lrs[i]) ** offset), float(losses[i])
