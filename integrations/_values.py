"""Single numbers on their way from the device to the host, and what optimizers report among them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from optzoo.optimizers.core.reports import Reported, number
from optzoo.optimizers.core.scalars import precise

from ._measure import sent


def flat(report: Mapping[str, Reported]) -> list[float | Tensor]:
    """All values of a report."""
    found: list[float | Tensor] = []
    for reported in report.values():
        found += reported.values() if isinstance(reported, Mapping) else [reported]
    return found


def filled(report: Mapping[str, Reported], values: Iterator[float]) -> dict[str, float | dict[Tensor, float]]:
    """A report with the numbers of the host in the place of its values."""
    return {
        name: {p: next(values) for p in reported} if isinstance(reported, Mapping) else next(values)
        for name, reported in report.items()
    }


def mean(values: Mapping[Tensor, float]) -> float:
    """Of numbers of parameters, over all coordinates of these."""
    size = sum(p.numel() for p in values)
    return sum(value * p.numel() for p, value in values.items()) / size if size else math.nan


def read(matrix: Tensor, values: Sequence[float | Tensor | None]) -> tuple[list[list[float]], list[float]]:
    """A matrix and single values, 0 for None, as numbers of the host: the only place that waits for the device."""
    tensors = [number(0.0 if value is None else value) for value in values]
    together: dict[torch.device, list[int]] = {}
    for i, t in enumerate(tensors):
        together.setdefault(t.device, []).append(i)
    parts = [
        sent(torch.stack([precise(tensors[i]) for i in indices]), matrix.device).to(matrix.dtype)
        for indices in together.values()
    ]
    flat = torch.cat([matrix.reshape(-1), *parts]).tolist()
    rows, width = matrix.shape
    order = [i for indices in together.values() for i in indices]
    single = dict(zip(order, flat[rows * width :], strict=True))
    return [flat[i * width : (i + 1) * width] for i in range(rows)], [single[i] for i in range(len(values))]
