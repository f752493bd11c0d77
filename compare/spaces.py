"""The hyperparameter spaces of the ruleset "search", and points in them.

Every optimizer has the same number of points however many hyperparameters it has: more of them are no more budget.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .candidates import Candidate, options_of


class Interval(NamedTuple):
    """Where a hyperparameter is drawn from: evenly, or evenly in its logarithm."""

    low: float
    high: float
    logarithmic: bool = True

    def at(self, fraction: float) -> float:
        if self.logarithmic:
            return self.low * math.exp(math.log(self.high / self.low) * fraction)
        return self.low + (self.high - self.low) * fraction


DECADES_DOWN, DECADES_UP = 1.5, 2.5  # of lr about its default, which is meant for large models and small here
FROM_ONE: dict[str, Interval] = {"momentum": Interval(0.01, 1.0)}  # of 1 - value; "betas" are found from their default
BETA_DECADES = 1.0  # of 1 - β on either side of the default, and at most 0.5
SLOW_BETA = Interval(1e-3, 0.03)  # of 1 - β of a third, slow average: memories of 1000 to 33 steps, as budgets are here
OWN: dict[str, Interval] = {
    "alpha": Interval(0.2, 1.0, logarithmic=False),  # Lookahead: a fifth of the way (its paper's range ends at 0.8)
    "reps_rel": Interval(1e-8, 1e-4),  # DoG: the paper finds it of no great consequence
    "lr_preconditioner": Interval(0.01, 1.0),  # PSGD
    "decay_rate": Interval(0.5, 0.999, logarithmic=False),  # Adafactor
    "warmup_steps": Interval(1, 100),  # Schedule-Free: its paper has 5 % of a run
}
ADEMAMIX_ALPHA = Interval(1.0, 20.0)  # the paper tries 1 to 20; Lookahead's option of that name is a fraction
INTERPOLATION = Interval(0.01, 0.5)  # of 1 - β, Schedule-Free's: near 0, β leaves no average; its paper has .9 to .98


def space_of(candidate: Candidate) -> dict[str, Interval]:
    """The intervals by hyperparameter: of lr, and of those among the declared ones that the optimizer has.

    An optimizer declares its own with a class attribute `search_space`, {name: (low, high, logarithmic)}. Of a tuple
    such as betas the entries are "betas.0", "betas.1"; of β and of the momentum the interval is that of 1 - β.
    """
    lr = Interval(candidate.default_lr * 10**-DECADES_DOWN, candidate.default_lr * 10**DECADES_UP)
    declared = getattr(candidate.factory, "search_space", None)
    if declared is not None:
        return {"lr": lr, **{name: Interval(*interval) for name, interval in declared.items()}}
    space, defaults = {"lr": lr}, {**options_of(candidate.source), **candidate.options}
    betas = defaults.get("betas")
    if isinstance(betas, tuple | list):
        for index, beta in enumerate(betas):
            gap = 1 - beta
            own = Interval(gap * 10**-BETA_DECADES, min(gap * 10**BETA_DECADES, 0.5))
            space[f"betas.{index}"] = own if index < 2 else SLOW_BETA
    space.update({name: interval for name, interval in OWN.items() if name in defaults})
    space.update({name: interval for name, interval in FROM_ONE.items() if defaults.get(name)})  # 0 is to have none
    if "alpha" in space and defaults["alpha"] > 1:
        space["alpha"] = ADEMAMIX_ALPHA
    if "weight_lr_power" in defaults and "momentum" in space:
        space["momentum"] = INTERPOLATION
    return space


def points(candidate: Candidate, count: int) -> list[dict[str, object]]:
    """The first `count` points of a scrambled Sobol sequence in the optimizer's space, the same on every call."""
    import torch

    space = space_of(candidate)
    engine: Any = torch.quasirandom.SobolEngine(len(space), scramble=True, seed=0)  # type: ignore[no-untyped-call]
    return [_point(space, row) for row in engine.draw(count, dtype=torch.float64).tolist()]


def _point(space: dict[str, Interval], fractions: list[float]) -> dict[str, object]:
    point: dict[str, object] = {}
    betas: list[float] = []
    for (name, interval), fraction in zip(space.items(), fractions, strict=True):
        value = _rounded(interval.at(fraction))
        if name.startswith("betas."):
            betas.append(_rounded(1 - value))
        else:
            point[name] = _rounded(1 - value) if name in FROM_ONE else value
    return {**point, "betas": betas} if betas else point


def _rounded(value: float) -> float:
    """To six digits: what is printed is what was run."""
    return round(value, 5 - math.floor(math.log10(abs(value)))) if value else 0.0
