"""What one step works on: parameters that can be treated alike, cut and packed into pieces of bounded size.

Pieces bound the temporaries of a step and keep them in cache: AdamW on 59 M parameters of a CPU takes 2.4 times torch's
fused step in pieces of 2^18 elements, over 8 times without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .reductions import Sharding
from .scalars import Namespace, precise
from .tensorlist import TensorList

CPU_PIECE = 2**18
"""Elements of a piece on CPU: with Adam's seven operands 7 MiB, which stays in the last-level cache."""
DEVICE_PIECE = 2**22
"""Elements of a piece on an accelerator, where every operation pays a launch of some microseconds."""
HELD = 16
"""Pieces of a tensor whose updates may wait in memory for a number of the whole tensor."""


@dataclass
class Bucket:
    """Parameters of one group that share device, dtype, sharding and, unless counts live on the device, step count."""

    group: dict[str, Any]
    buffers: tuple[str, ...]
    sharding: Sharding
    count: float | None
    """How many steps these parameters will have made; None where counts live on the device."""
    params: list[Tensor] = field(default_factory=list)
    rows: list[tuple[Tensor, ...]] = field(default_factory=list)
    """Per parameter: the parameter, its gradient and its buffers as plain local real tensors."""
    states: list[Mapping[str, Any]] = field(default_factory=list)
    h: Any = None
    """The numbers of this step."""

    @property
    def device(self) -> torch.device:
        return self.rows[0][0].device

    def add(self, param: Tensor, grad: Tensor, state: Mapping[str, Any]) -> None:
        self.params.append(param)
        self.states.append(state)
        operands = (param, grad, *[state[name] for name in self.buffers])
        self.rows.append(local(operands) if self.sharding or param.is_complex() else operands)

    def column(self, name: str) -> list[Tensor]:
        """A buffer of every parameter, as this rank has it."""
        index = 2 + self.buffers.index(name)
        return [row[index] for row in self.rows]

    def hand_out(self, **columns: Sequence[Tensor]) -> None:
        """Make these the buffers that ``update`` finds, of each name one tensor a parameter, instead of the state's."""
        self.buffers = tuple(columns)
        made = zip(*columns.values(), strict=True)
        self.rows = [(p, g, *own) for (p, g, *_), own in zip(self.rows, made, strict=True)]

    def step(self) -> float | Tensor:
        """The number of this step, from 1: a float, or a vector with every parameter's."""
        return precise(torch.stack([state["step"] for state in self.states])) if self.count is None else self.count

    def size(self, row: int) -> int:
        """Real numbers in a whole parameter, all its shards together."""
        return self.params[row].numel() * (2 if self.params[row].is_complex() else 1)


class Piece(NamedTuple):
    """Operands of one call of ``update``: part of a big tensor, one tensor, or several small ones."""

    rows: Sequence[int]
    """Which parameters of the bucket these are."""
    p: Any
    g: Any
    s: Namespace
    complete: bool = True
    """No later piece holds more of these parameters."""
    small: bool = True
    """Their update may be kept until all their pieces are known: they have at most HELD of them."""


def is_dtensor(t: Any) -> bool:
    """Whether ``t`` is a DTensor, told by its placements: importing the class to ask costs every user 0.8 s."""
    return hasattr(t, "placements")


def sharding(param: Any) -> Sharding:
    """What a DTensor's bucket depends on."""
    return (param.device_mesh, param.placements) if is_dtensor(param) else None


def local(operands: Sequence[Any]) -> tuple[Tensor, ...]:
    """A parameter, its gradient and its buffers as plain real tensors: a DTensor's shard, pairs for complex numbers."""
    param, grad, *buffers = operands
    if is_dtensor(param):
        if grad.placements != param.placements:
            grad = grad.redistribute(param.device_mesh, param.placements)
        operands = [t.to_local() if is_dtensor(t) else t for t in (param, grad, *buffers)]
    param, grad, *buffers = operands
    # the gradient is only read, so that a copy does; where a write went into one, torch refuses the view
    return (as_real(param), as_real(grad.resolve_conj()), *map(as_real, buffers))


def as_real(t: Tensor) -> Tensor:
    """Complex numbers as pairs, on an axis of two more."""
    return torch.view_as_real(t) if t.is_complex() else t


def real_shape(param: Tensor) -> tuple[int, ...]:
    """The shape of a parameter that is seen so."""
    return (*param.shape, 2) if param.is_complex() else tuple(param.shape)


