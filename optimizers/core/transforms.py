"""Transforms T of an update direction, in the step θ ← θ − lr · (gain · T(u) + λθ), for every optimizer.

Each works on Tensors and TensorLists alike and may overwrite ``u``. Signs are compared through ``sign(g)``, whose
products are exact: u·g itself underflows to 0, and would mask coordinates that agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tensorlist import TensorList, converted


def grams(u: Tensor, g: Tensor) -> Tensor:
    """sign(g)·|u|: the size of the update, the sign of the gradient (Cao et al., 2024, arXiv:2412.17107)."""
    return u.abs_().mul_(g.sign())


def cautious(u: Tensor, g: Tensor) -> Tensor:
    """u where u·g > 0, else 0 (Liang et al., 2024, arXiv:2411.16085). Exactly the kept coordinates are nonzero."""
    sign = g.sign()
    return u.mul_(sign).clamp_min_(0).mul_(sign)


def kept(u: Tensor | TensorList) -> list[Tensor]:
    """How many coordinates of each tensor are not zero: on CPU by what is fastest, else by a few calls for all."""
    tensors = u.tensors if isinstance(u, TensorList) else [u]
    if tensors[0].device.type == "cpu" or any(t.numel() > EXACT for t in tensors):
        return [t.bool().count_nonzero() for t in tensors]
    return kept_by_norms(tensors)


def kept_by_norms(tensors: list[Tensor]) -> list[Tensor]:
    """The same in calls that do not depend on how many tensors there are, of at most EXACT elements."""
    return converted(list(torch._foreach_norm(torch._foreach_sign(tensors), 1)), torch.int64)


EXACT = 2**24
"""Whole numbers up to here are exact in float32."""


def cautious_scale(kept: TensorList, numel: list[int], kind: str, floor: float) -> TensorList:
    """What makes up for the masked coordinates of tensors of d = ``numel`` elements, n = ``kept`` of which stay.

    ``"floor"``: 1 / max(n/d, floor), the authors' code since January 2025 and timm; at most 1/floor.
    ``"xi"``: d / (n + 1), the paper's equation 1; below 1 where a small tensor agrees everywhere.
    """
    if kind == "xi":
        return (kept + 1).reciprocal_().mul_(numel)
    return kept.div(numel).clamp_min_(floor).reciprocal_()
