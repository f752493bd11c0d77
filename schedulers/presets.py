"""The named schedules as schedulers with typed arguments, so that a configuration can name their classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch.optim import Optimizer
from typing_extensions import Unpack

from . import recipes
from .lengths import Steps
from .options import check_options, options_of
from .recipes import Ramp
from .schedule import Schedule
from .scheduler import Scheduler, SchedulerOptions


class PresetOptions(Ramp, SchedulerOptions, total=False):
    """Keyword options of the presets: those of their warm-up, :class:`Ramp`, and of :class:`Scheduler`."""


class Preset(Scheduler):
    """Base of the presets: a :class:`Scheduler` whose schedule is made of arguments. All of them take

    Args:
        optimizer: any torch optimizer.
        total: steps of the run, >= 1; None where no length depends on it.
        warmup: length of the warm-up: steps, a fraction of the total, ``"3ep"`` or ``"untuned"``. Default 0.
        **options: ``start`` (0), ``warmup_shape`` ("linear") and ``compat`` (None; "hf": the warm-up of Hugging Face
            transformers, whose first step is at ``start``), and the options of :class:`Scheduler`.

    Raises:
        ValueError: lengths that do not fit the total, with the numbers; an argument out of its range.
        TypeError: not an optimizer; an unknown option.

    >>> import torch
    >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=1e-3)
    >>> scheduler = WSD(optimizer, total=10_000, warmup=500, cooldown=0.2, shape="sqrt", clock="optimizer")
    >>> scheduler.value_at(5_000), WSD.schedule(warmup=500).resolve(10_000)(9_000)
    ([0.001], 0.5)
    """

    schedule: ClassVar[Callable[..., Schedule]]
    """The schedule alone, made of the same arguments without optimizer and total."""

    def _begin(self, optimizer: Optimizer, total: int | None, options: Any, **arguments: Any) -> None:
        """Make the schedule, and the scheduler of it."""
        taken = options_of(type(self).schedule, Ramp.__annotations__)
        valid = [*arguments, "total", *(name for name in Ramp.__annotations__ if name in taken)]
        check_options(type(self).__name__, options, [*valid, *SchedulerOptions.__annotations__])
        ramp = {name: options[name] for name in Ramp.__annotations__ if name in options}
        rest = {name: option for name, option in options.items() if name not in ramp}
        Scheduler.__init__(self, optimizer, type(self).schedule(**arguments, **ramp), total, **rest)


class ConstantWarmup(Preset):
    """Warm-up, then the base learning rate.

    Its arguments are those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.constant)

    def __init__(
        self, optimizer: Optimizer, total: int | None = None, warmup: Steps = 0, **options: Unpack[PresetOptions]
    ) -> None:
        self._begin(optimizer, total, options, warmup=warmup)


class Linear(Preset):
    """Warm-up, then linear decay: when to stop is known, so take this one.

    Optimal Linear Decay Learning Rate Schedules and Further Refinements (Defazio, Cutkosky, Mehta & Mishchenko, 2023,
    arXiv:2310.07831): of all schedules it has the best worst-case bound for the last iterate, and in most of their
    experiments it matches or beats the others.

    Args:
        end: multiplier one step after the last, >= 0. Default 0.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.linear)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0,
        end: float = 0.0,
        **options: Unpack[PresetOptions],
    ) -> None:
        self._begin(optimizer, total, options, warmup=warmup, end=end)


class Cosine(Preset):
    """Warm-up, then half a cosine.

    SGDR without restarts (Loshchilov & Hutter, 2017, arXiv:1608.03983).

    Args:
        end: multiplier one step after the last, >= 0. Default 0.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.cosine)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0,
        end: float = 0.0,
        **options: Unpack[PresetOptions],
    ) -> None:
        self._begin(optimizer, total, options, warmup=warmup, end=end)


class WSD(Preset):
    """Warm-up, stable, decay: constant, then a cooldown, so that a run can be prolonged from before it.

    MiniCPM (Hu et al., 2024, arXiv:2404.06395); Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations (Hägele et al., 2024, arXiv:2405.18392), where 10 to 20 % of ``"sqrt"`` cooldown do as well as a cosine.

    Args:
        cooldown: length of the cooldown. Default 0.2 of the total, theirs.
        shape: of the cooldown: ``"linear"`` (default), ``"sqrt"`` (their 1-sqrt), ``"cosine"``, or another of
            :meth:`Schedule.to`.
        end: multiplier one step after the last, >= 0. Default 0.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.wsd)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0,
        cooldown: Steps = 0.2,
        shape: str = "linear",
        end: float = 0.0,
        **options: Unpack[PresetOptions],
    ) -> None:
        self._begin(optimizer, total, options, warmup=warmup, cooldown=cooldown, shape=shape, end=end)


class InverseSqrt(Preset):
    """Warm-up of τ steps, then √(τ/t), which needs no total.

    Attention Is All You Need (Vaswani et al., 2017, arXiv:1706.03762).

    Args:
        timescale: τ of the decay, in steps, > 0. Default the warm-up's length, or 10000 without, as in
            transformers.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.inverse_sqrt)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0,
        timescale: float | None = None,
        **options: Unpack[PresetOptions],
    ) -> None:
        self._begin(optimizer, total, options, warmup=warmup, timescale=timescale)


