"""The numbers of one step: a group's options in the paper's symbols, and what an optimizer derives from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .tensorlist import TensorList


class Namespace:
    """The ``s`` and ``h`` of ``update``: attributes only. (torch.compile cannot trace types.SimpleNamespace.)"""

    def __getattr__(self, name: str) -> Any:  # only reached where the attribute is missing
        raise AttributeError(f"no {name!r} here; there are {', '.join(sorted(vars(self)))}")


def hyperparameters(group: Mapping[str, Any], names: Iterable[str], step: float | Tensor) -> Any:
    """The options ``names`` of a group as attributes; ``betas`` become beta1, beta2, ..., and ``step`` joins them.

    ``step`` is a number, or a float64 vector with the count of every parameter where counts live on the device.
    ``decays`` says whether there is weight decay at all, so that a step without it does not pay for it.
    """
    h: Any = Namespace()
    h.step = step
    h.gain = 1
    for name in names:
        if name == "betas":
            for i, beta in enumerate(group["betas"], start=1):
                setattr(h, f"beta{i}", beta)
        else:
            value = group[name]
            setattr(h, name, precise(value) if isinstance(value, Tensor) else value)
    h.decays = h.weight_decay != 0
    return h


def precision(device: torch.device) -> torch.dtype:
    """float64, where a device has that."""
    return torch.float32 if device.type == "mps" else torch.float64


def precise(t: Tensor) -> Tensor:
    """``t`` in float64, where its device has that: 1 - 0.9999 is off by 1.7e-4 in float32."""
    return t.to(precision(t.device))


def split(h: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers of ``h``, which change from step to step, and its flags, which choose the code that runs."""
    numbers: dict[str, Any] = {}
    flags: dict[str, Any] = {}
    for name, value in vars(h).items():
        is_number = isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)
        (numbers if is_number else flags)[name] = value
    return numbers, flags


def table(numbers: Mapping[str, Any], rows: int, device: torch.device) -> Tensor:
    """``numbers`` as the columns of a (rows, len(numbers)) tensor on ``device``, in float64 where there is that.

    Where a number is a tensor the others are filled in on the device, which a CUDA graph can capture.
    """
    dtype = precision(device)
    if not any(isinstance(value, Tensor) for value in numbers.values()):
        row = torch.tensor([list(numbers.values())], dtype=dtype, device="cpu")
        return row.to(device, non_blocking=True).expand(rows, -1)  # made on the device it would wait for the device
    columns = [
        value.to(device, dtype).expand(rows)
        if isinstance(value, Tensor)
        else torch.full((rows,), value, dtype=dtype, device=device)
        for value in numbers.values()
    ]
    return torch.stack(columns, dim=1)


def wrapped(h: Namespace, rows: Sequence[int]) -> Namespace:
    """``h`` for the parameters ``rows``: its tensors as TensorLists, one entry a parameter."""
    result = Namespace()
    for name, value in vars(h).items():
        if isinstance(value, Tensor):
            one = value.ndim == 0 or value.numel() == 1
            value = TensorList([value.reshape(())] * len(rows) if one else [value[i] for i in rows])
        setattr(result, name, value)
    return result


def minimum(x: float | Tensor, bound: float) -> Any:
    """min(x, bound), for a number or a tensor of numbers."""
    return x.clamp(max=bound) if isinstance(x, Tensor) else min(x, bound)


def maximum(x: float | Tensor, bound: float) -> Any:
    """max(x, bound), for a number or a tensor of numbers."""
    return x.clamp(min=bound) if isinstance(x, Tensor) else max(x, bound)


def expm1(x: float | Tensor) -> Any:
    """exp(x) - 1 without cancellation near 0, for a number or a tensor of numbers."""
    return x.expm1() if isinstance(x, Tensor) else math.expm1(x)
