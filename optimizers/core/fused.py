"""``fused=True``: the step of rule.py through torch.compile, one pass over the memory of each big tensor.

Every number enters as an element of a float64 tensor. As a Python float it may come back as another process' constant:
torch 2.13 shares kernels between processes through Inductor's disk cache, and their key misses constants used twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .buckets import Piece, namespace
from .rule import Update, descend, direction
from .scalars import Namespace
from .tensorlist import TensorList

SMALLEST = 2**15
"""Elements below which a tensor is left to the eager step: a compiled call costs about 40 µs, however small."""


class Fused:
    """The compiled counterpart of :class:`.rule.Eager`; ``h`` is a row of the table of numbers."""

    def __init__(self, update: Update, buffers: tuple[str, ...], numbers: tuple[str, ...], flags: tuple[Any, ...]) -> None:
        def hyper(row: Tensor) -> Namespace:
            h = namespace(numbers, [TensorList([number]) for number in row.unbind()])
            for name, value in flags:
                setattr(h, name, value)
            return h

        def first(p: Tensor, g: Tensor, state: list[Tensor], row: Tensor) -> Tensor:
            s = namespace(buffers, [TensorList([buffer]) for buffer in state])
            u: TensorList = direction(update, TensorList([p]), TensorList([g]), s, hyper(row))
            return u.tensors[0]

        def first_and_count(p: Tensor, g: Tensor, state: list[Tensor], row: Tensor) -> tuple[Tensor, Tensor]:
            u = first(p, g, state, row)
            return u, u.count_nonzero()

        def second(p: Tensor, u: Tensor, scale: Tensor | None, row: Tensor) -> None:
            descend(TensorList([p]), TensorList([u]), None if scale is None else TensorList([scale]), hyper(row))

        def whole(p: Tensor, g: Tensor, state: list[Tensor], row: Tensor) -> None:
            second(p, first(p, g, state, row), None, row)

        self._whole, self._first, self._second = _compiled(whole), _compiled(first_and_count), _compiled(second)

    def whole(self, piece: Piece, h: Tensor) -> None:
        self._whole(piece.p, piece.g, list(vars(piece.s).values()), h)

    def first(self, piece: Piece, h: Tensor) -> tuple[Tensor, list[Tensor]]:
        u, kept = self._first(piece.p, piece.g, list(vars(piece.s).values()), h)
        return u, [kept]

    def second(self, piece: Piece, u: Tensor, scale: list[Tensor], h: Tensor) -> None:
        self._second(piece.p, u, scale[0], h)


fused_rule = lru_cache(maxsize=None)(Fused)
"""One compilation serves every optimizer of a class with the same flags, for all shapes."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(function, fullgraph=True, dynamic=True, recompile_limit=64, isolate_recompiles=True)

    def call(*args: Any) -> Any:
        try:
            return compiled(*args)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                raise
            raise RuntimeError(
                "fused=True: torch.compile failed. It needs a C++ compiler for CPU tensors and Triton for CUDA tensors; "
                "install one, or leave fused=None"
            ) from error

    return call
