"""``fused=True`` of PSGD: the functions of kron.py through torch.compile, one graph for each shape.

Products of matrices stay library calls; what comes between them is one pass over memory each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..core.fused import compiled
from . import kron


def fit(
    factors: Sequence[Tensor],
    bounds: Tensor,
    signal: Tensor,
    v: Tensor | None,
    products: Sequence[Tensor] | None,
    seeds: Tensor,
    *numbers: float,
    geometry: str,
    norm: str,
    auto_scale: bool,
) -> Any:
    """:func:`.kron.fit`, compiled."""
    graph = _fit(len(factors), v is None, products is None, geometry, norm, auto_scale)
    return graph(factors, bounds, signal, v, products, seeds, *_tensors(numbers))


def direct(factors: Sequence[Tensor], x: Tensor, clip: Sequence[float] | None, *, geometry: str, products: bool) -> Any:
    """:func:`.kron.direct`, compiled."""
    graph = _direct(len(factors), clip is None, geometry, products)
    return graph(factors, x, None if clip is None else _tensors(clip))


def _tensors(numbers: Sequence[float]) -> list[Tensor]:
    return list(torch.tensor(numbers, dtype=torch.float64).unbind())


# What a graph does not check of its arguments makes another graph.


@cache
def _fit(axes: int, whitens: bool, from_q: bool, geometry: str, norm: str, auto_scale: bool) -> Callable[..., Any]:
    return compiled(partial(kron.fit, geometry=geometry, norm=norm, auto_scale=auto_scale), dynamic=False)


@cache
def _direct(axes: int, unclipped: bool, geometry: str, products: bool) -> Callable[..., Any]:
    return compiled(partial(kron.direct, geometry=geometry, products=products), dynamic=False)