def zeros(param: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that lie like ``param``: in its memory layout or, where ``shape`` is not its own, on its device and ranks.

    A dimension along which they have size 1 and the parameter is sharded is replicated.
    """
    if tuple(shape) == tuple(param.shape):
        return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
    lies = sharding(param)
    if lies is None or not shape:
        return torch.zeros(shape, dtype=dtype, device=param.device)
    from torch.distributed import tensor as dtensor

    mesh, placements = lies
    placements = [
        dtensor.Replicate() if not placement.is_replicate() and shape[placement.dim] == 1 else placement
        for placement in placements
    ]
    return dtensor.zeros(*shape, dtype=dtype, device_mesh=mesh, placements=placements)


def pieces(bucket: Bucket, rows: Sequence[int], size: float, pack: bool, wrap: bool) -> Iterator[Piece]:
    """The tensors ``rows`` of ``bucket`` in pieces of at most ``size`` elements, where their memory allows the cut.

    pack: put small tensors together into one piece. wrap: hand even a single tensor over as a TensorList.
    """
    make = _maker(bucket.buffers, wrap)
    waiting: list[int] = []
    room = size
    for i in rows:
        row = bucket.rows[i]
        numel = row[0].numel()
        parts = cut(row, int(size)) if numel > size else None
        if parts is not None:
            for k, part in enumerate(parts, start=1):
                yield make([i], [part])._replace(complete=k == len(parts), small=len(parts) <= HELD)
            continue
        if not pack:
            yield make([i], [row])
            continue
        if waiting and numel > room:
            yield make(waiting, [bucket.rows[k] for k in waiting])
            waiting, room = [], size
        waiting.append(i)
        room -= numel
    if waiting:
        yield make(waiting, [bucket.rows[k] for k in waiting])


def cut(tensors: Sequence[Tensor], size: int) -> list[tuple[Tensor, ...]] | None:
    """Operands in parts of about ``size`` elements: of their flat view, or of dimension 0 where they are broadcast."""
    first = tensors[0]
    if all(t.shape == first.shape for t in tensors):
        flat = flattened(tensors)
        return None if flat is None else list(zip(*[torch.split(t, size) for t in flat], strict=True))
    return cut_rows(tensors, size)


def cut_rows(tensors: Sequence[Tensor], size: int) -> list[tuple[Tensor, ...]]:
    """Operands in parts of about ``size`` elements along dimension 0, whole where they are broadcast along it."""
    first = tensors[0]
    length = first.shape[0]
    rows = max(1, size * length // max(first.numel(), 1))
    count = max(1, -(-length // rows))
    columns = [torch.split(t, rows) if t.shape[0] == length else (t,) * count for t in tensors]
    return list(zip(*columns, strict=True))


def flat_pieces(bucket: Bucket, smallest: int) -> Iterator[Piece]:
    """Every tensor of at least ``smallest`` elements as one piece of one dimension, where its memory allows it.

    The operands are ``.data`` of views: a view knows its base, and torch.compile would make a graph for every number of
    dimensions a base can have. Whoever writes to ``p`` tells autograd of it.
    """
    make = _maker(bucket.buffers, wrap=False)
    for i, row in enumerate(bucket.rows):
        flat = flattened(row) if row[0].numel() >= smallest else None
        if flat is not None:
            yield make([i], [tuple(t.data for t in flat)])


def _maker(names: tuple[str, ...], wrap: bool) -> Callable[[Sequence[int], list[tuple[Tensor, ...]]], Piece]:
    def make(rows: Sequence[int], operands: list[tuple[Tensor, ...]]) -> Piece:
        one = len(operands) == 1 and not wrap
        p, g, *buffers = operands[0] if one else [TensorList(column) for column in zip(*operands, strict=True)]
        return Piece(rows, p, g, namespace(names, buffers))

    return make


def namespace(names: Iterable[str], values: Iterable[Any]) -> Namespace:
    """``values`` as attributes ``names``."""
    s = Namespace()
    for name, value in zip(names, values, strict=True):
        setattr(s, name, value)
    return s


def flattened(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """One-dimensional views of tensors of one layout, in the order of their memory; None where there are none."""
    first = tensors[0]
    if any(t.shape != first.shape for t in tensors):
        return None
    if all(t.is_contiguous() for t in tensors):
        return [t.view(-1) for t in tensors]
    if not _is_dense(first) or any(t.stride() != first.stride() for t in tensors):
        return None
    return [t.as_strided((t.numel(),), (1,)) for t in tensors]


def _is_dense(t: Tensor) -> bool:
    """Its elements fill a stretch of memory without gap or overlap, in whatever order (channels_last, transposed)."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(t.stride(), t.shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def default_piece(device: torch.device) -> float:
    """Elements of a piece on ``device``; one graph compiled around a whole step is better off with whole tensors."""
    if torch.compiler.is_compiling():
        return math.inf
    return CPU_PIECE if device.type == "cpu" else DEVICE_PIECE


def measured_piece(device: torch.device) -> float:
    """As above for what is only measured: fixed numbers, so that sums do not depend on how updates are cut."""
    if torch.compiler.is_compiling():
        return math.inf
    return 2**18 if device.type == "cpu" else 2**22
