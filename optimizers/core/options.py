"""What a user may set: the options every optimizer shares, their ranges, and the errors that name what is wrong."""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, TypedDict, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn


class Options(TypedDict, total=False):
    """Keyword options of every optimizer here. Each lives in ``param_groups`` and may differ between groups.

    maximize: ascend instead of descend. Default False.
    foreach: update many small tensors with one call. None (default) chooses it where it is faster; False goes tensor by
        tensor. Both give the same bits.
    fused: one compiled pass over memory (``torch.compile``; needs a C++ compiler on CPU, Triton on GPU). Default None:
        off.
    capturable: keep step counts on the device, so that a step can be captured in a CUDA graph. Default False.
    cautious: drop the coordinates of the update whose sign disagrees with the gradient's (arXiv:2411.16085). Default
        False. Leave it off for embeddings with rare rows: coordinates with zero gradient count as disagreeing.
    cautious_scale: how a tensor's n kept of d coordinates are scaled up: ``"floor"`` (default) by 1/max(n/d, floor),
        ``"xi"`` by d/(n+1), None not at all (and without a reduction over the tensor).
    cautious_floor: the ``floor`` above, in (0, 1]. Default 1e-3, as the authors' code and timm.
    grams: give every coordinate of the update the gradient's sign (arXiv:2412.17107). Default False.
    differentiable: False, as in torch.optim, and no option in the groups: True is refused.
    """

    maximize: bool
    foreach: bool | None
    fused: bool | None
    capturable: bool
    cautious: bool
    cautious_scale: str | None
    cautious_floor: float
    grams: bool
    differentiable: Literal[False]


DEFAULTS: Options = {
    "maximize": False,
    "foreach": None,
    "fused": None,
    "capturable": False,
    "cautious": False,
    "cautious_scale": "floor",
    "cautious_floor": 1e-3,
    "grams": False,
}


MODES = frozenset({"foreach", "fused", "capturable"})
"""Those of them that say how to run, not what is computed."""


class Rule(NamedTuple):
    """A condition on an option's value, and how an error message words it."""

    holds: Callable[[Any], bool]
    wording: str


def _number(low: float, high: float = math.inf, low_open: bool = False) -> Callable[[Any], bool]:
    """In [low, high], or (low, high]; infinity and nan never are."""
    return lambda x: _is_number(x) and (low < x if low_open else low <= x) and x <= high and x != math.inf


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def one_of(*values: object) -> Rule:
    """One of these values (and of the same type: 1 is not True)."""
    wording = ", ".join(map(repr, values[:-1])) + f" or {values[-1]!r}"
    return Rule(lambda x: any(type(x) is type(v) and x == v for v in values), wording)


def optional(rule: Rule) -> Rule:
    """None, or what ``rule`` asks for."""
    return Rule(lambda x: x is None or rule.holds(x), f"None or {rule.wording}")


def _lr_holds(lr: object) -> bool:
    if isinstance(lr, Tensor):
        return lr.numel() == 1  # its value stays on the device unread
    return _number(0)(lr)


def betas(count: int) -> Rule:
    """A tuple of ``count`` decay factors."""
    return Rule(lambda x: _are_decay_factors(x) and len(x) == count, f"{count} numbers in [0, 1)")


def _are_decay_factors(x: object) -> bool:
    return isinstance(x, tuple) and all(_is_number(beta) and 0 <= beta < 1 for beta in x)


NON_NEGATIVE = Rule(_number(0), "a finite number >= 0")
POSITIVE = Rule(_number(0, low_open=True), "a finite number > 0")
DECAY = Rule(lambda x: _is_number(x) and 0 <= x < 1, "a number in [0, 1)")
FRACTION = Rule(_number(0, 1, low_open=True), "a number in (0, 1]")
STEPS = Rule(lambda x: x is None or _number(0)(x), "None or a number of steps >= 0")
_SWITCH, _CHOICE = one_of(True, False), one_of(None, True, False)

RULES: Mapping[str, Rule] = {
    "lr": Rule(_lr_holds, "a finite number >= 0 or a Tensor of one element"),
    "betas": Rule(_are_decay_factors, "a tuple of numbers in [0, 1)"),
    "eps": NON_NEGATIVE,
    "weight_decay": NON_NEGATIVE,
    "decoupled_weight_decay": _SWITCH,
    "maximize": _SWITCH,
    "foreach": _CHOICE,
    "fused": _CHOICE,
    "capturable": _SWITCH,
    "cautious": _SWITCH,
    "cautious_scale": one_of("floor", "xi", None),
    "cautious_floor": FRACTION,
    "grams": _SWITCH,
}


