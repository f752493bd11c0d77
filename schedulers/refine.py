"""The schedule that suits a problem best, from the gradient norms of one past run."""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .bounds import Array, Bound, bound_from_squares, stretched, tail_sums
from .options import named
from .recording import Recording
from .schedule import Schedule

if TYPE_CHECKING:
    from .recorder import GradNormRecorder

RecordedNorms: TypeAlias = "Sequence[float] | Array | str | os.PathLike[str] | Mapping[str, Any] | GradNormRecorder"

_POINTS = 10_000  # a longer run is read at so many places
_SOLVED = 0.01  # the last norms over the first, from which on a problem counts as solved: the bound's gradients stay
_KINDS = {"sgd": ("l2", 2), "adam": ("l1", 1), "update": ("update", 1)}
"""Per kind the recorded norm it reads, and the power p of it that is ⟨g, direction⟩."""


@dataclass(frozen=True)
class Refined:
    """What :func:`refine` found; ``print`` it for the figures and the advice."""

    multipliers: Array
    """η_1 ... η_T over ``total`` steps, at most 1."""
    nodes: Array
    """The same at equal distances over a run of any length, from its begin to one step after its end."""
    predicted_lr_ratio: float
    """The best base lr of this schedule over that of the run which was recorded, by the bound."""
    gain: float
    """The bound of this schedule over that of linear decay to zero, each at its best lr: 1 is no gain."""
    advice: str
    """Whether it will pay, and what to do."""

    @property
    def schedule(self) -> Schedule:
        """The multipliers as a Schedule of one phase, for a run of any length."""
        return Schedule().table(self.nodes.tolist())

    def __str__(self) -> str:
        return f"gain {self.gain:.2f}, lr x {self.predicted_lr_ratio:.2f}: {self.advice}"


@named
def refine(
    norms: RecordedNorms,
    kind: str,
    total: int | None = None,
    smoothing: float = 0.1,
    *,
    drop_last: bool = True,
) -> Refined:
    """Optimal Linear Decay Learning Rate Schedules and Further Refinements (Defazio, Cutkosky, Mehta & Mishchenko,
    2023, arXiv:2310.07831): the schedule of least bound for the gradient norms of a past run.

        η_t ∝ w_t Σ_{q>t} w_q,    w_t = 1 / ⟨g_t, d_t⟩,    d_t: update per unit of lr

    For SGD ⟨g, d⟩ = ‖g‖₂², and constant norms give linear decay. For Adam and sign-like optimizers it is ‖g‖₁ to a
    factor; that one formula gives both of the paper's, and the rule for other optimizers, is ours. Norms are smoothed
    by a median over ``smoothing`` of the run. Norms that fall at the start give a warmup, norms that rise at the end a
    faster decay.

    When: the norms vary for reasons outside the model, such as batch size or data that change, or the loss is not
        smooth. Then it was found to beat linear decay several times over. Where they fall because a smooth problem is
        being solved, it ties or loses, and so it can where they are large early; where they nearly vanish, the numbers
        mean nothing. ``advice`` says what applies; the recorded run is best one with linear decay at a good lr.

    Args:
        norms: one number per step (or per so many steps) > 0: the l2 norms for ``"sgd"``, l1 for ``"adam"``,
            ⟨g_t, θ_t - θ_{t+1}⟩ / lr_t for ``"update"``; or all that a :class:`GradNormRecorder` recorded: itself, its
            ``state_dict()`` or the path of its file. nan and inf are filled in from their neighbours.
        kind: ``"sgd"`` for SGD, ``"adam"`` for Adam, Lion and others that normalise, ``"update"`` for any.
        total: number of steps of the next run. Default None: that of the recorded run (for a sequence, its length).
        smoothing: τ, fraction of the run the median goes over, in [0, 1); 0 is none. Default 0.1, the paper's.
        drop_last: leave out the last step of the paper's schedule, whose lr is 0. Default True: then constant norms
            give (T-t)/T for t = 0 ... T-1, without a step that does nothing.

    Raises:
        ValueError: fewer than 8 norms, norms <= 0, an argument out of its range, or a recording without these norms.
        FileNotFoundError: there is no such file.

    >>> refined = refine([4.0, 2, 1, 1, 1, 1, 2, 4], "sgd", smoothing=0, drop_last=False)
    >>> refined.multipliers.round(6).tolist()
    [0.086085, 0.325472, 1.0, 0.698113, 0.396226, 0.09434, 0.004717, 0.0]
    >>> print(refine([1.0] * 100, "sgd"))
    gain 1.00, lr x 1.00: keep linear decay: refinement will not pay here, the bound falls by 0% only
    """
    if kind not in _KINDS:
        raise ValueError(f"refine: kind must be {', '.join(map(repr, _KINDS))}, got {kind!r}")
    if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float)) or not 0 <= smoothing < 1:
        raise ValueError(f"refine: smoothing must be a fraction of the run in [0, 1), got {smoothing!r}")
    name, power = _KINDS[kind]
    recording = Recording.of(norms, name)
    given = recording.norms[name]
    steps = recording.total if total is None else total
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"refine: total must be a whole number of steps >= 1, got {total!r}")
    smooth = _smooth(given, kind, smoothing)
    cost = (smooth / smooth.mean()) ** power  # its scale does not matter
    eta = weights_to_multipliers(1 / cost, drop_last)
    nodes = np.append(eta / eta.max(), 0.0)

    def on(length: int) -> Array:
        values: Array = np.interp(np.arange(length) / length, np.linspace(0, 1, len(nodes)), nodes)
        return values

    def of(multipliers: Array) -> Bound:
        return bound_from_squares(multipliers, stretched(cost, len(multipliers)))

    multipliers = on(int(steps))
    reference = of(recording.multipliers)
    ratio = of(multipliers).best_lr() / reference.best_lr()
    length = len(cost)
    gain = of(on(length)).best_value() / of(linear_decay(length)).best_value()
    return Refined(multipliers, nodes, ratio, gain, _advice(gain, smooth, power, recording))


