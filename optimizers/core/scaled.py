"""Updates that wait for a number of their whole tensor: Cautious' scale, from a count over pieces and shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .buckets import HELD, Bucket, Piece
from .reductions import over_shards
from .reports import Reporting
from .scalars import Namespace
from .tensorlist import TensorList, converted
from .transforms import cautious_scale


class Scaled:
    """Pieces of one bucket whose update is known but for its scale, and the counts that decide the scale.

    Until ``finish`` they hold the updates of small tensors: of one, or of all where counts cross ranks.
    """

    def __init__(self, bucket: Bucket, h: Namespace, reporting: Reporting) -> None:
        self.bucket, self.h, self.reporting = bucket, h, reporting
        self.kept: dict[int, Tensor] = {}
        self._waiting: list[tuple[Any, Piece, Any, Any]] = []
        self._shelf: Tensor | None = None
        self._used = 0

    def add(self, rule: Any, piece: Piece, numbers: Any) -> None:
        """Take the first half of a piece's step."""
        u, counts = rule.first(piece, numbers)
        for row, count in zip(piece.rows, counts, strict=True):
            self.kept[row] = self.kept[row] + count if row in self.kept else count
        self._waiting.append((rule, piece, self._put_by(u), numbers))

    def finish(self) -> None:
        """Do the second half of all pieces."""
        if not self._waiting:
            return
        rows = list(self.kept)
        dtype = torch.float64 if self.bucket.rows[0][0].dtype == torch.float64 else torch.float32
        kept = TensorList(converted(list(self.kept.values()), dtype))
        sizes = [self.bucket.size(row) for row in rows]
        if self.reporting.recording:
            for row, count, size in zip(rows, kept.tensors, sizes, strict=True):
                self.reporting.note("kept", [self.bucket.params[row]], count / max(size, 1))
        scale = None
        if self.h.cautious_scale is not None:
            scales = cautious_scale(kept, sizes, self.h.cautious_scale, self.h.cautious_floor)
            scale = dict(zip(rows, scales.tensors, strict=True))
        for rule, piece, u, numbers in self._waiting:
            rule.second(piece, u, None if scale is None else [scale[row] for row in piece.rows], numbers)
        self.kept, self._waiting, self._used = {}, [], 0

    def _put_by(self, u: Any) -> Any:
        """``u``, if it is a piece, moved to memory that is used again for every tensor.

        Piece after piece of new memory would go back to the system with every tensor, and come again by page faults.
        """
        if not isinstance(u, Tensor):
            return u
        if self._shelf is None:
            self._shelf = u.new_empty(HELD * u.numel())
        place = self._shelf[self._used : self._used + u.numel()]
        if place.numel() < u.numel():  # sharded tensors wait for all others
            return u
        self._used += u.numel()
        return place.view(u.shape).copy_(u)


def reduce_counts(everything: Sequence[Scaled]) -> None:
    """Make the counts of sharded tensors those of the whole tensors: one all-reduce for all of them.

    They are integers, so that the result does not depend on how many ranks there are.
    """
    found = [(scaled, row) for scaled in everything for row in scaled.kept]
    totals = over_shards([scaled.kept[row] for scaled, row in found], [scaled.bucket.sharding for scaled, _ in found])
    for (scaled, row), total in zip(found, totals, strict=True):
        scaled.kept[row] = total