def validate(owner: str, group: dict[str, Any], defaults: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise for the first option of ``group`` that breaks its rule; make NumPy numbers, lists and dtypes plain.

    Plain values are what a checkpoint can hold under ``weights_only=True``. An lr may stay a tensor, for steps that are
    compiled or captured; tensors in a tuple, such as betas, are read once.
    """
    refuse_differentiable(owner, group)
    for name in [name for name in defaults if name in group]:
        value = group[name] = _plain(group[name])
        rule = rules.get(name)
        if rule is not None and not rule.holds(value):
            raise ValueError(f"{owner}: {name} must be {rule.wording}, got {value!r}{_remedy(value)}")
    if group.get("foreach") and group.get("fused"):
        raise ValueError(f"{owner}: foreach=True and fused=True exclude each other, choose one")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (list, tuple)):
        return tuple(v.item() if isinstance(v, Tensor) and v.numel() == 1 else _plain(v) for v in value)
    return value


def _remedy(value: object) -> str:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return " (a string; YAML reads 1e-3 as one, write 1.0e-3)"
    return ""


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an optimizer's own, out of the ``locals()`` its constructor begins with."""
    return {name: value for name, value in given.items() if name not in ("self", "params", "options", "__class__")}


def given_params(owner: str, params: Any) -> Any:
    """What a user gives as parameters as a list, but for a Tensor or a set, which torch.optim judges.

    Raises for what has parameters and is none: a model, a dict.
    """
    if isinstance(params, nn.Module) and not isinstance(params, nn.ParameterList):
        raise TypeError(
            f"{owner} takes parameters, got a module, {type(params).__name__}; give its .parameters() or, with names, "
            ".named_parameters()"
        )
    if isinstance(params, Mapping):
        raise TypeError(
            f"{owner} takes parameters, got a {type(params).__name__} with the keys "
            f"{', '.join(map(repr, list(params)[:3]))}; give a list of such dicts if it is a group, or its .items() if "
            "it has parameters by name"
        )
    return params if isinstance(params, (Tensor, set)) else list(params)


def refuse_differentiable(owner: str, options: Mapping[str, Any]) -> None:
    """Raise for torch.optim's ``differentiable=True``; False is what steps are here."""
    if options.get("differentiable"):
        raise TypeError(
            f"{owner}: 'differentiable' must be False, got {options['differentiable']!r}: steps are made in place, and "
            "autograd does not follow them; torch.optim.Adam and others there can"
        )


def reject_unknown(owner: type, unknown: Iterable[str]) -> NoReturn:
    """TypeError for keywords the constructor of ``owner`` does not take, naming the nearest it does."""
    valid = [name for name in inspect.signature(owner).parameters if name != "params"]
    name = sorted(unknown)[0]
    raise TypeError(f"{owner.__name__} has no option {name!r}; {nearest(name, valid, 'it takes')}")


def warn_of_near_misses(owner: str, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Of keys that a user has misspelt: as in torch.optim a group keeps all keys, those of schedules and hooks too."""
    for name in group.keys() - defaults.keys():
        near = difflib.get_close_matches(str(name), defaults, n=1, cutoff=0.85)
        if near and near[0] not in group:
            warnings.warn(
                f"{owner}: a group has {name!r}, which is no option; did you mean {near[0]!r}? It is kept, and does "
                "nothing",
                stacklevel=4,
            )


def nearest(name: str, valid: Iterable[str], otherwise: str) -> str:
    """The hint of an error about an unknown name: the valid one next to it, or all of them."""
    valid = list(valid)
    by_lower_case = {item.lower(): item for item in valid}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.5)
    return f"did you mean {by_lower_case[near[0]]!r}?" if near else f"{otherwise} {', '.join(valid)}"


def expand_signature(owner: type) -> inspect.Signature:
    """The constructor's signature with ``**options`` spelled out, for help(), IDEs and command-line parsers."""
    constructor = inspect.signature(inspect.getattr_static(owner, "__init__"), eval_str=True)
    own = [p for p in constructor.parameters.values() if p.name != "self"]
    annotations = get_type_hints(Options)
    presets: Mapping[str, Any] = getattr(owner, "presets", {})
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=presets.get(name, default), annotation=annotations[name]
        )
        for name, default in DEFAULTS.items()
    ]
    return inspect.Signature([p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD] + shared)


def describe(group: Mapping[str, Any], index: int) -> str:
    """How an error message calls the parameter ``index`` of a group."""
    names = group.get("param_names")
    shape = tuple(group["params"][index].shape)
    return f"parameter {names[index]!r}" if names else f"parameter {index} of its group (shape {shape})"


def named(names: Sequence[str], most: int = 3) -> str:
    """The first few of some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def missing_arguments(make: Callable[..., Any], given: Mapping[str, Any]) -> list[str]:
    """Arguments beside the first that a call of ``make`` needs and ``given`` lacks."""
    try:
        parameters = list(inspect.signature(make).parameters.values())[1:]
    except (TypeError, ValueError):  # a builtin, say, which has no signature
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in named and p.default is p.empty and p.name not in given]