def weights_to_multipliers(weights: Array, drop_last: bool = True) -> Array:
    """η_t = w_t Σ_{q>t} w_q; with ``drop_last`` the last weight counts twice, and no multiplier is 0."""
    if drop_last:
        weights = np.append(weights, weights[-1])
    eta: Array = weights * np.append(tail_sums(weights)[1:], 0.0)
    return eta[:-1] if drop_last else eta


def linear_decay(total: int) -> Array:
    """1 - t/T."""
    return np.linspace(1, 0, total, endpoint=False)


def filter_width(length: int, smoothing: float) -> int:
    """The odd number of points the median goes over."""
    return 2 * (math.floor(smoothing * length) // 2) + 1


def median_filter(values: Array, width: int) -> Array:
    """Running median of odd width: the first value is repeated before the begin, the end is mirrored without its last.

    Without the mirror a spike at the end would bend the final decay.
    """
    half = width // 2
    padded = np.concatenate([np.full(half, values[0]), values, values[-2 : -2 - half : -1]]).tolist()
    window = sorted(padded[:width])
    medians = [window[half]]
    for old, new in zip(padded, padded[width:], strict=False):
        del window[bisect.bisect_left(window, old)]
        bisect.insort(window, new)
        medians.append(window[half])
    return np.array(medians)


def _smooth(given: Array, kind: str, smoothing: float) -> Array:
    """Norms without gaps and noise, at no more than so many points."""
    known = np.isfinite(given)
    if known.sum() < 8:
        raise ValueError(f"refine: norms must be at least 8 finite numbers, got {known.sum()}; record a longer run")
    where = np.arange(len(given))
    filled = stretched(np.interp(where, where[known], given[known]), min(len(given), _POINTS))
    smooth = median_filter(filled, filter_width(len(filled), smoothing))
    if kind == "update" and np.median(smooth) > 0:
        smooth = np.maximum(smooth, 0.1 * np.median(smooth))  # momentum may go uphill for a while
    if smooth.min() <= 0:
        raise ValueError(
            f"refine: norms must be > 0 after smoothing, got {smooth.min():g} at "
            f"{smooth.argmin() / len(smooth):.0%} of the run; leave out steps without gradient, or smooth more"
        )
    return smooth


def _advice(gain: float, smooth: Array, power: int, recording: Recording) -> str:
    cost, half, tenth = smooth**power, len(smooth) // 2, max(1, len(smooth) // 10)
    left = float(np.median(smooth[-tenth:]) / np.median(smooth[:tenth]))
    if left < _SOLVED:
        advice = (
            f"keep linear decay: the norms fall to {left:.1g} of what they were, for the targets are met almost "
            "exactly, and gain and lr mean nothing then; record a run whose loss does not go to its least value"
        )
    elif gain > 0.9:
        advice = f"keep linear decay: refinement will not pay here, the bound falls by {max(0, 1 - gain):.0%} only"
    elif cost[:half].sum() > cost[-half:].sum():
        advice = (
            f"compare it with linear decay before you rely on it: the bound falls by {1 - gain:.0%}, but large norms "
            "come early, where the bound promises too much and refinement may lose; begin at the recorded run's lr"
        )
    else:
        advice = f"may pay: the bound falls by {1 - gain:.0%}; compare it with linear decay"
    if power == 2 and recording.optimizer and recording.clipped > 0.5:
        advice += (
            f". Clipping was active in {recording.clipped:.0%} of the steps and hides how the norms vary: "
            "record with a higher limit"
        )
    return advice
