"""When to update a preconditioner: a pure function of the step, so that there is nothing to lose on resuming."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

Probability: TypeAlias = "float | Callable[[int], float] | None"

FLAT, DECAY, FLOOR = 500, 1e-3, 0.03


def default_probability(step: int) -> float:
    """1 for the first 500 steps, then e^(-0.001 (step - 500)), at least 0.03: kron_torch's and timm's."""
    return min(1.0, max(FLOOR, math.exp(-DECAY * (step - FLAT))))


def updates_at(step: int, probability: Probability) -> bool:
    """Whether step 1, 2, ... has an update.

    >>> [step for step in range(1, 12) if updates_at(step, 0.25)]
    [1, 5, 9]
    """
    return updates_until(step, probability) > updates_until(step - 1, probability)


def updates_until(step: int, probability: Probability) -> int:
    """How many updates there have been after so many steps: the sum of their probabilities, rounded up.

    So the first step has one, and p = 1/4 gives every fourth.
    """
    if isinstance(probability, (int, float)):
        total = step * probability
    else:
        total = _sums(probability or default_probability)(step)
    return math.ceil(total - 1e-6)  # whole numbers are met but for rounding


@lru_cache(maxsize=64)
def _sums(probability: Callable[[int], float]) -> Callable[[int], float]:
    """Sums of the probabilities, which are kept, so that a step adds one term."""
    sums = [0.0]

    def total(step: int) -> float:
        while len(sums) <= step:
            sums.append(sums[-1] + float(probability(len(sums))))
        return sums[step]

    return total
