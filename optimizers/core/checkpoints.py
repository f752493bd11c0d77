"""Reading checkpoints: of this library, of older versions, and of torch.optim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .options import describe, validate

if TYPE_CHECKING:
    from .optimizer import Optimizer


def fit(optimizer: Optimizer, incoming: Mapping[str, Any], adopting: bool) -> dict[str, Any]:
    """``incoming`` as a state_dict of ``optimizer``'s own layout, with all options its own if ``adopting``.

    ValueError where it does not fit; changes nothing.
    """
    owner = type(optimizer).__name__
    if not {"state", "param_groups"} <= incoming.keys():
        raise ValueError(
            f"{owner}.load_state_dict takes what state_dict() of an optimizer returned, with the keys 'state' and "
            f"'param_groups'; this has {', '.join(map(repr, list(incoming)[:3]))}"
        )
    groups, saved_groups = optimizer.param_groups, incoming["param_groups"]
    if len(groups) != len(saved_groups):
        raise ValueError(f"the checkpoint has {len(saved_groups)} parameter groups, {owner} has {len(groups)}")
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
        fitted_group = _adopted(group, saved) if adopting else _resumed(optimizer, group, saved)
        steps = [int(incoming["state"][key]["step"]) for key in keys if "step" in incoming["state"].get(key, {})]
        optimizer.on_load(fitted_group, saved, max(steps, default=0))
        validate(owner, fitted_group, optimizer.defaults, optimizer._rules())
        fitted_groups.append(fitted_group)
        for index, key in enumerate(keys):
            if incoming["state"].get(key):
                state[key] = _fit_state(
                    optimizer, group, index, {**fitted_group, "params": group["params"]}, incoming["state"][key]
                )
    return {**incoming, "state": state, "param_groups": fitted_groups}


def restore(optimizer: Optimizer, fitted: Mapping[str, Any]) -> None:
    """Put back the precision of loaded buffers, and the home of step counts, where torch cast or moved them."""
    for group, saved in zip(optimizer.param_groups, fitted["param_groups"], strict=True):
        for param, key in zip(group["params"], saved["params"], strict=True):
            for name, value in fitted["state"].get(key, {}).items():
                if name == "step":
                    device = param.device if group["capturable"] else "cpu"
                    optimizer.state[param][name] = torch.as_tensor(value, dtype=torch.float32, device=device)
                else:
                    _, dtype = optimizer.buffer_kind(name, param, group)
                    optimizer.state[param][name] = like(param, value, dtype)
            if optimizer.state.get(param):
                optimizer._complete_state(param, group)


def like(param: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` on the device and, if it has its shape, in the memory layout of ``param``."""
    value = value.to(param.device, dtype)
    if value.shape != param.shape or value.stride() == param.stride():
        return value
    return torch.empty_like(param, dtype=value.dtype).copy_(value)


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


def _adopted(ours: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for the parameters of a saved group."""
    return {**ours, **{name: saved[name] for name in ("params", "param_names") if name in saved}}


def _resumed(optimizer: Optimizer, ours: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved group; our options where it has none, for ``own_options``, and for the rest of a shorter tuple."""
    options = {name: ours[name] for name in optimizer.defaults}
    group = {
        **options,
        **optimizer.saved_options(saved),
        **{name: ours[name] for name in optimizer.own_options & options.keys()},
    }
    for name, value in options.items():
        if isinstance(value, tuple):
            group[name] = (*group[name], *value[len(group[name]) :])[: len(value)]
    return group


def _fit_state(
    optimizer: Optimizer, group: Mapping[str, Any], index: int, options: Mapping[str, Any], saved: Mapping[str, Any]
) -> dict[str, Any]:
    """The state we keep for one parameter, out of what was saved for it."""
    param = group["params"][index]
    names = (*optimizer.buffer_names(options, param), *optimizer.scalar_buffers)
    missing = [name for name in ("step", *names) if name not in saved and name not in optimizer.recoverable]
    if missing:
        raise ValueError(
            f"{type(optimizer).__name__} needs {missing[0]!r} for {describe(group, index)}, where the checkpoint has "
            f"{', '.join(map(repr, saved))}. Load it into the optimizer that wrote it, or start afresh"
        )
    state = {name: saved[name] for name in ("step", *names) if name in saved}
    for name in names:
        shape = tuple(optimizer.buffer_kind(name, param, options)[0])
        found = tuple(state[name].shape) if isinstance(state.get(name), Tensor) else state.get(name, shape)
        if found != shape:
            raise ValueError(
                f"{name!r} of {describe(group, index)} has shape {found} in the checkpoint, here it has {shape}"
            )
    return state
