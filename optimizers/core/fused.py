"""``fused=True``: the step of rule.py through torch.compile, one pass over the memory of each big tensor.

Every number enters as an element of a float64 tensor. As a Python float it may come back as another process' constant:
torch 2.13 shares kernels between processes through Inductor's disk cache, and their key misses constants used twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .buckets import Piece, namespace
from .rule import Update, descend, direction, operands
from .scalars import Namespace
from .tensorlist import TensorList

SMALLEST = 2**15
"""Elements below which a tensor is left to the eager step: a compiled call costs about 40 µs, however small."""


class Fused:
    """The compiled counterpart of :class:`.rule.Eager`; ``h`` is a row of the table of numbers."""

    def __init__(
        self,
        update: Update,
        measure: Update,
        buffers: tuple[str, ...],
        numbers: tuple[str, ...],
        flags: tuple[tuple[str, Any], ...],
    ) -> None:
        def hyper(row: Tensor) -> Namespace:
            h = namespace(numbers, [TensorList([number]) for number in row.unbind()])
            for name, value in flags:
                setattr(h, name, value)
            return h

        def named(state: list[Tensor]) -> Namespace:
            return namespace(buffers, [TensorList([buffer]) for buffer in state])

        def direct(p: Tensor, g: Tensor, state: list[Tensor], h: Namespace) -> TensorList:
            u: TensorList = direction(update, TensorList([p]), TensorList([g]), named(state), h)
            return u

        def whole(p: Tensor, g: Tensor, state: list[Tensor], row: Tensor) -> None:
            h = hyper(row)
            descend(TensorList([p]), direct(p, g, state, h), None, h)

        def scaled(p: Tensor, g: Tensor, state: list[Tensor], row: Tensor, scale: Tensor) -> None:
            h = hyper(row)
            descend(TensorList([p]), direct(p, g, state, h), TensorList([scale]), h)

        def count(p: Tensor, g: Tensor, state: list[Tensor], row: Tensor) -> Tensor:
            return direct(p, g, [buffer.clone() for buffer in state], hyper(row)).tensors[0].count_nonzero()

        def norms(p: Tensor, g: Tensor, state: list[Tensor], row: Tensor) -> list[Tensor]:
            h = hyper(row)
            measured = measure(*operands(TensorList([p]), TensorList([g]), h), named(state), h)
            return [x.tensors[0].square().sum().sqrt() for x in measured]

        self._whole, self._scaled, self._count = compiled(whole), compiled(scaled), compiled(count)
        self._norms = compiled(norms)

    def norms(self, piece: Piece, h: Tensor) -> list[list[Tensor]]:
        """Of each quantity that ``measure`` returns, the norm."""
        return [[norm] for norm in self._norms(piece.p, piece.g, list(vars(piece.s).values()), h)]

    def whole(self, piece: Piece, h: Tensor) -> None:
        """A step without a scale."""
        self._whole(piece.p, piece.g, list(vars(piece.s).values()), h)

    def first(self, piece: Piece, h: Tensor) -> tuple[None, list[Tensor]]:
        """Only the count. The update is cheaper to compute again, while memory is read anyway, than to store."""
        return None, [self._count(piece.p, piece.g, list(vars(piece.s).values()), h)]

    def second(self, piece: Piece, u: None, scale: list[Tensor] | None, h: Tensor) -> None:
        if scale is None:
            return self.whole(piece, h)
        self._scaled(piece.p, piece.g, list(vars(piece.s).values()), h, scale[0])


fused_rule = lru_cache(maxsize=None)(Fused)
"""One compilation serves every optimizer of a class with the same flags, for all shapes."""


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose graphs no other function's calls can hit: torch keeps graphs with the code object."""

    def call(*args: Any) -> Any:
        return function(*args)

    call.__code__ = call.__code__.replace()
    return call


def compiled(function: Callable[..., Any], dynamic: bool = True) -> Callable[..., Any]:
    """``function``, one graph for all shapes, or one for each.

    A call checks only its tensors: nothing else that the function sees may ever change.
    """
    compiler: Any = torch.compile  # whose annotations lack recompile_limit and isolate_recompiles
    known = inspect.signature(compiler).parameters
    newer = {name: value for name, value in (("recompile_limit", 64), ("isolate_recompiles", True)) if name in known}
    keep = getattr(torch.compiler, "keep_tensor_guards_unsafe", None)
    graphs = compiler(
        function if "isolate_recompiles" in newer else _with_own_code(function),
        fullgraph=True,
        dynamic=dynamic,
        options=None if keep is None else {"guard_filter_fn": keep},
        **newer,
    )
    if "recompile_limit" not in newer:
        config: Any = import_module("torch._dynamo.config")
        name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
        graphs = config.patch({name: 64})(graphs)

    def call(*args: Any) -> Any:
        try:
            return graphs(*args)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                raise
            raise RuntimeError(f"fused=True: torch.compile failed{_cause(error)}") from error

    return call


def _cause(error: BaseException) -> str:
    """The first line of what went wrong, and what to do about it."""
    inner: BaseException = getattr(error, "inner_exception", None) or error
    name, lines = type(inner).__name__, [line.strip() for line in str(inner).splitlines() if line.strip()]
    first = lines[0] if lines else "no message"
    first = first if name in first else f"{name}: {first}"
    for kind, needed in _NEEDED.items():
        if kind in (name, *first.replace(":", " ").split()):
            return f". It needs {needed}; install it, or leave fused=None ({first})"
    hint = "; for an operator write the method, such as logical_not() for ~" if "builtin" in first else ""
    return f": {first.rstrip('.')}{hint}. Leave fused=None"


_NEEDED = {"InvalidCxxCompiler": "a C++ compiler for CPU tensors", "TritonMissing": "Triton for CUDA tensors"}
