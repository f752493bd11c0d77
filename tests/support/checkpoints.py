"""Runs that stop half-way, and what comes back of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .problems import SHAPES, gradients, tensors, trajectory
from .processes import SAVED_AFTER, STEPS


def parameters(dtype: torch.dtype = torch.float64, like: Sequence[Tensor] | None = None) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(t.detach().clone()) for t in (tensors(SHAPES, dtype) if like is None else like)]


def walk(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], first: int = 0, last: int = STEPS) -> list[Tensor]:
    """The parameters after the steps ``first``, ..., ``last`` - 1 of a fixed sequence of gradients."""
    return trajectory(optimizer, params, gradients(STEPS, dtype=params[0].dtype)[first:last])[-1]


def saved(state: Any) -> Any:
    """``state`` as a file brings it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two states differ in a key, a bit or a dtype."""
    if isinstance(ours, Mapping):
        keys = [f"{path}/{key} is in one only" for key in ours.keys() ^ theirs.keys()]
        return keys + [
            d for key in ours.keys() & theirs.keys() for d in differences(ours[key], theirs[key], f"{path}/{key}")
        ]
    if isinstance(ours, (list, tuple)) and len(ours) == len(theirs):
        return [d for i, pair in enumerate(zip(ours, theirs, strict=True)) for d in differences(*pair, f"{path}/{i}")]
    equal = torch.equal(ours, theirs) and ours.dtype == theirs.dtype if isinstance(ours, Tensor) else ours == theirs
    return [] if equal else [f"{path}: {ours} and {theirs}"]


def torch_run(options: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float64) -> tuple[Any, list[Tensor]]:
    """torch's AdamW and its parameters, half-way."""
    params = parameters(dtype)
    optimizer = torch.optim.AdamW(params, lr=0.01, **(options or {}))
    return optimizer, walk(optimizer, params, last=SAVED_AFTER)
