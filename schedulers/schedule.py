"""The key-frame algebra: a schedule is a list of phases, "go to this value, in so many steps, along this shape"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .blocks import HEADER, Clip, Head, Product, Repeat, from_dict
from .lengths import Run, Steps, checked_total, share_out
from .options import with_named_options
from .phases import Decay, Exp, Hold, Jump, Phase, Table, To, finite, positive, shown
from .resolved import Resolved, Segment
from .shapes import Curve, choice

AFTER = ("hold", "raise", "repeat")
VERSION = 1


@with_named_options
@dataclass(frozen=True)
class Schedule:
    """Key-frames of a hyper-parameter: a value to start from and phases, each beginning where the last ended.

    It is a value: frozen, hashable, equal to another with the same phases, written as a list of plain dicts. Resolved
    against a number of steps it is a plain function of the step, which a :class:`Scheduler` puts into an optimizer.

    Lengths (``steps``): an int; a fraction of the total (``0.2`` or ``"20%"``); epochs (``"3ep"``); ``"untuned"``,
    which is 2/(1-β2) of the optimizer (arXiv:1910.04209); ``"rest"``, what the other phases leave. Next to a rest every
    fraction is rounded by itself, halves up; without one the boundaries are, so fractions of sum 1 cover the total.

    Args:
        start: value at the beginning, a multiplier of the base learning rate. Default 1. None makes a tail, which
            begins where what it is appended to ends.
        phases: made by the methods below, as a rule.
        after: what comes after the last step: ``"hold"`` (default) the final value, ``"raise"`` an error,
            ``"repeat"`` the schedule from its beginning.

    Raises:
        ValueError: a phase that cannot be, with its numbers and a remedy.

    >>> wsd = Schedule(start=0).to(1, 500).hold().to(0, 0.2, shape="sqrt")
    >>> f = wsd.resolve(10_000)
    >>> f(250), f(5_000), f(8_500)
    (0.5, 1.0, 0.5)
    >>> wsd.to_list()
    [{'start': 0.0, 'to': 1.0, 'steps': 500}, {'hold': 'rest'}, {'to': 0.0, 'steps': 0.2, 'shape': 'sqrt'}]
    >>> Schedule.from_list(wsd.to_list()) == wsd
    True
    """

    start: float | None = 1.0
    phases: tuple[Phase, ...] = ()
    after: str = "hold"

    def __post_init__(self) -> None:
        if self.start is not None:
            object.__setattr__(self, "start", finite("start", self.start))
        object.__setattr__(self, "phases", tuple(self.phases))
        choice("after", self.after, AFTER)

    @classmethod
    def tail(cls) -> Schedule:
        """A schedule without a start, to go on from another: ``s.splice(at, Schedule.tail().to(1, 200).hold())``."""
        return cls(start=None)

    # Phases

    def to(
        self,
        value: float,
        steps: Steps = None,
        *,
        shape: str | Curve = "linear",
        space: str = "linear",
        grid: str = "left",
    ) -> Schedule:
        """Go to ``value``: v0 + (value - v0)·q(p), where p is the progress in the phase.

        Args:
            value: where to go.
            steps: how long; default the rest. In 0 steps it is a jump.
            shape: q: ``linear`` p, ``cosine`` (1 - cos πp)/2, ``sqrt`` √p (the "1-sqrt" cooldown), ``square`` p²,
                ``mirror-cosine`` 2p - cosine, ``smoothstep`` p²(3-2p), ``rex`` 1 - (1-p)/(1-p/2), ``poly(k)``
                1 - (1-p)^k, ``exp0(r)`` (1-r^p)/(1-r), ``exp`` (linear in log space), ``package.module:function``, or a
                function p -> q.
            space: what is straight: the value (``linear``, default), its ``log``, or for the decay factor of an average
                its ``halflife``.
            grid: p at step s of n: ``left`` s/n (default; the target is met one step after the phase), ``open``
                (s+1)/(n+1) (neither end is used), ``right`` (s+1)/n (the last step is at the target), ``closed``
                s/(n-1) (both are used).
        """
        return self._with(To(value, steps, shape, space, grid))

    def hold(self, steps: Steps = None) -> Schedule:
        """Stay at the value, for the rest by default."""
        return self._with(Hold(steps))

    def jump(self, value: float) -> Schedule:
        """Be at ``value`` at once. Nothing else makes a schedule discontinuous."""
        return self._with(Jump(value))

    def decay(self, power: float = 0.5, steps: Steps = None, *, timescale: float | None = None) -> Schedule:
        """v0·(1 + s/timescale)^-power after s steps; timescale by default the step at which the phase begins."""
        return self._with(Decay(power, steps, timescale))

    def exp(self, gamma: float, steps: Steps = None) -> Schedule:
        """v0·gamma^s after s steps."""
        return self._with(Exp(gamma, steps))

    def table(self, values: Iterable[float], steps: Steps = None) -> Schedule:
        """v0 times ``values``, evenly spaced from the begin of the phase to its end, straight lines between."""
        return self._with(Table(tuple(values), steps))

    def repeat(
        self,
        block: Schedule,
        times: int | None = None,
        *,
        stretch: float = 1.0,
        scale: float = 1.0,
        steps: Steps = None,
    ) -> Schedule:
        """A block again and again, ``times`` or as often as fits; each x ``stretch`` as long and x ``scale`` as high.

        >>> sgdr = Schedule().repeat(Schedule.tail().jump(1).to(0, 10, shape="cosine"), stretch=2)
        >>> f = sgdr.resolve()
        >>> f(0), f(5), f(10), f(20), f(30)
        (1.0, 0.5, 1.0, 0.5, 1.0)
        """
        return self._with(Repeat(block, times, stretch, scale, steps))

    def _with(self, *phases: Phase) -> Schedule:
        return replace(self, phases=self.phases + phases)

    # Algebra

    @property
    def end(self) -> float | None:
        """The last value, where it does not depend on lengths; else None."""
        value = self.start
        for phase in self.phases:
            value = phase.end(value)
        return value

    def then(self, other: Schedule, *, jump: bool = False) -> Schedule:
        """This schedule and then another, which must begin where this one ends unless a ``jump`` between is meant."""
        if jump:
            return self._with(Jump(other.start), *other.phases)
        if other.start is not None and (self.end is None or not math.isclose(self.end, other.start, rel_tol=1e-9)):
            ends = "an end that depends on the lengths" if self.end is None else f"{self.end:g}"
            raise ValueError(
                f"the first schedule ends at {ends}, the second begins at {other.start:g}: join them with "
                "a.then(b, jump=True), or give the second as Schedule.tail()..."
            )
        return self._with(*other.phases)

    def __add__(self, other: Schedule) -> Schedule:
        return self.then(other) if isinstance(other, Schedule) else NotImplemented

    def __mul__(self, other: Schedule | float) -> Schedule:
        """The product step by step with another schedule or a number."""
        if not isinstance(other, Schedule):
            if isinstance(other, (bool, str)) or not isinstance(other, (int, float)):
                return NotImplemented
            other = Schedule(start=other).hold()
        return Schedule(None, (Product((self, other)),))

    __rmul__ = __mul__

    def clip(self, low: float | None = None, high: float | None = None) -> Schedule:
        """No lower than ``low``, no higher than ``high``."""
        return Schedule(None, (Clip(self, low, high),))

    def delay(self, steps: Steps) -> Schedule:
        """Stay at the start for so long first."""
        return replace(self, phases=(Hold(steps), *self.phases))

    def rescale(self, kappa: float) -> Schedule:
        """For a batch ``kappa`` times as large: lengths given in steps become 1/kappa of what they are.

        Fractions, epochs and "untuned" stay; a phase of a step or more keeps one.
        """
        positive("kappa (new batch size / old)", kappa)
        return replace(self, phases=tuple(phase.rescaled(kappa) for phase in self.phases))

    # Longer, shorter and other ends for a run that has begun

    def splice(self, at: Steps, tail: Schedule, *, total: int | None = None) -> Schedule:
        """The first ``at`` steps as here, then ``tail``, from the value there.

        Args:
            at: how many steps stay.
            tail: what comes then; of a schedule with a start that start must be the value there.
            total: what this schedule is resolved against if it has fractions or a rest. Default: what the result is.

        >>> rewarmed = Schedule(start=1).to(0, 100).splice(80, Schedule.tail().to(1, 10).to(0, 110))
        >>> f = rewarmed.resolve()
        >>> f(40), round(f(80), 9), f(90), f(200)
        (0.6, 0.2, 1.0, 0.0)
        """
        head = Schedule(None, (Head(self, at, checked_total(total)),), tail.after)
        return head._with(*((Jump(tail.start),) if tail.start is not None else ()), *tail.phases)

    def cooldown(self, at: int, steps: Steps, *, shape: str | Curve = "linear", to: float = 0.0) -> Schedule:
        """The first ``at`` steps as here, then down ``to`` a value in ``steps``."""
        return self.splice(at, Schedule.tail().to(to, steps, shape=shape))

    def branch(
        self, totals: Sequence[int], cooldown: float = 0.2, *, shape: str | Curve = "linear", to: float = 0.0
    ) -> list[Schedule]:
        """Runs of several lengths off one trunk, each with a cooldown of that fraction (in (0, 1)) at its end.

        >>> trunk = Schedule(start=0).to(1, 500).hold()
        >>> short, long = trunk.branch([10_000, 20_000])
        >>> short.resolve().total, short.resolve()(9_000), long.resolve()(9_000)
        (10000, 0.5, 1.0)
        >>> from optzoo.schedulers import shared_prefix
        >>> shared_prefix(short, long)  # a checkpoint at step 8000 serves both
        8001
        """
        if not 0 < finite("cooldown", cooldown) < 1:
            raise ValueError(f"cooldown must be a fraction of each total, in (0, 1), got {cooldown!r}")
        branches = []
        for total in totals:
            steps = max(1, math.floor(checked_total(total) * cooldown + 0.5))  # type: ignore[operator]
            branches.append(self.cooldown(total - steps, steps, shape=shape, to=to))
        return branches

    def extend(self, total: int, new_total: int, at: int | None = None, *, plan: str = "cooldown") -> Schedule:
        """This schedule of a run of ``total`` steps, for going on to ``new_total`` with what was trained up to ``at``.

        The plans are those of :func:`optzoo.schedulers.plan_extension`, which says what each costs: a longer
        ``"cooldown"``, a ``"step"`` down, or the ``"optimal"`` one of both.
        """
        from .theory import plan_extension

        choice("plan", plan, ("cooldown", "step", "optimal"))
        extended: Schedule = getattr(plan_extension(self, total, new_total, at), plan).schedule
        return extended

    @classmethod
    def refined(cls, norms: Any, **options: Any) -> Schedule:
        """The schedule refined from the gradient norms of a past run; see :func:`optzoo.schedulers.refine`."""
        from .refine import refine

        refined: Schedule = refine(norms, **options).schedule
        return refined

    # Lists

    @classmethod
    def from_list(cls, entries: Any, *, start: float | None = 1.0) -> Schedule:
        """What ``to_list`` or a person wrote: the first entry may also have ``start`` (default 1) and ``after``.

        ``{"refined": "norms.json", "kind": "adam"}`` stands for the schedule of :meth:`refined`; it takes
        ``steps`` too.
        """
        if isinstance(entries, (str, bytes, Mapping)) or not isinstance(entries, Iterable):
            raise TypeError(f"a schedule is a list of phases, such as [{{'to': 0, 'steps': 100}}], got {entries!r}")
        entries = list(entries)
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, Mapping):
                raise TypeError(f"phase {number} must be a mapping, such as {{'to': 0, 'steps': 100}}, got {entry!r}")
        header = {key: entries[0][key] for key in HEADER if entries and key in entries[0]}
        if header.pop("version", VERSION) != VERSION:
            raise ValueError(
                f"the list has version {entries[0]['version']!r}, this release reads {VERSION}: update optzoo"
            )
        phases: list[Phase] = []
        for number, entry in enumerate(entries, 1):
            body = {k: v for k, v in entry.items() if number > 1 or k not in HEADER}
            if "refined" in body:
                phases += cls._refined_phases(body, number)
            elif body or len(entries) > 1:
                phases.append(from_dict(body, number))
        if phases and phases[0].begins_itself:
            start = None
        return cls(**{"start": start, "phases": tuple(phases), **header})

    @classmethod
    def _refined_phases(cls, entry: dict[str, Any], number: int) -> list[Phase]:
        """What ``{"refined": norms, "kind": ...}`` stands for; ``steps`` is the length, by default the rest."""
        options = {key: value for key, value in entry.items() if key not in ("refined", "steps")}
        try:
            refined = cls.refined(entry["refined"], **options)
            return [replace(phase, steps=entry.get("steps")) for phase in refined.phases]  # type: ignore[call-arg]
        except (TypeError, ValueError, OSError) as error:
            raise ValueError(f"phase {number} (refined): {error}") from error

    def to_list(self) -> list[dict[str, Any]]:
        """Plain dicts, numbers and strings: what YAML, JSON and a checkpoint hold."""
        header: dict[str, Any] = {}
        if self.start is not None or not (self.phases and self.phases[0].begins_itself):
            header["start"] = self.start
        if self.after != "hold":
            header["after"] = self.after
        entries = [phase.to_dict() for phase in self.phases] or [{}]
        return [{**header, **entries[0]}, *entries[1:]]

    def __repr__(self) -> str:
        if any(isinstance(phase, (Product, Clip, Head)) or phase == Jump(None) for phase in self.phases):
            return f"Schedule.from_list({self.to_list()})"
        after = "" if self.after == "hold" else f", after={self.after!r}"
        begin = "Schedule.tail()" if self.start is None and not after else f"Schedule(start={shown(self.start)}{after})"
        return begin + "".join(phase.call for phase in self.phases)

    def __str__(self) -> str:
        return ", ".join(([] if self.start is None else [f"{self.start:g}"]) + [str(phase) for phase in self.phases])

    # Resolution

    def uses(self, steps: str) -> bool:
        """Whether any length is written so, here or in what phases hold."""
        return any(
            getattr(phase, "steps", None) == steps or any(part.uses(steps) for part in phase.parts)
            for phase in self.phases
        )

    @property
    def is_fixed(self) -> bool:
        """Whether all lengths are plain steps, so that no total is needed."""
        try:
            lengths = [phase.length(Run()) for phase in self.phases]
        except ValueError:
            return False
        return None not in lengths

    def resolve(
        self, total: int | None = None, *, steps_per_epoch: int | None = None, untuned: int | None = None
    ) -> Resolved:
        """The schedule as a function of the step.

        Args:
            total: number of optimizer steps of the run. Default None: there are no fractions, and only the last phase
                may be open-ended.
            steps_per_epoch: what lengths such as "3ep" count in.
            untuned: what "untuned" stands for; a Scheduler takes it from the optimizer.

        Raises:
            ValueError: phases that do not fit the total, with the numbers.
        """
        return self.resolve_in(Run(checked_total(total), checked_total(steps_per_epoch, "steps_per_epoch"), untuned))

    def resolve_in(self, run: Run) -> Resolved:
        """:meth:`resolve`, as phases that hold schedules call it."""
        if not self.phases:
            raise ValueError("the schedule has no phases: add hold(), to(...)")
        names = [str(phase) for phase in self.phases]
        lengths = share_out([phase.length(run) for phase in self.phases], names, run.total)
        segments, begin, value = [], 0, self.start
        for number, (phase, n) in enumerate(zip(self.phases, lengths, strict=True), 1):
            try:
                curve = phase.bind(value, begin, n, run)  # type: ignore[arg-type]
                value = None if n is None else curve(n)
            except OverflowError as error:
                raise ValueError(f"phase {number} ({phase}) is out of range: no float holds its {n} steps") from error
            except ValueError as error:
                raise ValueError(f"phase {number}: {error}" if len(self.phases) > 1 else str(error)) from error
            segments.append(Segment(begin, n, curve, phase))
            begin += n or 0
        return Resolved(self, segments, None if lengths[-1] is None else begin)

    def preview(self, total: int | None = None, width: int = 64, height: int = 6, **resolution: Any) -> str:
        """A picture in text, with the boundaries and what the first and the last step use; see :mod:`.preview`."""
        return self.resolve(total, **resolution).preview(width, height)
