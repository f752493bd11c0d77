"""When to update a preconditioner: a pure function of the step, so that there is nothing to lose on resuming."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

Probability: TypeAlias = "float | Callable[[int], float] | None"

FLAT, DECAY, FLOOR = 500, 1e-3, 0.03
LAST = FLAT + math.floor(-math.log(FLOOR) / DECAY)
"""The last step whose probability is above FLOOR."""
APART = 1024
"""Steps between the sums of a function's values that are kept."""


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
        total = _default_sum(step) if probability is None else _sums(probability)(step)
    return math.ceil(total - 1e-6)  # whole numbers are met but for rounding


def _default_sum(step: int) -> float:
    """The sum of ``default_probability``: ones, Σ e^(-0.001 j) = (1 - e^(-0.001 n)) / (e^0.001 - 1), and 0.03.

    Added up one by one it is the same but for rounding, which grows by 3e-11 a step. On the floor the sum comes no
    nearer to where it is rounded up than 0.0016: decisions are the same for the first 68 million steps.
    """
    falling = max(min(step, LAST) - FLAT, 0)
    series = -math.expm1(-DECAY * falling) / math.expm1(DECAY)
    return min(step, FLAT) + series + FLOOR * max(step - LAST, 0)


@lru_cache(maxsize=64)
def _sums(probability: Callable[[int], float]) -> Callable[[int], float]:
    """Sums of the probabilities, of which every 1024th and those of the last blocks in use are kept."""
    starts = [0.0]

    @lru_cache(maxsize=8)
    def block(number: int) -> list[float]:
        return [starts[number]]

    def total(step: int) -> float:
        number, rest = divmod(step, APART)
        while len(starts) <= number:
            starts.append(within(len(starts) - 1, APART))
        return within(number, rest)

    def within(number: int, rest: int) -> float:
        sums = block(number)
        while len(sums) <= rest:
            sums.append(sums[-1] + float(probability(number * APART + len(sums))))
        return sums[rest]

    return total
