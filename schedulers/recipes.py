"""The named schedules, as functions of their arguments: :mod:`.presets` has them as schedulers."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypedDict

from typing_extensions import Unpack

from .lengths import Steps, parse_steps
from .options import named
from .schedule import Schedule
from .shapes import choice


class Ramp(TypedDict, total=False):
    """The warm-up of every named schedule.

    start: multiplier the warm-up starts from, >= 0. Default 0.
    warmup_shape: its shape, see :meth:`Schedule.to`. Default linear.
    compat: None (default): n steps of warm-up are at 1/(n+1), ..., n/(n+1), so that no update is lost to lr = 0.
        ``"hf"``: at 0, 1/n, ..., (n-1)/n, as in Hugging Face transformers.
    """

    start: float
    warmup_shape: str
    compat: str | None


_P = ParamSpec("_P")
RECIPES: dict[str, Callable[..., Schedule]] = {}
"""The named schedules, in the order in which they are listed."""


def _recipe(function: Callable[_P, Schedule]) -> Callable[_P, Schedule]:
    """List a named schedule."""
    RECIPES[function.__name__] = function = named(function, Ramp.__annotations__)
    return function


def _ramp(warmup: Steps, start: float = 0.0, warmup_shape: str = "linear", compat: str | None = None) -> Schedule:
    """From ``start`` to 1 in ``warmup`` steps; without any it is 1 at once."""
    choice("compat", compat or "none", ("none", "hf"))
    if parse_steps(warmup) == 0:
        return Schedule()
    return Schedule(start).to(1, warmup, shape=warmup_shape, grid="left" if compat == "hf" else "open")


@_recipe
def constant(warmup: Steps = 0, **ramp: Unpack[Ramp]) -> Schedule:
    """Warm-up, then the base learning rate.

    >>> constant(100)
    Schedule(start=0).to(1, 100, grid='open').hold()
    """
    return _ramp(warmup, **ramp).hold()


@_recipe
def linear(warmup: Steps = 0, end: float = 0.0, **ramp: Unpack[Ramp]) -> Schedule:
    """Warm-up, then linear decay to ``end``: optimal for the last iterate in the worst case (arXiv:2310.07831).

    >>> linear(0.1).resolve(1000)(550)
    0.5
    """
    return _ramp(warmup, **ramp).to(end)


@_recipe
def cosine(warmup: Steps = 0, end: float = 0.0, **ramp: Unpack[Ramp]) -> Schedule:
    """Warm-up, then half a cosine to ``end`` (arXiv:1608.03983).

    >>> cosine().resolve(1000)(500)
    0.5
    """
    return _ramp(warmup, **ramp).to(end, shape="cosine")


@_recipe
def wsd(
    warmup: Steps = 0, cooldown: Steps = 0.2, shape: str = "linear", end: float = 0.0, **ramp: Unpack[Ramp]
) -> Schedule:
    """Warm-up, stable, decay (arXiv:2404.06395, arXiv:2405.18392): constant, then a ``cooldown`` of a shape to ``end``.

    >>> wsd(500, 0.2, "sqrt")
    Schedule(start=0).to(1, 500, grid='open').hold().to(0, 0.2, shape='sqrt')
    """
    return _ramp(warmup, **ramp).hold().to(end, cooldown, shape=shape)


@_recipe
def inverse_sqrt(warmup: Steps = 0, timescale: float | None = None, **ramp: Unpack[Ramp]) -> Schedule:
    """Warm-up of τ steps, then √(τ/t), without horizon (arXiv:1706.03762).

    ``timescale`` is another τ for the decay; its default is 10000 where there is no warm-up.

    >>> inverse_sqrt(100).resolve()(400)
    0.5
    """
    if timescale is None and parse_steps(warmup) == 0:
        timescale = 10_000.0
    return _ramp(warmup, **ramp).decay(0.5, timescale=timescale)


@_recipe
def polynomial(warmup: Steps = 0, power: float = 1.0, end: float = 0.0, **ramp: Unpack[Ramp]) -> Schedule:
    """Warm-up, then end + (1 - end)(1 - p)^power.

    >>> polynomial(power=2).resolve(1000)(500)
    0.25
    """
    return _ramp(warmup, **ramp).to(end, shape=f"poly({power})")


@_recipe
def exponential(warmup: Steps = 0, end: float = 0.1, gamma: float | None = None, **ramp: Unpack[Ramp]) -> Schedule:
    """Warm-up, then exponential decay: to ``end`` at the total, or with ``gamma`` times that a step, without horizon.

    >>> round(exponential(end=0.01).resolve(1000)(500), 9)
    0.1
    """
    return _ramp(warmup, **ramp).to(end, shape="exp") if gamma is None else _ramp(warmup, **ramp).exp(gamma)


@_recipe
def cosine_restarts(
    warmup: Steps = 0,
    first: Steps = 0.25,
    stretch: float = 1.0,
    scale: float = 1.0,
    end: float = 0.0,
    **ramp: Unpack[Ramp],
) -> Schedule:
    """Warm-up, then SGDR (arXiv:1608.03983): half cosines from 1 to ``end``.

    The first takes ``first`` steps, every other one is ``stretch`` times as long and ``scale`` times as high as the
    one before.

    >>> cosine_restarts(first=10, stretch=2).resolve(70)(30)
    1.0
    """
    cycle = Schedule.tail().jump(1).to(end, first, shape="cosine")
    return _ramp(warmup, **ramp).repeat(cycle, stretch=stretch, scale=scale)


@_recipe
def one_cycle(
    warmup: Steps = 0.3,
    start: float = 0.04,
    end: float = 4e-6,
    warmup_shape: str = "cosine",
    shape: str = "cosine",
    peak: float = 1.0,
) -> Schedule:
    """One cycle (arXiv:1708.07120): from ``start`` up to ``peak`` in ``warmup``, then to ``end`` at the last step.

    The defaults are those of torch.optim.lr_scheduler.OneCycleLR, to which it is equal: 1/25 and 1e-4/25 of the peak.

    >>> [round(one_cycle().resolve(100)(t), 6) for t in (0, 29, 99)]
    [0.04, 1.0, 4e-06]
    """
    return Schedule(start).to(peak, warmup, shape=warmup_shape, grid="closed").to(end, shape=shape, grid="right")


@_recipe
def power(
    warmup: Steps = 0,
    stable: Steps = 0,
    power: float = 0.51,
    cooldown: Steps = 0.1,
    shape: str = "linear",
    end: float = 0.0,
    **ramp: Unpack[Ramp],
) -> Schedule:
    """Warm-up, constant for ``stable``, then (t/t0)^-power with t0 = warmup + stable, and a cooldown to ``end``.

    This is the Power scheduler (arXiv:2408.13359), min(lr_max, B·a·n^b) with b = -power, which does not depend on the
    total: ``stable`` ends where the two meet. With a clock in tokens all lengths are tokens, as in the paper.

    >>> power(100, cooldown=0.2, power=0.5).resolve(1000)(400)
    0.5
    """
    return _ramp(warmup, **ramp).hold(stable).decay(power).to(end, cooldown, shape=shape)
