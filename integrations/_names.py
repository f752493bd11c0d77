"""What optimizers, groups and parameters are called in logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

Names: TypeAlias = "nn.Module | Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]"
"""A model, or parameters with their names as its ``named_parameters()`` gives them."""

_INSERTED = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and activation checkpointing put into the names of parameters."""


def prefixes(optimizers: Sequence[torch.optim.Optimizer]) -> list[str]:
    """Nothing for one optimizer; of several the names of their classes, those that come again numbered."""
    if len(optimizers) == 1:
        return [""]
    seen: Counter[str] = Counter()
    found = []
    for optimizer in optimizers:
        name = type(optimizer).__name__
        found.append(f"{name}-{seen[name]}/" if seen[name] else f"{name}/")
        seen[name] += 1
    return found


def group_names(optimizer: torch.optim.Optimizer) -> list[str]:
    """What Lightning's LearningRateMonitor calls the groups of an optimizer."""
    return [str(group.get("name", f"pg{i}")) for i, group in enumerate(optimizer.param_groups, start=1)]


def parameter_names(optimizer: torch.optim.Optimizer, names: Names | None) -> dict[Tensor, str]:
    """The names given, else those the optimizer was, else group and position: ``pg1.0``."""
    if isinstance(names, nn.parallel.DistributedDataParallel):
        names = names.module
    pairs = names.named_parameters() if isinstance(names, nn.Module) else names or ()
    given = {p: name for name, p in (pairs.items() if isinstance(pairs, Mapping) else pairs)}
    found = {}
    for group, group_name in zip(optimizer.param_groups, group_names(optimizer), strict=True):
        own = group.get("param_names") or [f"{group_name}.{i}" for i in range(len(group["params"]))]
        for p, own_name in zip(group["params"], own, strict=True):
            name = given.get(p, own_name)
            for inserted in _INSERTED:
                name = name.replace(inserted, "")
            found[p] = name
    return found
