"""Reading checkpoints: of this library, of older versions, and of torch.optim."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .options import MODES, describe, validate
from .scalars import precision

if TYPE_CHECKING:
    from .optimizer import Optimizer


OPTIMIZER = "optimizer"
"""Key of a state_dict beside torch's two: the class that wrote it. Distributed checkpoints do not keep it."""
ADOPT = "adopt"
"""Key of a state_dict whose options are not to be taken."""
_SHARED_WITH_TORCH = frozenset({"amsgrad", "decoupled_weight_decay"})
"""Variants that torch.optim's Adam has too, so that they say nothing about who wrote a file."""
_OURS_ONLY = "grams"
"""An option in every group of this library's, and of no other's."""
_TELLING = ("betas", "eps", "momentum", "whiten", "hessian")
"""Options by which update rules are told apart: where two have the same of these, their lr means the same."""
_OF_TORCH = frozenset({"exp_inf", "mu_product"})
"""State of torch.optim's optimizers that no optimizer here has."""


class Fitted(NamedTuple):
    """A checkpoint in the layout of the optimizer that loads it."""

    state_dict: dict[str, Any]
    warning: str
    """What the file says and does not hold here; empty if it is of the same class, or nothing of it matters."""


def fit(optimizer: Optimizer, incoming: Mapping[str, Any], adopting: bool) -> Fitted:
    """``incoming`` as a state_dict of ``optimizer``'s own layout, with all options its own if ``adopting``.

    ValueError where it does not fit; changes nothing.
    """
    owner = type(optimizer).__name__
    check_keys(owner, incoming)
    groups, saved_groups = optimizer.param_groups, incoming["param_groups"]
    if len(groups) != len(saved_groups):
        raise ValueError(f"the checkpoint has {len(saved_groups)} parameter groups, {owner} has {len(groups)}")
    reader = _Reader(optimizer, incoming, adopting)
    state = {}
    fitted_groups = []
    for number, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        keys = saved.get("params", ())
        if len(group["params"]) != len(keys):
            raise ValueError(
                f"group {number} of the checkpoint has {len(keys)} parameters, that of {owner} has "
                f"{len(group['params'])}"
            )
        _check_names(group, saved, number)
        fitted_group = reader.options(group, saved)
        steps = [int(incoming["state"][key]["step"]) for key in keys if "step" in incoming["state"].get(key, {})]
        optimizer.on_load(fitted_group, saved, max(steps, default=0))
        try:
            validate(owner, fitted_group, optimizer.defaults, optimizer._rules())
        except ValueError as error:
            raise ValueError(
                f"{error}, from the checkpoint; adopt(optimizer, state_dict) takes none of its options"
            ) from None
        fitted_groups.append(fitted_group)
        for index, key in enumerate(keys):
            if incoming["state"].get(key):
                options = {**fitted_group, "params": group["params"]}
                state[key] = reader.state(group, index, options, incoming["state"][key])
    of_parameters = {key for saved in saved_groups for key in saved.get("params", ())}
    others = {key: copy.deepcopy(value) for key, value in incoming["state"].items() if key not in of_parameters}
    fitted = {**incoming, "state": {**state, **others}, "param_groups": fitted_groups}
    return Fitted(fitted, reader.warning(fitted_groups))


def check_keys(owner: str, incoming: Mapping[str, Any]) -> None:
    """ValueError for what is no state_dict of an optimizer."""
    if not {"state", "param_groups"} <= incoming.keys():
        found = [key for key in incoming if key != ADOPT]
        raise ValueError(
            f"{owner}.load_state_dict takes what state_dict() of an optimizer returned, with the keys 'state' and "
            f"'param_groups'; this has {', '.join(map(repr, found[:3]))}"
        )


def check_sizes(owner: str, groups: Sequence[Mapping[str, Any]], incoming: Mapping[str, Any]) -> None:
    """ValueError where the groups of a state_dict, if it is one, are not as large as ``groups``."""
    check_keys(owner, incoming)
    ours = [len(group["params"]) for group in groups]
    theirs = [len(group.get("params", ())) for group in incoming["param_groups"]]
    if ours != theirs:
        raise ValueError(f"the groups of the checkpoint have {theirs} parameters, those of {owner} {ours}")


