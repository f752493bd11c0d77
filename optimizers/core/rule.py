"""One step of the contract θ ← θ − lr · (gain · T(u) + λθ), u = update(p, g, s, h), on one piece. The only copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from . import transforms
from .buckets import Bucket, Piece, namespace
from .scalars import Namespace, wrapped
from .tensorlist import TensorList

Update: TypeAlias = Callable[[Any, Any, Any, Any], Any]


def operands(p: Any, g: Any, h: Namespace) -> tuple[Any, Any]:
    """The parameter and the gradient that is followed, in the working precision."""
    dtype = working_dtype(p.dtype)
    p, g = p.to(dtype), g.to(dtype)
    if h.maximize:
        g = g.neg()  # not -g, which torch.compile could not trace before torch 2.9
    if h.decays and not h.decoupled_weight_decay:
        g = g.add(p, alpha=h.weight_decay)  # a new tensor: p.grad belongs to the user
    return p, g


def rehearse(update: Update, bucket: Bucket) -> None:
    """Run ``update`` on tensors without elements: whatever is not elementwise raises here, see :class:`TensorList`.

    The step itself hands single Tensors over as they are, which costs nothing, and which answer to everything.
    """
    row = [TensorList([t.new_zeros((0,) * t.ndim)]) for t in bucket.rows[0]]
    p, g, *buffers = row
    h = wrapped(bucket.h, [0])
    update(*operands(p, g, h), namespace(bucket.buffers, buffers), h)
    for name, t in (("p", p), ("g", g)):
        if t.tensors[0]._version:
            raise RuntimeError(f"update writes into {name}; make a new tensor of it, {name}.mul(x) instead of mul_(x)")


def direction(update: Update, p: Any, g: Any, s: Namespace, h: Namespace) -> Any:
    """T(u) for one piece, with the buffers ``s`` brought up to date; Cautious' scale is still to be applied."""
    p, g = operands(p, g, h)
    u = update(p, g, s, h)
    if u is g and (h.grams or h.cautious):
        u = g.clone()  # transforms overwrite it
    if h.grams:
        u = transforms.grams(u, g)
    if h.cautious:
        u = transforms.cautious(u, g)
    return u


def descend(p: Any, u: Any, scale: Any, h: Namespace) -> None:
    """θ ← (1 − lr λ) θ − lr · gain · scale · u in the working precision, rounded once to the parameter's dtype."""
    theta = p.to(working_dtype(p.dtype))
    if h.decays and h.decoupled_weight_decay:
        theta.mul_(1 - h.lr * h.weight_decay)
    step_size = h.lr * h.gain
    if scale is None:
        theta.sub_(u, alpha=step_size)
    else:
        theta.addcmul_(u, scale, value=step_size * -1.0)
    if theta is not p:
        p.copy_(theta)


def needs_count(h: Namespace, recording: bool) -> bool:
    """Whether the kept coordinates are counted: to scale the update by what only the whole tensor can tell, or to tell.

    recording: the optimizer is asked to report on this step.
    """
    return bool(h.cautious) and (recording or h.cautious_scale is not None)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of arithmetic and state: float32 for parameters of less."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of numbers about a tensor, such as its norm."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


class Eager:
    """The rule as it stands, one torch operation at a time."""

    def __init__(self, update: Update, measure: Update) -> None:
        self.update, self.measure = update, measure

    def norms(self, piece: Piece, h: Namespace) -> list[list[Tensor]]:
        """Of each quantity that ``measure`` returns, the norm over each tensor of a piece."""
        p, g = operands(piece.p, piece.g, h)
        return [list(torch._foreach_norm(x.tensors)) for x in self.measure(p, g, piece.s, h)]

    def whole(self, piece: Piece, h: Namespace) -> None:
        """A step without a scale."""
        descend(piece.p, direction(self.update, piece.p, piece.g, piece.s, h), None, h)

    def first(self, piece: Piece, h: Namespace) -> tuple[Any, list[Tensor]]:
        """The update before its scale, and how many coordinates of each tensor it moves.

        Of a big tensor only the count, from copies of its buffers: ``second`` computes the update again, which bounds
        the memory of a step.
        """
        s = piece.s
        if not piece.small:
            s = namespace(vars(s), [buffer.clone() for buffer in vars(s).values()])
        u = direction(self.update, piece.p, piece.g, s, h)
        return u if piece.small else None, transforms.kept(u)

    def second(self, piece: Piece, u: Any, scale: list[Tensor] | None, h: Namespace) -> None:
        """The rest of the step, once the scale of each tensor is known, if there is one."""
        if u is None:
            u = direction(self.update, piece.p, piece.g, piece.s, h)
        descend(piece.p, u, None if scale is None else TensorList(scale) if isinstance(u, TensorList) else scale[0], h)
