"""How far to trust scores and ranks: other problems and other seeds might have been drawn. Pure functions, in NumPy."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .statistics import Array, Times, marks

LEVEL = 0.95
STAKES = np.array([0.25, 0.5, 1.0])  # parts of the capital that bets risk
CELLS = 400  # of [0, 1], where the ends of intervals are looked for
RESAMPLES = 50_000  # if there are no more, all are gone through; otherwise so many are drawn
RESAMPLES_OF_SEEDS = 2_000  # the same within a problem


class Intervals(NamedTuple):
    """Of every optimizer."""

    low: Array  # of the score
    high: Array
    best_rank: NDArray[np.int64]
    worst_rank: NDArray[np.int64]


def intervals(times: Times) -> Intervals:
    """The 95 % intervals of scores and the ranges of ranks."""
    if not times.problems:
        optimizers = len(times.optimizers)
        unknown = np.full(optimizers, math.nan)
        return Intervals(unknown, unknown, np.ones(optimizers, np.int64), np.full(optimizers, optimizers, np.int64))
    return Intervals(*score_intervals(times), *rank_ranges(times))


def score_intervals(times: Times) -> tuple[Array, Array]:
    """95 % intervals of the expected scores, by betting on bounded means (Waudby-Smith & Ramdas, "Estimating means of
    bounded random variables by betting", 2023, arXiv:2010.09686). They cover at any number of problems, and are wide
    where there are few.

    The mark on a problem is one draw of the problem and of its seeds, so both are random here. If x in [0, 1] has the
    mean μ, a bet with the stake c makes 1 - c + c x/μ of a capital of 1, and 1 again in expectation. So whatever x is
    distributed like, the capital after all bets, a mean over the stakes, exceeds 40 with a probability of at most
    2.5 %. The lower end is the least score at which it does not; the upper end is that of 1 - x. Problems of equal
    weight bet against one mean; of all means that make up a score, those count that leave the least capital.
    """
    own = marks(times)
    return _lower_end(own, times.weights), 1 - _lower_end(1 - own, times.weights)


def _lower_end(own: Array, weights: Array) -> Array:
    weights = weights.round(12)
    capital = np.zeros((len(own), 1))  # logarithm of the least, [optimizer, cell of the score]
    for weight in np.unique(weights):
        x = own[:, weights == weight]
        cells = weight * x.shape[1] * CELLS  # what these problems add to the score at most
        means = np.minimum(np.arange(1, math.ceil(cells) + 1) / cells, 1)
        growth = 1 + STAKES[:, None, None, None] * (x[:, :, None] / means - 1)  # [stake, optimizer, problem, mean]
        bet = np.log(growth.prod(axis=2).mean(axis=0))
        least = np.full((len(own), capital.shape[1] + len(means) - 1), math.inf)
        for index in range(len(means)):
            part = least[:, index : index + capital.shape[1]]
            np.minimum(part, capital + bet[:, [index]], out=part)
        capital = least
    ends: Array = (capital < math.log(2 / (1 - LEVEL))).argmax(axis=1) / CELLS  # rounded down, as every part is
    return ends


def rank_ranges(times: Times) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the greatest rank in the middle 95 % of the resamples.

    As many problems as there are, drawn with replacement, each with as many of its seeds, the same for all optimizers;
    in every resample the optimizers are ranked, ties sharing the better rank. Where there are at most 50,000 that
    differ, such as with five problems and three seeds, all count with their probability; otherwise 50,000 are drawn,
    the same every time. Of few problems such ranges are too narrow: those that are apart are a hint, no proof.
    """
    drawn, chances = _resampled_scores(times)
    optimizers = len(times.optimizers)
    below = np.zeros((optimizers, optimizers))
    for index in range(optimizers):
        better = (drawn > drawn[:, [index]] + 1e-12).sum(axis=1)
        below[index] = np.bincount(better, weights=chances, minlength=optimizers).cumsum()
    tail = (1 - LEVEL) / 2
    best, worst = (1 + (below >= share - 1e-9).argmax(axis=1) for share in (tail, 1 - tail))
    return best, worst


def _resampled_scores(times: Times) -> tuple[Array, Array]:
    """Scores, [resample, optimizer], and the probability of each resample."""
    generator = np.random.default_rng(0)
    parts = [_resampled_marks(times, index, generator) for index in range(len(times.problems))]
    values = np.concatenate([own for own, _ in parts])
    weights = np.repeat(times.weights, [len(own) for own, _ in parts])
    chances = np.concatenate([own for _, own in parts]) / len(parts)
    chosen, probabilities = _draws(chances, len(parts), RESAMPLES, generator)
    scores = np.zeros((len(chosen), len(times.optimizers)))
    for draw in chosen.T:
        scores += weights[draw, None] * values[draw]
    return scores / weights[chosen].sum(axis=1, keepdims=True), probabilities


def _resampled_marks(times: Times, problem: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """The marks on one problem with its seeds resampled, [resample, optimizer], and the probability of each."""
    hits = times.seeds[problem] if times.seeds else times.values[:, [problem]]
    seeds = hits.shape[1]
    chosen, chances = _draws(np.full(seeds, 1 / seeds), seeds, RESAMPLES_OF_SEEDS, generator)
    medians, which = np.unique(np.median(hits[:, chosen], axis=2), axis=1, return_inverse=True)
    names = tuple(map(str, range(medians.shape[1])))
    own = Times(times.optimizers, names, medians, np.ones(len(names)))
    shares: Array = np.bincount(which.ravel(), weights=chances).astype(np.float64)
    return marks(own).T, shares


def _draws(chances: Array, count: int, most: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], Array]:
    """`count` draws with replacement, [resample, draw], and the probability of each; orders that differ are one."""
    if math.comb(len(chances) + count - 1, count) > most:
        return generator.choice(len(chances), size=(most, count), p=chances), np.full(most, 1 / most)
    every = np.array(list(combinations_with_replacement(range(len(chances)), count)))
    times = np.zeros((len(every), len(chances)), np.int64)
    np.add.at(times, (np.arange(len(every))[:, None], every), 1)
    factorials = np.array([math.factorial(n) for n in range(count + 1)], dtype=np.float64)
    orders = factorials[count] / factorials[times].prod(axis=1)
    return every, orders * chances[every].prod(axis=1)