def restore(optimizer: Optimizer, fitted: Mapping[str, Any]) -> None:
    """Put back the precision of loaded buffers, and the home of step counts, where torch cast or moved them."""
    for group, saved in zip(optimizer.param_groups, fitted["param_groups"], strict=True):
        for param, key in zip(group["params"], saved["params"], strict=True):
            names = (*optimizer.buffer_names(group, param), *optimizer.scalar_buffers)
            state = optimizer.state.get(param, {})
            for name, value in fitted["state"].get(key, {}).items():
                if name == "step":
                    state[name] = count(value, param, group)
                elif name in names:
                    state[name] = like(param, value, optimizer.buffer_kind(name, param, group)[1])
                elif not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
                    state[name] = value  # torch makes a generator of a string
            if "step" in state:
                optimizer._complete_state(param, group)


def count(value: Any, param: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A step count, a tensor of its own where the group keeps them. (float32 ones stand still at 2²⁴.)"""
    device = param.device if group["capturable"] else torch.device("cpu")
    return torch.as_tensor(value, dtype=precision(device), device=device).detach().clone()


def like(param: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of ``value`` on the device and, if it has its shape, in the memory layout of ``param``."""
    if value.shape != param.shape or value.stride() == param.stride():
        return value.detach().to(param.device, dtype, copy=True)
    return torch.empty_like(param, dtype=dtype).copy_(value)


def constructed(group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``group`` for the parameters of a saved one."""
    return {**group, **{name: saved[name] for name in ("params", "param_names") if name in saved}}


# Who wrote a file


def is_of_another(optimizer: torch.optim.Optimizer, incoming: Mapping[str, Any]) -> bool:
    """Whether another optimizer than ``optimizer``, or than the one it wraps, wrote a state_dict.

    Files of torch.optim, of distributed checkpoints and of earlier versions do not say whose they are: what there is of
    options tells.
    """
    inner: Any = optimizer
    while hasattr(inner, "base_optimizer"):
        inner = inner.base_optimizer
    name, defaults = type(inner).__name__, inner.defaults
    if OPTIMIZER in incoming:
        return bool(incoming[OPTIMIZER] != name)
    groups = list(zip(inner.param_groups, incoming.get("param_groups", ()), strict=False))
    if not all(_related(defaults, saved) for _, saved in groups):
        return True
    variants: frozenset[str] = getattr(inner, "variants", frozenset())
    if not any(_OURS_ONLY in saved for _, saved in groups):
        fixed = variants & getattr(inner, "own_options", frozenset())
        lacking = "amsgrad" in defaults and not all("amsgrad" in saved for _, saved in groups)  # NAdam's and RAdam's
        return not hasattr(torch.optim, name) or lacking or _differ(groups, fixed)
    return bool(_options_of_others(inner) & {option for _, saved in groups for option in saved}) or _differ(
        groups, variants - _SHARED_WITH_TORCH
    )


def _related(ours: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Whether options are of one update rule."""
    kinds = [[type(group.get(name)) in (tuple, list) for name in _TELLING] for group in (ours, saved)]
    return kinds[0] == kinds[1] and all((name in ours) == (name in saved) for name in _TELLING)


def _differ(groups: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], options: Iterable[str]) -> bool:
    return any(name in saved and saved[name] != ours[name] for name in options for ours, saved in groups)


def _classes(top: type[Optimizer] | None = None) -> Iterator[type[Optimizer]]:
    """The optimizers of this library, and those derived of them."""
    from .optimizer import Optimizer

    for cls in (top or Optimizer).__subclasses__():
        yield cls
        yield from _classes(cls)


def _state_of(cls: type[Optimizer]) -> frozenset[str]:
    """All that a class may keep of a parameter, under whatever options."""
    return frozenset({"step", *cls.buffers, *cls.scalar_buffers, *cls.optional_buffers, *cls.recoverable})


def _options_of_others(optimizer: Any) -> frozenset[str]:
    """Options that other optimizers of this library have."""
    return frozenset(name for cls in _classes() for name in cls.rules if name not in optimizer.defaults)


class _Reader:
    """What an optimizer takes out of one file."""

    def __init__(self, optimizer: Optimizer, incoming: Mapping[str, Any], adopting: bool) -> None:
        self.optimizer, self.incoming, self.adopting = optimizer, incoming, adopting
        self.another = is_of_another(optimizer, incoming)
        groups = incoming["param_groups"]
        self.related = all(_related(optimizer.defaults, saved) for saved in groups)
        held = optimizer.variants if OPTIMIZER in incoming else optimizer.variants - _SHARED_WITH_TORCH
        self.held = optimizer.own_options | (held if self.another else set())
        self.names = _state_of(type(optimizer))
        self.dropped: frozenset[str] = frozenset()
        if self.another:
            self.dropped = _OF_TORCH.union(*map(_state_of, _classes()))
        counts = (isinstance(state, Mapping) and "step" in state for state in incoming["state"].values())
        self.fits = OPTIMIZER in incoming or any(_OURS_ONLY in saved for saved in groups) or any(counts)

    def options(self, ours: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
        """A saved group; our options where it has none, where they hold, and for the rest of a shorter tuple."""
        if self.adopting:
            return constructed(ours, saved)
        mine = {name: ours[name] for name in self.optimizer.defaults}
        foreign = _options_of_others(self.optimizer) if self.another else ()
        theirs = {name: value for name, value in self.optimizer.saved_options(saved).items() if name not in foreign}
        if self.another and not self.related:
            return {**theirs, **mine}
        group = {**mine, **theirs, **{name: ours[name] for name in self.held & mine.keys()}}
        for name, value in mine.items():
            if isinstance(value, tuple) and isinstance(group[name], (tuple, list)):
                group[name] = (*group[name], *value[len(group[name]) :])[: len(value)]
        return group

    def state(
        self, group: Mapping[str, Any], index: int, options: Mapping[str, Any], saved: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The state of one parameter: ours, and what users and wrappers of other libraries keep there."""
        optimizer, param = self.optimizer, group["params"][index]
        names = (*optimizer.buffer_names(options, param), *optimizer.scalar_buffers)
        known = self.names | self.dropped | set(names)
        kept = {name: copy.deepcopy(value) for name, value in saved.items() if name not in known}
        if len(kept) == len(saved) and self.fits:
            return kept
        missing = [name for name in ("step", *names) if name not in saved and name not in optimizer.recoverable]
        if missing:
            raise ValueError(
                f"{type(optimizer).__name__} needs {missing[0]!r} for {describe(group, index)}, where "
                f"{self._writer()} has {', '.join(map(repr, saved))}. Load it into the optimizer that wrote it, or "
                f"start afresh; adopt(optimizer, source) takes over from those that keep {missing[0]!r}"
            )
        state = {name: saved[name] for name in ("step", *names) if name in saved}
        for name in names:
            shape = tuple(optimizer.buffer_kind(name, param, options)[0])
            found = tuple(state[name].shape) if isinstance(state.get(name), Tensor) else state.get(name, shape)
            if found != shape:
                raise ValueError(
                    f"{name!r} of {describe(group, index)} has shape {found} in the checkpoint, here it has {shape}"
                )
        return {**state, **kept}

    def _writer(self) -> str:
        writer = self.incoming.get(OPTIMIZER, "another optimizer" if self.another else "")
        return f"the checkpoint of {writer}" if writer else "the checkpoint"

    def warning(self, fitted: Sequence[Mapping[str, Any]]) -> str:
        """What the file of another optimizer says that does not hold, and what does."""
        if self.adopting or not self.another:
            return ""
        says: dict[str, str] = {}
        holds: dict[str, str] = {}
        taken: dict[str, str] = {}
        for ours, saved, now in zip(self.optimizer.param_groups, self.incoming["param_groups"], fitted, strict=True):
            for name in [name for name in self.optimizer.defaults if name in saved and name not in MODES]:
                if not _same(now[name], saved[name]):
                    says.setdefault(name, f"{name}={saved[name]!r}")
                    holds.setdefault(name, f"{name}={now[name]!r}")
                elif not _same(now[name], ours[name]):
                    taken.setdefault(name, f"{name}={now[name]!r}")
        text = f"{type(self.optimizer).__name__} loads {self._writer()}"
        if says:
            text += f", which says {', '.join(says.values())}; kept: {', '.join(holds.values())}"
        if taken:
            text += f"; taken from it: {', '.join(taken.values())}"
        return (
            f"{text}. optzoo.optimizers.adopt(optimizer, state_dict) takes moments and step counts alone and keeps "
            "every option as constructed"
        )


def _same(ours: Any, theirs: Any) -> bool:
    ours, theirs = (value.tolist() if isinstance(value, Tensor) else value for value in (ours, theirs))
    return bool(ours == (tuple(theirs) if isinstance(theirs, list) else theirs))


def _check_names(group: Mapping[str, Any], saved: Mapping[str, Any], number: int) -> None:
    ours, theirs = group.get("param_names"), saved.get("param_names")
    if ours is None or theirs is None:
        return
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if _bare(our) != _bare(their):
            raise ValueError(
                f"parameter {index} of group {number} is {our!r} here and {their!r} in the checkpoint; build the "
                "parameter groups in the order they were saved in"
            )


def _bare(name: str) -> str:
    """The name without what torch.compile and DistributedDataParallel put before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")
