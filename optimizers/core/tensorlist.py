"""Many tensors behind the methods of one: what lets ``update`` be written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import torch
from torch import Tensor

Scalar: TypeAlias = "float | TensorList"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FOREACH = _names(
    "abs abs_ ceil ceil_ cos cos_ div div_ erf erf_ exp exp_ expm1 expm1_ floor floor_ frac frac_ log log_ log10 log10_"
    " log1p log1p_ log2 log2_ mul mul_ neg neg_ reciprocal reciprocal_ round round_ sigmoid sigmoid_ sign sign_ sin"
    " sin_ sqrt sqrt_ tanh tanh_ trunc trunc_"
)
"""Methods that are one call of ``torch._foreach_*``, in every torch from 2.6 on."""
LOWERED = _names("abs abs_ div div_ mul mul_ neg neg_ reciprocal reciprocal_ sign sign_ sqrt sqrt_")
"""Those of them that Inductor knows, so that a compiled step calls them too; of the others it gets a loop."""
EACH = _names(
    "clone copysign copysign_ eq fill_ ge gt isfinite isinf isnan le logical_and logical_and_ logical_not logical_not_"
    " logical_or logical_or_ logical_xor logical_xor_ lt masked_fill masked_fill_ nan_to_num nan_to_num_ ne pow pow_"
    " rsqrt rsqrt_ square square_ where zero_"
)
"""Methods that are a loop over the tensors: torch has no foreach function in all versions, or one that differs."""
WRITTEN = _names(
    "add add_ addcdiv addcdiv_ addcmul addcmul_ clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ copy_ lerp lerp_"
    " maximum minimum sub sub_ to"
)
"""Methods written out below."""
METHODS = FOREACH | EACH | WRITTEN
"""All that ``update`` may call, and as ``torch.<name>`` what does not end in ``_``."""
LIKE = frozenset({"zeros_like", "ones_like", "full_like"})
"""Functions of torch that are no methods of Tensor."""


class TensorList:
    """Tensors that answer together to Tensor's own elementwise methods, through ``torch._foreach_*`` where it has them.

    ``update`` is written for a Tensor and cannot tell when it is given a TensorList. There are

    - the methods ``abs``, ``add``, ``addcdiv``, ``addcmul``, ``ceil``, ``clamp``, ``clamp_max``, ``clamp_min``,
      ``copysign``, ``cos``, ``div``, ``erf``, ``exp``, ``expm1``, ``floor``, ``frac``, ``lerp``, ``log``, ``log10``,
      ``log1p``, ``log2``, ``masked_fill``, ``mul``, ``nan_to_num``, ``neg``, ``pow``, ``reciprocal``, ``round``,
      ``rsqrt``, ``sigmoid``, ``sign``, ``sin``, ``sqrt``, ``square``, ``sub``, ``tanh`` and ``trunc``, each also in
      place: ``abs_``, ...; ``maximum``, ``minimum``, ``where``, ``clone``, ``copy_``, ``fill_``, ``zero_``, ``to``;
    - for masks ``eq``, ``ne``, ``lt``, ``le``, ``gt``, ``ge``, ``isfinite``, ``isinf``, ``isnan``, ``logical_and``,
      ``logical_not``, ``logical_or``, ``logical_xor``;
    - the same as functions, ``torch.maximum(a, b)``, with ``torch.zeros_like``, ``ones_like`` and ``full_like``;
    - the operators + - * / ** == != < <= > >= & | ^ ~ with numbers on either side, and += -= *= /= **=; with
      ``fused=True`` write ``logical_not()`` for ~, which torch.compile cannot trace, and the method for what an older
      one cannot either: up to torch 2.8 ``neg()`` for a minus sign alone, ``logical_and()`` for &, and so on, and up to
      torch 2.6 ``gt()`` for > and the like.

    All that takes more than one number of a tensor at a time, reductions, products, indices, shapes, raises: a
    TensorList may hold a piece of a parameter, or many parameters. On CPU torch rounds the last digit of ``sigmoid``
    and of powers other than 2, 3, ±1 and ±1/2 otherwise near the end of a tensor, so that it depends on where a tensor
    is cut; all else does not.

    A scalar is a Python number or a TensorList of 0-dim tensors, one per tensor or one for all: that is how
    hyper-parameters enter a compiled or captured step. A scalar that is a plain Tensor is not accepted; wrap it.

    It is not a ``list``: torch.compile cannot trace through subclasses of list.

    >>> a = TensorList([torch.ones(2), torch.zeros(3)])
    >>> (a + 1).mul_(TensorList([torch.tensor(10.0)])).tensors
    [tensor([20., 20.]), tensor([10., 10., 10.])]
    >>> torch.where(a > 0, 2 / (a + 1), a).tensors
    [tensor([1., 1.]), tensor([0., 0., 0.])]
    """

    __slots__ = ("tensors",)

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)

    def __repr__(self) -> str:
        return f"TensorList({self.tensors})"

    @property
    def dtype(self) -> torch.dtype:
        """That of the first tensor."""
        return self.tensors[0].dtype

    @property
    def device(self) -> torch.device:
        """That of the first tensor."""
        return self.tensors[0].device

    def _operand(self, other: Scalar) -> Any:
        """What ``torch._foreach_*`` takes beside these tensors: a number, or a list as long as they are."""
        return self._list(other) if isinstance(other, TensorList) else self._number(other)

    def _list(self, other: TensorList) -> list[Tensor]:
        """The tensors of ``other``, as many as these."""
        tensors, dtype = other.tensors, self.dtype
        # else 0-dim parameters would be promoted to float64
        if tensors[0].ndim == 0 and other.dtype is not dtype and dtype.is_floating_point:
            tensors = converted(tensors, dtype) if other.dtype.is_floating_point else tensors
        return tensors if len(tensors) == len(self.tensors) else tensors * len(self.tensors)

    def _number(self, x: Any) -> Any:
        """``x``; on CPU as a 0-dim tensor of these tensors' dtype, which torch works through four times faster."""
        if isinstance(x, Tensor):
            raise TypeError(f"a Tensor beside a TensorList, of shape {tuple(x.shape)}; wrap it, TensorList([x])")
        on_cpu = self.tensors[0].device.type == "cpu" and not torch.compiler.is_compiling()
        if not (on_cpu and isinstance(x, (int, float)) and self.dtype.is_floating_point):
            return x
        return torch.tensor(x, dtype=self.dtype, device="cpu")

    def _each(self, function: Callable[..., Any], others: Sequence[Any], keywords: Mapping[str, Any]) -> list[Any]:
        """``function`` of every tensor, with its part of the other operands."""
        rows = zip(*[self._repeated(other) for other in others], strict=True) if others else [()] * len(self.tensors)
        return [
            function(t, *row, **{key: self._repeated(value)[i] for key, value in keywords.items()})
            for i, (t, row) in enumerate(zip(self.tensors, rows, strict=True))
        ]

    def _repeated(self, other: Any) -> Sequence[Any]:
        return self._list(other) if isinstance(other, TensorList) else [other] * len(self.tensors)

    def to(self, dtype: torch.dtype) -> TensorList:
        """These tensors in ``dtype``: this list itself if all are, else with copies of those that are not."""
        if all(t.dtype is dtype for t in self.tensors):
            return self
        return TensorList([t.to(dtype) for t in self.tensors])

    def copy_(self, source: TensorList) -> TensorList:
        torch._foreach_copy_(self.tensors, self._list(source))
        return self

    def lerp(self, end: TensorList, weight: Scalar) -> TensorList:
        return self.clone().lerp_(end, weight)

    def lerp_(self, end: TensorList, weight: Scalar) -> TensorList:
        if isinstance(weight, TensorList):  # Inductor has no lowering of _foreach_lerp_ with tensor weights either
            return self.add_(end.sub(self).mul_(weight))
        torch._foreach_lerp_(self.tensors, self._list(end), weight)
        return self

    def addcmul(self, tensor1: TensorList, tensor2: TensorList, value: Scalar = 1) -> TensorList:
        return self.clone().addcmul_(tensor1, tensor2, value)

    def addcmul_(self, tensor1: TensorList, tensor2: TensorList, value: Scalar = 1) -> TensorList:
        if isinstance(value, TensorList):
            return self.add_(tensor1.mul(tensor2).mul_(value))
        torch._foreach_addcmul_(self.tensors, self._list(tensor1), self._list(tensor2), value)
        return self

    def addcdiv(self, tensor1: TensorList, tensor2: TensorList, value: Scalar = 1) -> TensorList:
        return self.clone().addcdiv_(tensor1, tensor2, value)

    def addcdiv_(self, tensor1: TensorList, tensor2: TensorList, value: Scalar = 1) -> TensorList:
        if isinstance(value, TensorList):
            return self.add_(tensor1.div(tensor2).mul_(value))
        torch._foreach_addcdiv_(self.tensors, self._list(tensor1), self._list(tensor2), value)
        return self

    def add(self, other: Scalar, alpha: Scalar = 1) -> TensorList:
        return TensorList(_accumulate("add", self, other, alpha))

    def add_(self, other: Scalar, alpha: Scalar = 1) -> TensorList:
        _accumulate("add_", self, other, alpha)
        return self

    def sub(self, other: Scalar, alpha: Scalar = 1) -> TensorList:
        return TensorList(_accumulate("sub", self, other, alpha))

    def sub_(self, other: Scalar, alpha: Scalar = 1) -> TensorList:
        _accumulate("sub_", self, other, alpha)
        return self

    def maximum(self, other: TensorList) -> TensorList:
        return TensorList(torch._foreach_maximum(self.tensors, self._list(_no_number(other, "clamp_min"))))

    def minimum(self, other: TensorList) -> TensorList:
        return TensorList(torch._foreach_minimum(self.tensors, self._list(_no_number(other, "clamp_max"))))

    def clamp_min(self, min: Scalar) -> TensorList:
        return TensorList(torch._foreach_clamp_min(self.tensors, self._bound(min)))

    def clamp_min_(self, min: Scalar) -> TensorList:
        torch._foreach_clamp_min_(self.tensors, self._bound(min))
        return self

    def clamp_max(self, max: Scalar) -> TensorList:
        return TensorList(torch._foreach_clamp_max(self.tensors, self._bound(max)))

    def clamp_max_(self, max: Scalar) -> TensorList:
        torch._foreach_clamp_max_(self.tensors, self._bound(max))
        return self

    def _bound(self, other: Scalar) -> Any:
        return self._list(other) if isinstance(other, TensorList) else other

    def clamp(self, min: Scalar | None = None, max: Scalar | None = None) -> TensorList:
        return self.clone().clamp_(min, max)

    def clamp_(self, min: Scalar | None = None, max: Scalar | None = None) -> TensorList:
        if min is None and max is None:
            raise ValueError("clamp needs min, max or both")
        low = self if min is None else self.clamp_min_(min)
        return low if max is None else low.clamp_max_(max)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> TensorList:
        """``torch.<name>`` of TensorLists and numbers."""
        name, keywords = func.__name__, kwargs or {}
        if name not in METHODS | LIKE:
            raise TypeError(_refusal(f"torch.{name}"))
        operands = [*args, *keywords.values()]
        if any(isinstance(operand, Tensor) for operand in operands):
            raise TypeError(f"torch.{name}: a Tensor beside a TensorList; wrap it, TensorList([x])")
        if isinstance(args[0], TensorList) and name in METHODS and name != "where":
            result: TensorList = getattr(args[0], name)(*args[1:], **keywords)
            return result
        lists = [operand for operand in operands if isinstance(operand, TensorList)]
        # Not one of conditions, nor of hyper-parameters, which are in float64 whatever the precision of the parameters.
        these = lists[0]
        for each in lists[1:]:  # not max(key=...), which torch.compile cannot trace
            if _rank(each) > _rank(these):
                these = each
        return TensorList(these._each(lambda _, *row, **named: func(*row, **named), args, keywords))

    def __getattr__(self, name: str) -> NoReturn:  # only reached where the attribute is missing
        raise AttributeError(_refusal(f"{name!r}") if name != "tensors" else name)

    def __rsub__(self, other: float) -> TensorList:
        return self.neg().add_(other)

    def __rtruediv__(self, other: float) -> TensorList:
        return self.reciprocal().mul_(other)

    def __rpow__(self, other: float) -> TensorList:
        return TensorList(self._each(lambda t: other**t, [], {}))

    if TYPE_CHECKING:  # the methods generated below

        def abs_(self) -> TensorList: ...
        def clone(self) -> TensorList: ...
        def div(self, other: Scalar | list[int]) -> TensorList: ...
        def div_(self, other: Scalar) -> TensorList: ...
        def exp_(self) -> TensorList: ...
        def mul(self, other: Scalar) -> TensorList: ...
        def mul_(self, other: Scalar | list[int]) -> TensorList: ...
        def neg(self) -> TensorList: ...
        def neg_(self) -> TensorList: ...
        def reciprocal(self) -> TensorList: ...
        def reciprocal_(self) -> TensorList: ...
        def sign(self) -> TensorList: ...
        def sign_(self) -> TensorList: ...
        def sqrt(self) -> TensorList: ...
        def sqrt_(self) -> TensorList: ...
        def __add__(self, other: Scalar) -> TensorList: ...
        def __sub__(self, other: Scalar) -> TensorList: ...
        def __mul__(self, other: Scalar) -> TensorList: ...
        def __rmul__(self, other: Scalar) -> TensorList: ...
        def __truediv__(self, other: Scalar) -> TensorList: ...
        def __neg__(self) -> TensorList: ...


