"""SAM (Foret et al. 2021, arXiv:2010.01412), equations 2 and 3, and ASAM (Kwon et al. 2021, arXiv:2102.11600)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .notation import Array


def perturbation(
    θ: Sequence[Array], g: Sequence[Array | None], ρ: Sequence[float], η: Sequence[float | None]
) -> list[Array | float]:
    """ε̂ = ρ T²g / ‖Tg‖₂ over all tensors; T = |θ| + η, or 1 where η is None; 0 for what has no gradient."""
    T = [1.0 if e is None else np.abs(p) + e for p, e in zip(θ, η, strict=True)]
    norm = np.sqrt(sum(float(np.sum((t * x) ** 2)) for t, x in zip(T, g, strict=True) if x is not None))
    return [0.0 if x is None else r * t**2 * x / (norm + 1e-12) for t, x, r in zip(T, g, ρ, strict=True)]


def run(
    inner: Any,
    theta0: Sequence[Array],
    gradient: Callable[[Sequence[Array]], Sequence[Array | None]],
    steps: int,
    ρ: Sequence[float],
    η: Sequence[float | None],
) -> Iterator[list[Array]]:
    """Parameters after every step; `inner` maps parameters and gradients to new parameters."""
    θ = list(theta0)
    for _ in range(steps):
        ε = perturbation(θ, gradient(θ), ρ, η)
        θ = inner.step(θ, gradient([p + e for p, e in zip(θ, ε, strict=True)]))
        yield θ
