"""One optimizer under observation: when its steps are measured, and what is made of the numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from optzoo.optimizers.core.buckets import sharding
from optzoo.optimizers.core.eager import eager
from optzoo.optimizers.core.reductions import gathered
from optzoo.optimizers.core.reports import Reported, Reporter, Reporting
from optzoo.optimizers.core.rule import working_dtype
from optzoo.optimizers.core.scalars import precise

from ._measure import Row, Sketch, dots, home_of, over_ranks, part_of, sent, square_sums
from ._names import group_names
from ._values import filled, flat, mean, read

if TYPE_CHECKING:
    from .update_norms import UpdateNorms

Write: TypeAlias = Callable[[dict[str, float], dict[str, Tensor], int], None]
"""Takes the numbers and the updates of a logged step by key, and how many steps the optimizer has made."""

MOMENTA = ("exp_avg", "momentum_buffer")
"""What torch's optimizers and most others call the moving average of gradients in their state."""

_COLUMNS = {
    "update_norm": ("update",),
    "update_ratio": ("update", "weight"),
    "grad_norm": ("grad",),
    "grad_norm_clipped": ("clipped",),
    "weight_norm": ("weight",),
    "update_momentum_cos": ("moved", "momentum", "dot"),
}
"""The sums over coordinates that a quantity is made of."""

Sums: TypeAlias = "dict[str, float]"
Labels: TypeAlias = "dict[Tensor, tuple[str, str]]"
"""The name of each parameter, and of what it is logged as part of."""


@dataclass
class _Start:
    """What is known of a step before it is made."""

    params: list[Tensor]
    weight: Tensor
    copies: list[Tensor] | None
    sketch: Sketch | None


@dataclass
class _Gradients:
    """What is known of the gradients before they are clipped."""

    params: list[Tensor]
    squares: Tensor
    unscaled: bool
    """What a GradScaler put on them is out of the squares already."""


