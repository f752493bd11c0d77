"""A TensorList answers to Tensor's elementwise methods as its tensors would, to the bit, and to no others."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch

from optzoo.optimizers.core import TensorList
from optzoo.optimizers.core.tensorlist import FOREACH, LIKE, METHODS
from support.problems import tensors

SHAPES = [(), (5,), (3, 4)]
LIST, MASK = "list", "mask"
"""Stand for another TensorList, of numbers or of truth values."""

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
OPERANDS: list[tuple[str, list[tuple[Any, ...]]]] = [
    ("mul mul_ div div_ pow pow_ copysign copysign_", [(LIST,), (0.3,)]),
    ("clamp_min clamp_min_ clamp_max clamp_max_", [(LIST,), (0,), (0.3,)]),
    ("maximum minimum copy_", [(LIST,)]),
    ("eq ne lt le gt ge", [(LIST,), (0,), (0.3,)]),
    ("logical_and logical_and_ logical_or logical_or_ logical_xor logical_xor_", [(LIST,), (MASK,)]),
    ("add add_ sub sub_", [(LIST,), (0.3,), (2,)]),
    ("lerp lerp_", [(LIST, 0.1)]),
    ("addcmul addcmul_ addcdiv addcdiv_", [(LIST, LIST)]),
    ("masked_fill masked_fill_", [(MASK, 0.3)]),
    ("clamp clamp_", [(-0.5, 0.3), (LIST, LIST)]),
    ("where", [(MASK, LIST), (MASK, 0.3)]),
    ("fill_", [(0.3,)]),
    ("to", [(torch.float64,)]),
]
BINARY = {name: arguments for names, arguments in OPERANDS for name in names.split()}
KEYWORDS: list[Call] = [
    *[(name, (other,), {"alpha": 0.3}) for name in ("add", "add_", "sub", "sub_") for other in (LIST, 2.0)],
    *[(name, (LIST, LIST), {"value": 0.3}) for name in ("addcmul", "addcmul_", "addcdiv", "addcdiv_")],
    *[("clamp", (), keywords) for keywords in ({"min": -0.1}, {"max": 0.1}, {"min": -0.1, "max": 0.1})],
    ("lerp", (LIST,), {"weight": 0.1}),
    ("nan_to_num", (), {"nan": 0.3}),
]
CALLS: list[Call] = [
    *[(name, arguments, {}) for name in sorted(METHODS) for arguments in BINARY.get(name, [()])],
    *KEYWORDS,
]
OPERATORS = sorted({"add", "sub", "mul", "truediv", "pow", "eq", "ne", "lt", "le", "gt", "ge"})
IN_PLACE = ["iadd", "isub", "imul", "itruediv", "ipow"]


def given(seed: int, dtype: torch.dtype, kind: Any = LIST) -> Any:
    """Numbers, or truth values, of both signs, away from zero; anything else is an operand as it stands."""
    if kind not in (LIST, MASK):
        return kind
    found = TensorList(tensors(SHAPES, dtype, seed=seed))
    return TensorList([t > 0 for t in found.tensors]) if kind == MASK else found


def assert_same(result: Any, expected: list[torch.Tensor]) -> None:
    assert isinstance(result, TensorList)
    for ours, theirs in zip(result.tensors, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def compare(call: Callable[..., Any], dtype: torch.dtype, *kinds: Any, **keywords: Any) -> None:
    """``call`` of lists is that of every tensor; of many tensors and of one; operands are left alone or written to."""
    others = [given(i, dtype, kind) for i, kind in enumerate(kinds, start=1)]
    for count in (len(SHAPES), 1):
        part = [TensorList(other.tensors[:count]) if isinstance(other, TensorList) else other for other in others]
        theirs = tensors(SHAPES, dtype)[:count]
        rows = zip(
            *[other.tensors if isinstance(other, TensorList) else [other] * count for other in part], strict=True
        )
        expected = [call(t, *row, **keywords) for t, row in zip(theirs, rows if part else [()] * count, strict=True)]
        ours = TensorList(tensors(SHAPES, dtype)[:count])
        assert_same(call(ours, *part, **keywords), expected)
        assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "arguments", "keywords"), CALLS, ids=str)
def test_method_is_that_of_every_tensor(
    name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], dtype: torch.dtype
) -> None:
    compare(lambda t, *a, **k: getattr(t, name)(*a, **k), dtype, *arguments, **keywords)
    if name != "to" and hasattr(torch, name) and not name.endswith("_"):
        function: Callable[..., Any] = getattr(torch, name)
        if name == "where":
            compare(lambda t, mask, other: function(mask, t, other), dtype, *arguments)
            compare(lambda t, mask, other: function(mask, other, t), dtype, *arguments)
        else:
            compare(function, dtype, *arguments, **keywords)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*OPERATORS, *IN_PLACE])
def test_operators_take_numbers_on_either_side(name: str, dtype: torch.dtype) -> None:
    call: Callable[..., Any] = getattr(operator, name)
    for other in (LIST, 2, 0.3):
        compare(call, dtype, other)
    if name in OPERATORS:
        compare(lambda t, x: call(x, t), dtype, 2)
        compare(lambda t, x: call(x, t), dtype, 0.3)


def test_operators_of_one_operand_and_of_masks() -> None:
    compare(operator.neg, torch.float32)
    compare(abs, torch.float32)
    for call in (operator.and_, operator.or_, operator.xor):
        compare(lambda t, mask, call=call: call(t > 0.5, mask), torch.float32, MASK)  # type: ignore[misc]
    compare(lambda t: ~(t > 0), torch.float32)
    compare(lambda t: (t > 0) * 2.5, torch.float32)
    compare(lambda t, other: (t > 0) * other, torch.float64, LIST)


@pytest.mark.parametrize("name", sorted(LIKE))
def test_functions_that_make_tensors_like_others(name: str) -> None:
    arguments = (0.3,) if name == "full_like" else ()
    compare(getattr(torch, name), torch.float64, *arguments)


def test_every_torch_has_the_foreach_functions_and_the_docstring_names_every_method() -> None:
    assert all(hasattr(torch, f"_foreach_{name}") for name in FOREACH)
    assert all(hasattr(torch.Tensor, name) for name in METHODS)
    text = inspect.getdoc(TensorList) or ""
    for name in METHODS:
        assert f"``{name}``" in text or f"``{name.removesuffix('_')}``" in text, name


@pytest.mark.parametrize("name", ["norm", "sum", "mean", "max", "argmax", "dot", "item", "shape", "numel", "view"])
def test_whatever_takes_more_than_one_number_at_a_time_names_measure(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"no '{name}'.*piece of a parameter.*measure\(p, g, s, h\)"):
        getattr(given(0, torch.float32), name)
    assert not hasattr(given(0, torch.float32), name)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x @ x,
        lambda x: x[0],
        lambda x: float(x),
        lambda x: x if x > 0 else -x,
        lambda x: max(x, 0),
        lambda x: x // 2,
        lambda x: torch.sum(x),
        lambda x: torch.linalg.vector_norm(x),
        lambda x: torch.stack([x, x]),
    ],
)
def test_products_indices_and_branches_name_measure_too(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"piece of a parameter.*measure\(p, g, s, h\)"):
        call(given(0, torch.float32))


def test_operands_of_the_wrong_kind_are_refused() -> None:
    x = given(0, torch.float32)
    with pytest.raises(TypeError, match=r"0\.5; clamp_min takes numbers"):
        x.maximum(0.5)
    with pytest.raises(TypeError, match="a Tensor beside a TensorList"):
        torch.ones(1) * x
    with pytest.raises(ValueError, match="min, max or both"):
        x.clamp()


@pytest.mark.parametrize(
    ("name", "arguments"), [("lerp_", 1), ("addcmul_", 2), ("addcdiv_", 2), ("add", 1), ("sub_", 1)]
)
def test_a_scalar_may_be_a_list_of_0_dim_tensors(name: str, arguments: int) -> None:
    """One for all or one for each; in float64 beside float32, as hyper-parameters come into a compiled step."""
    keyword = {"lerp_": "weight", "addcmul_": "value", "addcdiv_": "value"}.get(name, "alpha")
    others = [TensorList(tensors(SHAPES, torch.float32, seed=i)) for i in range(1, arguments + 1)]
    by_number = getattr(TensorList(tensors(SHAPES, torch.float32)), name)(*others, **{keyword: 0.3})
    for count in (1, len(SHAPES)):
        scalar = TensorList([torch.tensor(0.3, dtype=torch.float64)] * count)
        by_list = getattr(TensorList(tensors(SHAPES, torch.float32)), name)(*others, **{keyword: scalar})
        for a, b in zip(by_number.tensors, by_list.tensors, strict=True):
            assert a.dtype == b.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda t, x: t > x,
        lambda t, x: t.abs() ** x,
        lambda t, x: t.clamp(x, 2.0),
        lambda t, x: t.clamp_max(x),
        lambda t, x: t.masked_fill(t > 0, x),
        lambda t, x: t.where(t > 0, x),
        lambda t, x: torch.where(t > 0, x, t),
        lambda t, x: t / x,
        lambda t, x: t - x,
    ],
)
def test_such_a_scalar_goes_where_a_number_goes(call: Callable[[Any, Any], Any]) -> None:
    for count in (1, len(SHAPES)):
        scalar = TensorList([torch.tensor(0.3, dtype=torch.float64)] * count)
        by_list, by_number = (call(given(0, torch.float32), x) for x in (scalar, 0.3))
        for a, b in zip(by_list.tensors, by_number.tensors, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)
