"""Hyper-parameters for another batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from optzoo.unwrapping import unwrapped

RULES: dict[str, Callable[[float], float]] = {"linear": float, "sqrt": math.sqrt}
MEMORIES = ("sde", "halflife", "keep")
_LRS = ("lr", "initial_lr")
_AVERAGES = ("betas", "beta1", "beta2", "beta3", "beta2_cap")
_LENGTHS = (
    *("total", "total_steps", "max_steps", "num_training_steps", "T_max"),
    *("warmup", "warmup_steps", "num_warmup_steps", "cooldown", "cooldown_steps"),
    *("beta3_warmup", "alpha_warmup", "schedule_start", "lookahead_k"),
)
_PARAMETERS = ("params", "param_names")
_RULE_BY_OPTION = {"betas": "sqrt", "centered": "sqrt", "dampening": "linear"}


class Change(NamedTuple):
    """A setting that differs, and by which rule."""

    group: int | None
    name: str
    before: Any
    after: Any
    why: str


@dataclass(frozen=True)
class BatchScaling:
    """What :func:`batch_scaling` proposes; ``print`` it for the table."""

    settings: dict[str, Any] | list[dict[str, Any]]
    """The new settings: a dict as the one given, or one per group of the optimizer."""
    changes: tuple[Change, ...]
    table: str
    optimizer: Any = None

    def apply(self) -> None:
        """Set the new values in the optimizer's groups and defaults; its state stays as it is.

        Raises:
            TypeError: it was not an optimizer that was given.
        """
        if self.optimizer is None:
            raise TypeError("apply() is for optimizers; of plain settings take .settings")
        optimizer, kept = self.optimizer, self.optimizer.param_groups
        for change in self.changes:
            owner = optimizer.defaults if change.group is None else kept[change.group]
            if hasattr(owner[change.name], "fill_"):  # a captured graph holds the Tensor
                owner[change.name].fill_(float(change.after))
            else:
                owner[change.name] = change.after

    def __str__(self) -> str:
        return self.table


def batch_scaling(
    optimizer_or_settings: Any,
    factor: float,
    rule: str | None = None,
    *,
    betas: str | None = None,
    decoupled_weight_decay: bool | None = None,
) -> BatchScaling:
    """Hyper-parameters for a batch ``factor`` = κ times as large and the same number of samples.

    On the SDEs and Scaling Rules for Adaptive Gradient Algorithms (Malladi, Lyu, Panigrahi & Arora, 2022,
    arXiv:2205.10287); for SGD the linear rule (Goyal et al., 2017, arXiv:1706.02677).

        rule                     ``"linear"``, SGD      ``"sqrt"``, Adam, RMSprop and others that normalise
        lr                       κ lr                   √κ lr
        momentum, betas          kept                   1 - β → κ (1 - β)
        eps                      -                      eps / √κ
        weight decay, decoupled  kept                   √κ λ
        weight decay, L2         kept                   kept
        lengths in steps         / κ                    / κ
        decay ρ of weight EMAs   ρ^κ                    ρ^κ

    The rules keep a run the same where gradient noise dominates; beyond the critical batch size none helps. Those for
    L2 with Adam, and for Lion, follow the same derivation and are not in the paper.

    Names it knows: lr, betas (of any number), beta1, beta2, beta3, beta2_cap, momentum, alpha (RMSprop's, next to
    ``centered``), eps, weight_decay, decoupled_weight_decay, ema_decay, batch_size, lengths (total, total_steps,
    max_steps, warmup, warmup_steps, cooldown, cooldown_steps, AdEMAMix's beta3_warmup and alpha_warmup, Lookahead's k
    ...; fractions of the run stay) and Schedules, by ``rescale``. Others stay, and the table says which. Where heavy
    ball momentum is changed, so is lr, for its steps are 1/(1-μ) times lr.

    Args:
        optimizer_or_settings: an optimizer of torch or of this library, which is not changed unless ``apply()`` is
            called, or a dict of settings.
        factor: κ, new batch size over the old, > 0.
        rule: ``"linear"`` or ``"sqrt"``. Default None: by the options there are, linear for SGD, sqrt with betas or
            for RMSprop.
        betas: how averages follow: ``"sde"`` 1 - β → κ(1-β), for which κ(1-β) must be < 1; ``"halflife"`` β^κ, the
            same memory in samples, equal to first order; ``"keep"``. Default None: sde for sqrt, keep for linear.
        decoupled_weight_decay: whether weight_decay is AdamW's, where the settings do not say so. Default None: they
            must, for the square root rule.

    Raises:
        ValueError: an argument or setting out of its range, no rule for this optimizer, or an average too short for
            ``"sde"``.
        TypeError: neither an optimizer nor a dict.

    >>> adam = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, warmup=2000, cooldown=0.2)
    >>> print(batch_scaling(adam, 4, decoupled_weight_decay=True))
    batch x 4, sqrt rule, same number of samples
    lr            0.001         -> 0.002         x √4
    betas         (0.9, 0.999)  -> (0.6, 0.996)  1 - β x 4
    eps           1e-08         -> 5e-09         / √4
    weight_decay  0.01          -> 0.02          x √4
    warmup        2000          -> 500           / 4
    unchanged: cooldown
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    >>> batch_scaling(optimizer, 2).apply()
    >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]
    (0.2, 0.9)
    """
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
        raise ValueError(f"batch_scaling: factor must be new batch size / old, a finite number > 0, got {factor!r}")
    if rule is not None and rule not in RULES:
        raise ValueError(f"batch_scaling: rule must be 'linear', 'sqrt' or None, got {rule!r}")
    if betas is not None and betas not in MEMORIES:
        raise ValueError(f"batch_scaling: betas must be {', '.join(map(repr, MEMORIES))} or None, got {betas!r}")
    given = unwrapped(optimizer_or_settings)
    if decoupled_weight_decay is None and type(given).__module__.startswith("torch.optim."):
        decoupled_weight_decay = {"Adam": False, "AdamW": True}.get(type(given).__name__)  # groups say it from 2.7 on

    def scaled(options: Mapping[str, Any], group: int | None = None) -> _Scaled:
        chosen = rule or next((found for option, found in _RULE_BY_OPTION.items() if option in options), None)
        if chosen is None:
            owner = "settings with " + ", ".join(options) if options is given else type(given).__name__
            raise ValueError(
                f"batch_scaling: no rule is known for {owner}; choose rule='linear' where steps are proportional to "
                "the gradient, rule='sqrt' where they are normalised as Adam's"
            )
        return _scale(options, group, factor, chosen, betas, decoupled_weight_decay)

    if isinstance(given, Mapping):
        one = scaled(given)
        return BatchScaling({**given, **one.new}, one.changes, _table([one], factor))
    if not hasattr(given, "param_groups"):
        raise TypeError(f"batch_scaling takes an optimizer or a dict of settings, got {type(given).__name__}")
    groups = [{name: value for name, value in group.items() if name not in _PARAMETERS} for group in given.param_groups]
    each = [scaled(group, index) for index, group in enumerate(groups)]
    changes = sum((one.changes for one in each), ()) + scaled(given.defaults).changes
    settings = [{**group, **one.new} for group, one in zip(groups, each, strict=True)]
    return BatchScaling(settings, changes, _table(each, factor), given)


class _Scaled(NamedTuple):
    changes: tuple[Change, ...]
    unchanged: set[str]
    rule: str

    @property
    def new(self) -> dict[str, Any]:
        return {change.name: change.after for change in self.changes}


def _scale(
    options: Mapping[str, Any], group: int | None, factor: float, rule: str, betas: str | None, decoupled: bool | None
) -> _Scaled:
    if "centered" in options:  # RMSprop's is L2
        decoupled = False
    decoupled = options.get("decoupled_weight_decay", decoupled)
    if rule == "sqrt" and decoupled is None and options.get("weight_decay"):
        raise ValueError(
            f"batch_scaling: weight_decay={options['weight_decay']!r} may be AdamW's or L2; say "
            "decoupled_weight_decay=True or False"
        )
    scaling = _Scaling(factor, rule, betas or ("sde" if rule == "sqrt" else "keep"), bool(decoupled), options)
    changes = []
    for name, before in options.items():
        after, why = scaling.of(name, before)
        if why and not (type(after) is type(before) and bool(after == before)):
            changes.append(Change(group, name, before, after, why))
    return _Scaled(tuple(changes), set(options) - {change.name for change in changes}, rule)


class _Scaling(NamedTuple):
    """The rules, over the options of one group."""

    factor: float
    rule: str
    betas: str
    decoupled: bool
    options: Mapping[str, Any]

    def of(self, name: str, value: Any) -> tuple[Any, str]:
        """The new value of an option, and the reason; without one it stays."""
        kappa = f"{self.factor:g}"
        by_rule, root = RULES[self.rule](self.factor), f"√{kappa}"
        is_number = not isinstance(value, bool) and isinstance(value, (int, float))
        if value is None:
            return value, ""
        if name in _LRS:
            gain = self._gain()
            why = f"x {root if self.rule == 'sqrt' else kappa}"
            return _checked(name, value) * by_rule * gain, why + (f" x {gain:g}, for momentum" if gain != 1 else "")
        if name in _AVERAGES or name == "momentum" or (name == "alpha" and "centered" in self.options):
            if self.betas == "keep":
                return value, ""
            why = f"1 - β x {kappa}" if self.betas == "sde" else f"β^{kappa}"
            if isinstance(value, (tuple, list)):
                return type(value)(self._average(f"{name}[{i}]", beta) for i, beta in enumerate(value)), why
            return self._average(name, value), why
        if name == "eps" and self.rule == "sqrt" and is_number:
            return _checked(name, value) / by_rule, f"/ {root}"
        if name == "weight_decay" and self.rule == "sqrt" and self.decoupled and value:
            return _checked(name, value) * by_rule, f"x {root}"
        if name == "ema_decay":
            return _checked(name, value, below=1) ** self.factor, f"ρ^{kappa}"
        if name == "batch_size":
            return _whole(value * self.factor), f"x {kappa}"
        if name in _LENGTHS and is_number and isinstance(value, int) and value > 0:
            exact = value / self.factor
            return _whole(exact), f"/ {kappa}" + ("" if exact == _whole(exact) else f" = {exact:g}, rounded")
        if hasattr(value, "rescale"):
            return value.rescale(self.factor), f"lengths / {kappa}"
        return value, ""

    def _average(self, name: str, given: Any) -> float:
        beta: float = float(_checked(name, given, below=1))
        if beta == 0:  # which is no average
            return beta
        halflife: float = beta**self.factor
        if self.betas == "halflife":
            return halflife
        if self.factor * (1 - beta) >= 1:
            raise ValueError(
                f"batch_scaling: {name}={beta:g} at {self.factor:g} times the batch size would become "
                f"{1 - self.factor * (1 - beta):g}, factor must be < 1/(1-β) = {1 / (1 - beta):g}; choose "
                f"betas='halflife', which gives {halflife:g}"
            )
        return 1 - self.factor * (1 - beta)

    def _gain(self) -> float:
        """What lr must be multiplied with where the sum of heavy ball's momentum changes."""
        momentum = float(self.options.get("momentum") or 0.0)
        heavy_ball = self.rule == "linear" or "dampening" in self.options or "centered" in self.options
        if not momentum or not heavy_ball or self.betas == "keep":
            return 1.0
        return (1 - self._average("momentum", momentum)) / (1 - momentum)


def _checked(name: str, value: Any, below: float = math.inf) -> Any:
    """A number or a Tensor of one, in its range."""
    try:
        holds = not isinstance(value, (bool, str)) and 0 <= float(value) < below
    except (TypeError, ValueError):
        holds = False
    if not holds:
        raise ValueError(f"batch_scaling: {name} must be a number in [0, {below:g}), got {value!r}")
    return value


def _whole(value: float) -> int:
    """Rounded, halves up, and no less than 1."""
    return max(1, math.floor(value + 0.5))


def _table(each: list[_Scaled], factor: float) -> str:
    rows = [
        [
            (f"group {change.group} " if len(each) > 1 else "") + change.name,
            _shown(change.before),
            "-> " + _shown(change.after),
            change.why,
        ]
        for one in each
        for change in one.changes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = f"batch x {factor:g}, {each[0].rule} rule, same number of samples"
    unchanged = set.intersection(*(one.unchanged for one in each))
    return "\n".join([head, *lines, "unchanged: " + (", ".join(sorted(unchanged)) or "nothing")])


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_shown, value)) + ")"
    if hasattr(value, "rescale"):
        return str(value)
    try:
        return f"{float(value):.6g}"
    except (TypeError, ValueError):
        return str(value)
