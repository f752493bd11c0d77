"""How a group joins an optimizer: named like the other groups, with tensors of its own, its parameters writable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .options import describe


def named_alike(group: dict[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``group`` with names where ``groups`` have them, else without: torch.optim refuses some with and some without.

    Who adds a group late, such as Lightning's finetuning callbacks, does not know what the first ones have.
    """
    params = group["params"]
    if isinstance(params, set):  # which torch.optim refuses
        return group
    params = [params] if isinstance(params, Tensor) else list(params)
    pairs = [p for p in params if isinstance(p, tuple)]
    group = {**group, "params": params}
    if pairs and len(pairs) == len(params):
        names, tensors = zip(*pairs, strict=True)
        group |= {"params": list(tensors), "param_names": list(names)}
    if groups and "param_names" in groups[0] and not pairs:
        group.setdefault("param_names", [f"added.{len(groups)}.{i}" for i in range(len(params))])
    elif groups and "param_names" not in groups[0]:
        group.pop("param_names", None)
    return group


def own_tensors(groups: Iterable[dict[str, Any]]) -> None:
    """Copy the tensors, such as an lr, that a dict shares with one before it: who fills it means one group."""
    held: set[int] = set()
    for group in groups:
        for name, value in group.items():
            if not isinstance(value, Tensor) or name == "params":
                continue
            if id(value) in held:
                group[name] = value = value.detach().clone()
            held.add(id(value))


@torch.no_grad()
def make_writable(owner: str, group: Mapping[str, Any]) -> None:
    """Carry out what a parameter's conjugate or negative bit puts off, which writes would miss.

    Raises ValueError, and changes nothing, for a parameter whose elements share memory: a step is not defined there.
    """
    waiting = []
    for index, p in enumerate(group["params"]):
        if not isinstance(p, Tensor) or is_lazy(p) or p.layout is not torch.strided:
            continue
        if p.requires_grad and overlaps(p):
            raise ValueError(
                f"{owner}: elements of {describe(group, index)} share memory (strides {p.stride()}), as after "
                "expand(); a step would write to them several times. Give a parameter made of its .clone()"
            )
        if p.is_conj() or p.is_neg():
            waiting.append(p)
    for p in waiting:
        p.data = p.data.resolve_conj().resolve_neg()


def overlaps(p: Tensor) -> bool:
    """Whether there are more elements than places for them."""
    return p.numel() > 1 + sum((size - 1) * stride for size, stride in zip(p.shape, p.stride(), strict=True))