class Polynomial(Preset):
    """Warm-up, then end + (1 - end)(1 - p)^power, p being the progress from 0 to 1.

    Args:
        power: of the polynomial, > 0. Default 1, torch's and transformers'.
        end: multiplier one step after the last, >= 0. Default 0.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.polynomial)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0,
        power: float = 1.0,
        end: float = 0.0,
        **options: Unpack[PresetOptions],
    ) -> None:
        self._begin(optimizer, total, options, warmup=warmup, power=power, end=end)


class Exponential(Preset):
    """Warm-up, then exponential decay.

    Args:
        end: multiplier one step after the last, > 0. Default 0.1.
        gamma: instead of ``end`` what to multiply by at every step, > 0, as torch's ExponentialLR; needs no
            total.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.exponential)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0,
        end: float = 0.1,
        gamma: float | None = None,
        **options: Unpack[PresetOptions],
    ) -> None:
        self._begin(optimizer, total, options, warmup=warmup, end=end, gamma=gamma)


class CosineRestarts(Preset):
    """Warm-up, then half cosines again and again, the last as far as it comes.

    SGDR (Loshchilov & Hutter, 2017, arXiv:1608.03983).

    Args:
        first: length of the first cosine, T0. Default a quarter of the total.
        stretch: of every further one, relative to the one before, > 0. Default 1; the paper has 1 and 2.
        scale: of the height likewise, > 0. Default 1.
        end: multiplier each goes to. Default 0.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.cosine_restarts)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0,
        first: Steps = 0.25,
        stretch: float = 1.0,
        scale: float = 1.0,
        end: float = 0.0,
        **options: Unpack[PresetOptions],
    ) -> None:
        self._begin(optimizer, total, options, warmup=warmup, first=first, stretch=stretch, scale=scale, end=end)


class Power(Preset):
    """Warm-up, constant for a while, then (t/t0)^-power, and a cooldown: nothing before that depends on the total.

    Power Scheduler: A Batch Size and Token Number Agnostic Learning Rate Scheduler (Shen et al., 2024,
    arXiv:2408.13359). Its min(lr_max, B·a·n^b) is constant up to t0 = warmup + stable and has b = -power; with
    ``clock="tokens"`` all lengths are tokens, as there.

    Args:
        stable: how long to stay constant after the warm-up. Default 0.
        power: of the decay, > 0. Default 0.51, the paper's.
        cooldown: length of the cooldown. Default 0.1 of the total, the paper's.
        shape: of the cooldown, see :meth:`Schedule.to`.
        end: multiplier one step after the last, >= 0. Default 0.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.power)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0,
        stable: Steps = 0,
        power: float = 0.51,
        cooldown: Steps = 0.1,
        shape: str = "linear",
        end: float = 0.0,
        **options: Unpack[PresetOptions],
    ) -> None:
        self._begin(
            optimizer,
            total,
            options,
            warmup=warmup,
            stable=stable,
            power=power,
            cooldown=cooldown,
            shape=shape,
            end=end,
        )


class OneCycle(Preset):
    """Up and down once: equal to torch's OneCycleLR, without the error one step after the end.

    Super-Convergence (Smith & Topin, 2018, arXiv:1708.07120). Momentum goes the other way with a track:
    ``tracks={"momentum": {"mode": "set", "schedule": OneCycle.schedule(start=0.95, peak=0.85, end=0.95)}}``.

    Args:
        start: multiplier of the first step. Default 1/25, torch's.
        end: multiplier of the last step. Default 1e-4/25, torch's.
        warmup_shape: of the way up. Default cosine, torch's.
        shape: of the way down. Default cosine, torch's.
        and those of :class:`Preset`.
    """

    schedule = staticmethod(recipes.one_cycle)

    def __init__(
        self,
        optimizer: Optimizer,
        total: int | None = None,
        warmup: Steps = 0.3,
        start: float = 0.04,
        end: float = 4e-6,
        warmup_shape: str = "cosine",
        shape: str = "cosine",
        **options: Unpack[SchedulerOptions],
    ) -> None:
        self._begin(
            optimizer, total, options, warmup=warmup, start=start, end=end, warmup_shape=warmup_shape, shape=shape
        )