class Watch:
    """One optimizer under observation."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        settings: UpdateNorms,
        labels: Callable[[], Labels],
        write: Write,
        prefix: str,
    ) -> None:
        self.optimizer, self.settings, self.labels, self.prefix = optimizer, settings, labels, prefix
        self.steps = 0
        """Steps made so far."""
        self._write = write
        self._start: _Start | None = None
        self._unclipped: _Gradients | None = None
        self._outside: dict[str, int] = {}
        self._warned: set[str] = set()
        self._hooks: list[Any] = []

    def start(self, steps: int, at_step: bool) -> None:
        """Go on counting from ``steps``, and measure the steps that ``before`` is called for.

        at_step: call it as the first thing of every step, closures come later.
        """
        self.steps = steps
        self._hooks = [self.optimizer.register_step_post_hook(self._after)]
        if at_step:
            self._hooks.append(self.optimizer.register_step_pre_hook(self._at_step))

    def stop(self) -> None:
        """Leave the optimizer alone."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.forget()

    @property
    def due(self) -> bool:
        """Whether the next step is to be logged."""
        return (self.steps + 1) % self.settings.every_n_steps == 0

    @eager
    @torch.no_grad()
    def before(self) -> None:
        """Called before a step changes the parameters; again, if a closure runs again, which leaves it as it was."""
        if not self.due or self._start is not None:
            return
        params = self._params()
        if not params:
            return
        local = [part_of(p, p) for p in params]
        weight = square_sums([(t,) for t in local], home_of(params))
        low_memory = self.settings.low_memory
        self._start = _Start(
            params,
            weight,
            None if low_memory or not self._updates else [_copy(t) for t in local],
            Sketch(params) if low_memory and self._updates else None,
        )
        if isinstance(self.optimizer, Reporting) and "optimizer" in self.settings.quantities:
            self.optimizer.record()

    @eager
    @torch.no_grad()
    def before_clipping(self, scale: Tensor | None = None) -> None:
        """Called when the gradients are complete and not clipped yet; ``scale``: what a GradScaler has put on them."""
        if not self.due or "grad_norm" not in self.settings.quantities:
            return
        params = self._params()
        if params:
            squares = square_sums(_gradients(params), home_of(params))
            if scale is not None:
                squares = squares / precise(scale).square()
            self._unclipped = _Gradients(params, squares, unscaled=scale is not None)

    def forget(self) -> None:
        """Drop what is known of a step that was not made."""
        if self._start is None and self._unclipped is None:
            return
        self._start = self._unclipped = None
        if isinstance(self.optimizer, Reporting):
            self.optimizer.record(False)

    @eager
    def _at_step(self, *_: Any) -> None:
        self._start = None  # of a step that raised
        self.before()

    @eager
    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        self.steps += 1
        if self._start is None:
            return
        try:
            measured = self._measure(self._start)
        finally:
            self.forget()
        if measured is not None:
            self._write(*measured, self.steps)

    @property
    def _updates(self) -> bool:
        return bool(self._wanted & {"update", "moved"}) or self.settings.histogram

    @property
    def _reports(self) -> bool:
        return isinstance(self.optimizer, Reporter) and bool({"lr", "optimizer"} & {*self.settings.quantities})

    @property
    def _wanted(self) -> set[str]:
        return {column for quantity in self.settings.quantities for column in _COLUMNS.get(quantity, ())}

    def _params(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    # On the device

    def _measure(self, start: _Start) -> tuple[dict[str, float], dict[str, Tensor]] | None:
        """The numbers of the step just made, read with one sync; None if it was not made after all."""
        params, home = start.params, home_of(start.params)
        columns = self._columns(start)
        matrix = over_ranks(list(columns.values()), params)
        optimizer: Any = self.optimizer
        report: Mapping[str, Reported] = optimizer.report() if self._reports else {}
        lrs = [group.get("lr") for group in self.optimizer.param_groups]
        scale, skipped = (getattr(self.optimizer, name, None) for name in ("grad_scale", "found_inf"))
        sketched = None if start.sketch is None else start.sketch.square_sum(home)
        table, numbers = read(matrix, [scale, skipped, sketched, *lrs, *flat(report)])
        if numbers[1]:  # an optimizer that unscales gradients itself, and found some that are not finite
            return None
        rows: list[Sums] = [dict(zip(columns, row, strict=True)) for row in table]
        if scale is not None and "grad" in columns and self._unclipped is not None and not self._unclipped.unscaled:
            for row in rows:
                row["grad"] /= numbers[0] ** 2
        total = {name: sum(row[name] for row in rows) for name in columns}
        if sketched is not None:
            total["update"] = max(numbers[2], 0.0)
        labels = self.labels()
        scalars = self._sizes(params, rows, total, labels)
        values = iter(numbers[3:])
        lrs = [None if lr is None else value for lr, value in zip(lrs, values, strict=False)]
        scalars |= self._reported(filled(report, values), lrs, labels)
        histograms = self._histograms(start, labels) if self.settings.histogram else {}
        return (
            {f"{self.prefix}{key}": value for key, value in scalars.items()},
            {f"{self.prefix}{key}": value for key, value in histograms.items()},
        )

    def _columns(self, start: _Start) -> dict[str, Tensor]:
        """Sums over coordinates of this rank's shards, by parameter."""
        params, home = start.params, home_of(start.params)
        wanted = self._wanted
        columns = {"weight": start.weight}
        if "clipped" in wanted:
            columns["clipped"] = square_sums(_gradients(params), home)
        before = self._unclipped
        if "grad" in wanted and before is not None and list(map(id, before.params)) == list(map(id, params)):
            columns["grad"] = before.squares
        if start.copies is None:
            return columns
        torch._foreach_sub_(start.copies, [part_of(p, p) for p in params])  # θ - θ', in the copy's memory and precision
        columns["update"] = square_sums([(step,) for step in start.copies], home)
        if "dot" in wanted:
            momenta = [_momentum(self.optimizer.state.get(p, {}), p) for p in params]
            known = [m is not None for m in momenta]
            if any(known):
                pairs: list[Row] = [
                    None if m is None else (step, m) for step, m in zip(start.copies, momenta, strict=True)
                ]
                columns["momentum"] = square_sums([None if m is None else (m,) for m in momenta], home)
                columns["moved"] = columns["update"] * sent(torch.tensor(known), home)
                columns["dot"] = dots(pairs, home)
        return columns

    def _histograms(self, start: _Start, labels: Labels) -> dict[str, Tensor]:
        """θ' - θ of whole parameters, on the host."""
        steps = {}
        for p, step in zip(start.params, start.copies or (), strict=True):
            name, label = labels[p]
            if self.settings.per == "total" or self.settings.includes(label):
                shape = (*p.shape, 2) if p.is_complex() else tuple(p.shape)
                steps[f"update/{name}"] = gathered(step.neg(), sharding(p), shape).float().cpu()
        return steps

    # On the host

    def _sizes(self, params: Sequence[Tensor], rows: Sequence[Sums], total: Sums, labels: Labels) -> dict[str, float]:
        """Norms and what is made of them."""
        parts: dict[str, Sums] = {}
        for p, row in zip(params, rows, strict=True):
            label = labels[p][1]
            if self.settings.includes(label):
                part = parts.setdefault(label, dict.fromkeys(row, 0.0))
                for name, value in row.items():
                    part[name] += value
        scalars = {}
        for quantity in self.settings.quantities:
            needed = _COLUMNS.get(quantity, ())
            if not needed:
                continue
            if not total.keys() >= set(needed):
                self._warn_missing(quantity)
                continue
            for label, sums in [*parts.items(), ("total", total)]:
                if sums.keys() >= set(needed):
                    scalars[f"{quantity}/{label}"] = _quantity(quantity, sums)
        if self.settings.ratio_band is not None:
            prefix = "update_ratio/"
            ratios = {key.removeprefix(prefix): ratio for key, ratio in scalars.items() if key.startswith(prefix)}
            self._check(ratios if self.settings.per == "total" else {k: ratios[k] for k in parts if k in ratios})
        return scalars

    def _reported(
        self, report: dict[str, float | dict[Tensor, float]], lrs: Sequence[float | None], labels: Labels
    ) -> dict[str, float]:
        """Learning rates of the groups, and what the optimizer reports."""
        effective = report.pop("lr", {})
        scalars = {}
        if "lr" in self.settings.quantities:
            for name, group, lr in zip(group_names(self.optimizer), self.optimizer.param_groups, lrs, strict=True):
                if isinstance(effective, dict):
                    own = {p: effective[p] for p in group["params"] if p in effective}
                    lr = mean(own) if own else lr
                else:
                    lr = effective
                if lr is not None:
                    scalars[f"lr/{name}"] = lr
            if not scalars:
                self._warn_missing("lr")
        if "optimizer" not in self.settings.quantities:
            return scalars
        if not report:
            self._warn_missing("optimizer")
        for name, reported in report.items():
            if not isinstance(reported, dict):
                scalars[f"optimizer/{name}"] = reported
                continue
            parts: dict[str, dict[Tensor, float]] = {}
            for p, value in reported.items():
                if p in labels and self.settings.includes(labels[p][1]):
                    parts.setdefault(labels[p][1], {})[p] = value
            scalars[f"optimizer/{name}"] = mean(reported)
            scalars |= {f"optimizer/{name}/{label}": mean(part) for label, part in parts.items()}
        return scalars

    # Warnings

    def _check(self, ratios: Mapping[str, float]) -> None:
        """Count for how many logged steps each ratio has been outside the band, and warn when it is enough."""
        low, high = self.settings.ratio_band or (0.0, math.inf)
        found = []
        for name, ratio in ratios.items():
            inside = low <= ratio <= high or math.isnan(ratio)
            self._outside[name] = 0 if inside else self._outside.get(name, 0) + 1
            if self._outside[name] >= self.settings.ratio_patience and f"ratio {name}" not in self._warned:
                self._warned.add(f"ratio {name}")
                found.append(f"{name} ({ratio:.2g})")
        if found:
            _warn(
                f"{self.prefix}update_ratio has been outside [{low:g}, {high:g}] at {self.settings.ratio_patience} "
                f"logged steps running, at step {self.steps} of {', '.join(found)}"
            )

    def _warn_missing(self, quantity: str) -> None:
        if not self.settings.explicit or quantity in self._warned:
            return
        self._warned.add(quantity)
        why = {
            "grad_norm": "the gradients before clipping were not shown; call before_clipping() after backward()",
            "update_momentum_cos": f"its state has no {' or '.join(MOMENTA)}",
            "lr": "its groups have no lr, and it reports none",
            "optimizer": "it has no report()",
        }.get(quantity, "it was not measured")
        _warn(f"{quantity} is not logged of {type(self.optimizer).__name__}: {why}")


def _quantity(name: str, sums: Sums) -> float:
    root = {column: math.sqrt(max(value, 0.0)) for column, value in sums.items() if column != "dot"}
    if name == "update_ratio":
        return root["update"] / root["weight"] if root["weight"] else math.nan
    if name == "update_momentum_cos":
        length = root["moved"] * root["momentum"]
        return sums["dot"] / length if length else math.nan
    return root[_COLUMNS[name][0]]


def _gradients(params: Sequence[Tensor]) -> list[Row]:
    return [None if p.grad is None else (part_of(p, p.grad),) for p in params]


def _copy(t: Tensor) -> Tensor:
    """In the precision of differences: those of two bfloat16 numbers are not numbers of bfloat16."""
    wide = t.to(working_dtype(t.dtype))
    return t.clone() if wide is t else wide


def _momentum(state: Mapping[str, Any], param: Tensor) -> Tensor | None:
    """This rank's part of a parameter's momentum, if it has one."""
    found = next((state[name] for name in MOMENTA if isinstance(state.get(name), Tensor)), None)
    return None if found is None or found.shape != param.shape else part_of(param, found)


def _warn(text: str) -> None:
    """Once for all ranks."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0:
        warnings.warn(text, stacklevel=2)
