"""The base of optimizers that see whole matrices, with AdamW for all that is none."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .adam import Adam, AdamW
from .core import Optimizer, rule
from .core.buckets import Bucket, namespace, real_shape, sharding
from .core.options import NON_NEGATIVE, Rule, betas, describe, named, one_of, optional
from .core.reductions import gathered, own_shards, stacked
from .core.scalars import Namespace, wrapped
from .core.tensorlist import TensorList

logger = logging.getLogger(__name__)

CPU_BATCH, DEVICE_BATCH = 2**18, 2**22
"""Elements of the tensors that one call of ``directions`` gets, on CPU such that they stay in its cache."""


class Batch:
    """Some rows of a bucket of matrices: n tensors of one shape, which are worked on in one call."""

    def __init__(self, bucket: Bucket, rows: range) -> None:
        self.bucket, self.rows = bucket, rows
        self.params = [bucket.params[i] for i in rows]
        self.states = [bucket.states[i] for i in rows]
        p, g = (TensorList(column) for column in [*zip(*bucket.rows[rows.start : rows.stop], strict=True)][:2])
        self.gradients = stacked(rule.operands(p, g, wrapped(bucket.h, rows))[1].tensors)
        """Those that are followed, in the working precision, as this rank has them: (n, ...)."""

    def local(self, name: str) -> list[Tensor]:
        """A buffer of each, as this rank has it."""
        return self.bucket.column(name)[self.rows.start : self.rows.stop]

    def whole(self, shards: Tensor, like: Tensor) -> Tensor:
        """(n, *shape) out of (n, ...) of this rank; ``like``: what the first is a shard of, or lies as that does."""
        return gathered(shards, sharding(like), real_shape(like))

    def own(self, whole: Tensor, like: Tensor) -> list[Tensor]:
        """This rank's shards out of (n, *shape)."""
        return list(own_shards(whole, sharding(like)).unbind())

    def numbers(self) -> Namespace:
        """``h``; numbers that every parameter has its own of have the shape (n, 1, ..., 1)."""
        like, h = self.gradients, Namespace()
        for name, value in vars(self.bucket.h).items():
            if isinstance(value, Tensor) and value.ndim:
                value = value[self.rows.start : self.rows.stop].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
            setattr(h, name, value)
        return h