def converted(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """In another precision: numbers all by one call, but within a graph, which needs no such care."""
    if len(tensors) == 1 or any(t.ndim for t in tensors) or torch.compiler.is_compiling():
        return [t.to(dtype) for t in tensors]
    return list(torch.stack(tensors).to(dtype).unbind())


def _accumulate(name: str, these: TensorList, other: Scalar, alpha: Scalar) -> Any:
    """``these ± alpha · other``; foreach functions take an ``alpha`` only between tensors, and only a number."""
    if isinstance(alpha, TensorList):
        other, alpha = other * alpha, 1
    foreach = getattr(torch, f"_foreach_{name}")
    if isinstance(other, TensorList):
        operand = these._list(other)
        return foreach(these.tensors, operand) if alpha == 1 else foreach(these.tensors, operand, alpha=alpha)
    if alpha != 1:
        return these._each(getattr(Tensor, name), [other], {"alpha": alpha})
    return foreach(these.tensors, these._number(other) if name.startswith("add") else other)


def _no_number(other: Any, instead: str) -> Any:
    if not isinstance(other, TensorList):
        raise TypeError(f"maximum and minimum compare tensors, as Tensor's do, got {other!r}; {instead} takes numbers")
    return other


def _rank(these: TensorList) -> tuple[int, bool, bool]:
    """By which of several operands the others are repeated: the longest, numbers before masks, scalars last."""
    return len(these.tensors), these.dtype.is_floating_point, these.dtype != torch.float64


def _refusal(what: str) -> str:
    return (
        f"update and measure have no {what}: they may see a piece of a parameter, or many parameters, so they treat "
        "each number by itself. For norms of whole parameters write measure(p, g, s, h), and prepare(buckets), which "
        "adds to h what it makes of self.square_sums(bucket). There are the elementwise "
        + ", ".join(sorted(name for name in METHODS if not name.endswith("_")))
    )


def _method(name: str) -> Callable[..., TensorList]:
    """The method ``name`` of a TensorList, in place where the name ends in ``_``."""
    foreach = getattr(torch, f"_foreach_{name}") if name in FOREACH else None
    of_tensor, lowered = getattr(Tensor, name), name in LOWERED
    in_place = name.endswith("_") and not name.endswith("__")

    def method(self: TensorList, *others: Any, **keywords: Any) -> TensorList:
        if foreach is not None and not keywords and (lowered or not torch.compiler.is_compiling()):
            result = foreach(self.tensors, *[self._operand(other) for other in others])
        else:
            result = self._each(of_tensor, others, keywords)
        return self if in_place else TensorList(result)

    method.__name__ = name
    return method


def _refused(name: str) -> Callable[..., NoReturn]:
    def method(self: TensorList, *_: Any) -> NoReturn:
        raise TypeError(_refusal(name))

    return method


for _name in FOREACH | EACH:
    setattr(TensorList, _name, _method(_name))
_OPERATORS = {
    **{name: name for name in ("add", "sub", "mul", "pow", "neg", "abs", "eq", "ne", "lt", "le", "gt", "ge")},
    **{f"i{name}": f"{name}_" for name in ("add", "sub", "mul", "pow")},
    **{"radd": "add", "rmul": "mul", "truediv": "div", "itruediv": "div_"},
}
for _operator, _name in _OPERATORS.items():
    setattr(TensorList, f"__{_operator}__", getattr(TensorList, _name))
for _name in ("__and__", "__or__", "__xor__", "__invert__"):
    setattr(TensorList, _name, _method(_name))
for _name in _names("bool contains float floordiv getitem index int iter len matmul mod rmatmul setitem"):
    setattr(TensorList, f"__{_name}__", _refused(f"__{_name}__"))
