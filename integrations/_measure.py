"""Square sums of tensors, of whole parameters and all ranks, left on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from optzoo.optimizers.core.buckets import flattened, local, measured_piece, sharding
from optzoo.optimizers.core.reductions import Sharding, over_shards
from optzoo.optimizers.core.rule import working_dtype
from optzoo.optimizers.core.scalars import precise

Row: TypeAlias = "tuple[Tensor, ...] | None"
"""Local tensors of one parameter that have one shape; None where there are none."""

SKETCH = 2**20
"""Numbers that stand for all parameters where no copy of them is kept."""


def part_of(param: Tensor, tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that belongs to ``param``, as real numbers; of a sparse one what is not zero."""
    if tensor.layout is not torch.strided:
        return tensor.coalesce().values()
    return local((param, tensor))[1]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, without waiting for it unless it comes to the host."""
    return tensor.to(device, non_blocking=device.type != "cpu")


def home_of(params: Sequence[Tensor]) -> torch.device:
    """Where the numbers of all parameters come together: an accelerator where there is one."""
    return next((p.device for p in params if p.device.type != "cpu"), params[0].device)


def square_sums(rows: Sequence[Row], home: torch.device) -> Tensor:
    """‖x‖² of each row's only tensor, 0 where there is none."""
    together: dict[tuple[torch.device, torch.dtype], tuple[list[int], list[Tensor]]] = {}
    for row, (part,) in _pieces(rows):
        numbers, parts = together.setdefault((part.device, part.dtype), ([], []))
        numbers.append(row)
        parts.append(part)
    sums = _zeros(len(rows), home)
    for (_, dtype), (numbers, parts) in together.items():
        norms = torch.stack(torch._foreach_norm(parts, 2, dtype=working_dtype(dtype)))
        sums.index_add_(0, _index(numbers, home), sent(precise(norms), home).square())
    return sums


def dots(rows: Sequence[Row], home: torch.device) -> Tensor:
    """x·y of each row's two tensors, 0 where there are none."""
    numbers, products = [], []
    for row, (x, y) in _pieces(rows):
        numbers.append(row)
        dtype = torch.promote_types(working_dtype(x.dtype), y.dtype)
        products.append(sent(precise(torch.dot(x.to(dtype), y.to(dtype))), home))
    sums = _zeros(len(rows), home)
    return sums.index_add_(0, _index(numbers, home), torch.stack(products)) if products else sums


def over_ranks(columns: Sequence[Tensor], params: Sequence[Tensor]) -> Tensor:
    """Columns of sums over this rank's shards as sums over whole parameters: one all-reduce, (params, columns)."""
    matrix = torch.stack(list(columns), dim=1)
    shardings = [sharding(p) for p in params]
    return torch.stack(over_shards(list(matrix.unbind()), shardings)) if any(shardings) else matrix


class Sketch:
    """Random projections of all parameters onto ``SKETCH`` numbers, for the length of a step without a copy.

    Parameters one after the other are cut into strips of that length, which are added up with random signs. The square
    sum of a difference of two sketches is that of the difference, on average; its relative standard deviation is
    √(2/SKETCH), 0.14 %, for the square where a step is spread evenly. One strip is exact.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params
        sizes: dict[tuple[torch.device, Sharding], int] = {}
        for p in params:
            key = (p.device, sharding(p))
            sizes[key] = sizes.get(key, 0) + part_of(p, p).numel()
        self._sums = {key: _zeros(min(size, SKETCH), key[0]) for key, size in sizes.items()}
        self._add(1.0)

    def square_sum(self, home: torch.device) -> Tensor:
        """‖θ - θ'‖² of the parameters as they were and as they are; called once."""
        self._add(-1.0)
        squares = [sums.square().sum() for sums in self._sums.values()]
        whole = over_shards(squares, [lies for _, lies in self._sums])
        return torch.stack([sent(square, home) for square in whole]).sum()

    def _add(self, factor: float) -> None:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (2 * SKETCH,), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
        on_device = {device: sent(signs, device) for device, _ in self._sums}
        ends = dict.fromkeys(self._sums, 0)
        for row, (piece,) in _pieces([(part_of(p, p),) for p in self.params]):
            key = (self.params[row].device, sharding(self.params[row]))
            sums = self._sums[key]
            start = 0
            while start < piece.numel():
                strip, at = divmod(ends[key], len(sums))
                part = piece[start : start + len(sums) - at]
                shift = (strip * 40503) % SKETCH + at  # another stretch of the signs for every strip
                sign = on_device[key[0]][shift : shift + len(part)]
                sums[at : at + len(part)].addcmul_(part.to(sums.dtype), sign.to(sums.dtype), value=factor)
                start += len(part)
                ends[key] += len(part)


def _pieces(rows: Sequence[Row]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """The rows in pieces of bounded length: sums of float32 lose digits over long stretches."""
    for number, row in enumerate(rows):
        if row is None or row[0].numel() == 0:
            continue
        flat = flattened(row) or [t.reshape(-1) for t in row]
        size = int(measured_piece(row[0].device))
        for part in zip(*(torch.split(t, size) for t in flat), strict=True):
            yield number, part


def _zeros(size: int, device: torch.device) -> Tensor:
    return precise(torch.zeros(size, device=device))


def _index(numbers: Sequence[int], device: torch.device) -> Tensor:
    return sent(torch.tensor(numbers, dtype=torch.int64), device)