class MatrixOptimizer(Optimizer):
    """Base of θ ← θ − lr · (gain · T(U) + λθ) with U = directions(G, s, h) for whole matrices, and AdamW for the rest.

    A subclass names its ``buffers`` and writes ``directions``: ``g`` and ``s.<buffer>`` are (n, *shape), n tensors of
    one shape in the working precision, whole where they are sharded, with an axis of two more where they are complex.
    It returns the n directions; what it writes into ``s`` is kept, and it must not write into ``g``. ``h`` has the
    numbers of the step as in ``update``. The base makes the batches, of bounded size, and does all that
    :class:`Optimizer` does.

    Of fewer than two axes longer than 1 a tensor is no matrix. Those, and groups with ``adamw=True``, are AdamW's, with
    the group's ``lr`` and ``weight_decay`` and, where the constructor has these, ``adamw_betas`` and ``adamw_eps``.
    :func:`optzoo.optimizers.matrix_groups` makes groups by role. Of a group with ``parts`` a tensor is several
    matrices, one below the other: ``directions`` gets them one after the other.

    >>> class Normalized(MatrixOptimizer):
    ...     buffers = ("exp_avg",)
    ...     def __init__(self, params, lr=1e-2, momentum=0.9, **options):
    ...         super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=0.0), options)
    ...     @staticmethod
    ...     def directions(g, s, h):
    ...         m = s.exp_avg.lerp_(g, 1 - h.momentum)
    ...         return m / torch.linalg.matrix_norm(m, keepdim=True)
    >>> w = torch.nn.Parameter(torch.zeros(2, 2))
    >>> w.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    >>> Normalized([w], lr=0.5).step(); w.data
    tensor([[-0.3000,  0.0000],
            [ 0.0000, -0.4000]])
    """

    optional_buffers = frozenset(AdamW.buffers)
    rules = {
        "adamw": one_of(True, False),
        "adamw_betas": betas(2),
        "adamw_eps": NON_NEGATIVE,
        "parts": optional(
            Rule(
                lambda x: isinstance(x, tuple) and len(x) > 1 and all(type(n) is int and n > 0 for n in x),
                "a tuple of at least 2 numbers of rows",
            )
        ),
    }
    fallback: ClassVar[Mapping[str, Any]] = {"adamw_betas": (0.9, 0.999), "adamw_eps": 1e-8}
    """AdamW's options where the constructor has none."""
    batch: ClassVar[type[Any]] = Batch

    @staticmethod
    def directions(g: Tensor, s: Any, h: Any) -> Tensor:
        """The directions of n tensors of one shape, (n, *shape), out of their gradients and buffers."""
        raise NotImplementedError("a MatrixOptimizer defines directions(g, s, h)")

    def is_matrix(self, group: Mapping[str, Any], param: Tensor) -> bool:
        """Whether ``directions`` is for this parameter; all others are AdamW's."""
        return not group.get("adamw") and sum(n > 1 for n in param.shape) >= 2

    # What the base asks

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        return self.matrix_buffers(group, param) if self.is_matrix(group, param) else AdamW.buffers

    def matrix_buffers(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        """The buffers of a matrix."""
        return self.buffers

    def kind(self, group: Mapping[str, Any], param: Tensor) -> Any:
        return tuple(param.shape) if self.is_matrix(group, param) else None

    def takes_whole_parameters(self, group: Mapping[str, Any]) -> bool:
        return not group.get("adamw") or bool(group["cautious"] and group["cautious_scale"] is not None)

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        parts: tuple[int, ...] = group.get("parts") or ()
        if parts and "parts" not in self.defaults:
            raise ValueError(f"{type(self).__name__} takes tensors as one; leave split out of the groups")
        params = group["params"]
        for given in ([params] if isinstance(params, Tensor) else params) if parts else ():
            p = given[1] if isinstance(given, tuple) else given
            if self.is_matrix(group, p) and sum(parts) != p.shape[0]:
                raise ValueError(
                    f"{type(self).__name__}: parts={parts} has {sum(parts)} rows together, and a parameter of its "
                    f"group {p.shape[0]}, of shape {tuple(p.shape)}; give the rows of each part, in a group of the "
                    "parameters that have them"
                )

    def begin(self) -> None:
        """Also tell of what no matrix rule is for: vectors alone, which are AdamW's, and embeddings, which are not."""
        first = not self._has_begun
        super().begin()
        if not first:
            return
        members = [
            (group, i, p)
            for group in self.param_groups
            for i, p in enumerate(group["params"])
            if not group.get("adamw")
        ]
        name, matrices = type(self).__name__, {p for group, _, p in members if self.is_matrix(group, p)}
        if members and not matrices:
            _log_vectors(name)
        if "adamw" in self.defaults and (found := matrices & embeddings()):
            which = named([describe(group, i) for group, i, p in members if p in found])
            warnings.warn(
                f"{name}: {which} belongs to nn.Embedding, whose rows are no matrix: most have no gradient in a step. "
                "Give it adamw=True in a group of its own, as matrix_groups(model) does",
                stacklevel=2,
            )

    def numbers(self, bucket: Bucket) -> Any:
        h = super().numbers(bucket)
        h.matrix = self.is_matrix(bucket.group, bucket.params[0])
        if not h.matrix:
            own = {**self.fallback, **bucket.group}
            h.gain, h.amsgrad, h.eps, (h.beta1, h.beta2) = 1, False, own["adamw_eps"], own["adamw_betas"]
            Adam.scalars(h)
        return h

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        return s.direction if h.matrix else AdamW.update(p, g, s, h)

    def prepare_bucket(self, bucket: Bucket) -> None:
        """Find the directions, for as many tensors of one shape at once as fit."""
        if bucket.h.matrix:
            limit = CPU_BATCH if bucket.device.type == "cpu" else DEVICE_BATCH
            rows, size = len(bucket.rows), max(1, limit // max(bucket.size(0), 1))
            self.direct(bucket, [range(i, min(i + size, rows)) for i in range(0, rows, size)])

    def direct(self, bucket: Bucket, batches: Sequence[range]) -> None:
        """Give ``update`` the directions of these batches of rows, of which every rank finds all: owners go here."""
        bucket.hand_out(direction=[u for rows in batches for u in self._directions(self.batch(bucket, rows))])

    def _directions(self, batch: Batch) -> list[Tensor]:
        names = batch.bucket.buffers
        owned = [(batch.local(name), batch.states[0][name]) for name in names]
        stacks = [batch.whole(stacked(local), like) for local, like in owned]
        g, h = batch.whole(batch.gradients, batch.params[0]), batch.numbers()
        version = g._version
        rows = list(batch.bucket.group.get("parts") or g.shape[1:2])
        parts = (
            zip(*[torch.split(t, rows, dim=1) for t in (g, *stacks)], strict=True) if len(rows) > 1 else [(g, *stacks)]
        )
        found = [self.directions(part, namespace(names, buffers), h) for part, *buffers in parts]
        u = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        if not torch.compiler.is_compiling() and g._version != version:
            raise RuntimeError(
                f"{type(self).__name__}.directions writes into g, which may be the user's p.grad; copy it"
            )
        for stack, (local, like) in zip(stacks, owned, strict=True):
            torch._foreach_copy_(local, batch.own(stack, like))
        return batch.own(u, batch.params[0])


@cache  # once
def _log_vectors(name: str) -> None:
    logger.warning("%s: no parameter is a matrix, so all are AdamW's", name)


def embeddings() -> set[Tensor]:
    """The parameters of all embeddings there are; slow, as it looks at all objects."""
    lookups = (o for o in gc.get_objects() if issubclass(type(o), (nn.Embedding, nn.EmbeddingBag)))
    return {p for module in lookups for p in module.parameters(recurse=False)}
