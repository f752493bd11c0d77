"""Many tensors behind the methods of one: what lets ``update`` be written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

Scalar: TypeAlias = "float | TensorList"


class TensorList:
    """Tensors that answer together to Tensor's own methods, through ``torch._foreach_*``.

    ``update`` is written for a Tensor and cannot tell when it is given a TensorList. A scalar is a Python number or a
    TensorList of 0-dim tensors, one per tensor or one for all: that is how hyper-parameters enter a compiled or
    captured step. A scalar that is a plain Tensor is not accepted; wrap it.

    It is not a ``list``: torch.compile cannot trace through subclasses of list.

    >>> a = TensorList([torch.ones(2), torch.zeros(3)])
    >>> (a + 1).mul_(TensorList([torch.tensor(10.0)])).tensors
    [tensor([20., 20.]), tensor([10., 10., 10.])]
    """

    __slots__ = ("tensors",)

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"TensorList({self.tensors})"

    @property
    def dtype(self) -> torch.dtype:
        """That of the first tensor."""
        return self.tensors[0].dtype

    def _operand(self, other: Scalar) -> Any:
        """What ``torch._foreach_*`` takes beside these tensors: a number, or a list as long as they are."""
        if not isinstance(other, TensorList):
            return self._number(other)
        tensors = other.tensors
        if other.dtype is not self.dtype and tensors[0].ndim == 0:  # else 0-dim parameters would be promoted to float64
            tensors = [t.to(self.dtype) for t in tensors]
        return tensors if len(tensors) == len(self.tensors) else tensors * len(self.tensors)

    def _number(self, x: Any) -> Any:
        """``x``; on CPU as a 0-dim tensor of these tensors' dtype, which torch works through four times faster."""
        if self.tensors[0].device.type != "cpu" or not isinstance(x, (int, float)) or torch.compiler.is_compiling():
            return x
        return torch.tensor(x, dtype=self.dtype, device="cpu")

    def to(self, dtype: torch.dtype) -> TensorList:
        """These tensors in ``dtype``: this list itself if all are, else with copies of those that are not."""
        if all(t.dtype is dtype for t in self.tensors):
            return self
        return TensorList([t.to(dtype) for t in self.tensors])

    def clone(self) -> TensorList:
        return TensorList([t.clone() for t in self.tensors])

    def count_nonzero(self) -> TensorList:
        """The number of nonzero elements of each tensor (int64, 0-dim)."""
        return TensorList([t.count_nonzero() for t in self.tensors])

    def copy_(self, source: TensorList) -> TensorList:
        torch._foreach_copy_(self.tensors, source.tensors)
        return self

    def lerp_(self, end: TensorList, weight: Scalar) -> TensorList:
        if isinstance(weight, TensorList):  # Inductor has no lowering of _foreach_lerp_ with tensor weights either
            return self.add_(end.sub(self).mul_(weight))
        torch._foreach_lerp_(self.tensors, end.tensors, weight)
        return self

    def addcmul_(self, tensor1: TensorList, tensor2: TensorList, value: Scalar = 1) -> TensorList:
        if isinstance(value, TensorList):
            return self.add_(tensor1.mul(tensor2).mul_(value))
        torch._foreach_addcmul_(self.tensors, tensor1.tensors, tensor2.tensors, value)
        return self

    def exp_(self) -> TensorList:
        if torch.compiler.is_compiling():  # Inductor has no lowering of _foreach_exp_
            return TensorList([t.exp_() for t in self.tensors])
        torch._foreach_exp_(self.tensors)
        return self

    def add(self, other: Scalar, alpha: Scalar = 1) -> TensorList:
        return TensorList(_accumulate(torch._foreach_add, self, other, alpha))

    def add_(self, other: Scalar, alpha: Scalar = 1) -> TensorList:
        _accumulate(torch._foreach_add_, self, other, alpha)
        return self

    def clamp_min_(self, other: Scalar) -> TensorList:
        torch._foreach_clamp_min_(self.tensors, self._operand(other) if isinstance(other, TensorList) else other)
        return self

    def sub(self, other: TensorList, alpha: Scalar = 1) -> TensorList:
        return TensorList(_accumulate(torch._foreach_sub, self, other, alpha))

    def sub_(self, other: TensorList, alpha: Scalar = 1) -> TensorList:
        _accumulate(torch._foreach_sub_, self, other, alpha)
        return self

    def __rsub__(self, other: float) -> TensorList:
        return self.neg().add_(other)

    if TYPE_CHECKING:  # the methods generated below

        def mul(self, other: Scalar) -> TensorList: ...
        def mul_(self, other: Scalar | list[int]) -> TensorList: ...
        def div(self, other: Scalar | list[int]) -> TensorList: ...
        def div_(self, other: Scalar) -> TensorList: ...
        def neg(self) -> TensorList: ...
        def neg_(self) -> TensorList: ...
        def abs_(self) -> TensorList: ...
        def reciprocal_(self) -> TensorList: ...
        def sign(self) -> TensorList: ...
        def sign_(self) -> TensorList: ...
        def sqrt(self) -> TensorList: ...
        def sqrt_(self) -> TensorList: ...
        def __add__(self, other: Scalar) -> TensorList: ...
        def __sub__(self, other: TensorList) -> TensorList: ...
        def __mul__(self, other: Scalar) -> TensorList: ...
        def __rmul__(self, other: Scalar) -> TensorList: ...
        def __truediv__(self, other: Scalar) -> TensorList: ...
        def __neg__(self) -> TensorList: ...


def _accumulate(foreach: Callable[..., Any], these: TensorList, other: Scalar, alpha: Scalar) -> Any:
    """``foreach`` of ``these ± alpha · other``; torch takes an ``alpha`` only between tensors, and only a number."""
    if isinstance(alpha, TensorList):
        other, alpha = other * alpha, 1
    operand = these._operand(other)
    return foreach(these.tensors, operand) if alpha == 1 else foreach(these.tensors, operand, alpha=alpha)


def _method(name: str) -> Callable[..., TensorList]:
    """The method ``name`` of a TensorList: torch's foreach function of that name, in place where it ends in ``_``."""
    foreach, in_place = getattr(torch, f"_foreach_{name}"), name.endswith("_")

    def method(self: TensorList, *others: Scalar) -> TensorList:
        result = foreach(self.tensors, *[self._operand(other) for other in others])
        return self if in_place else TensorList(result)

    method.__name__ = name
    return method


for _name in ["mul", "mul_", "div", "div_", "neg", "neg_", "abs_", "reciprocal_", "sign", "sign_", "sqrt", "sqrt_"]:
    setattr(TensorList, _name, _method(_name))
for _operator, _name in dict(add="add", sub="sub", mul="mul", rmul="mul", truediv="div", neg="neg").items():
    setattr(TensorList, f"__{_operator}__", getattr(TensorList, _name))
