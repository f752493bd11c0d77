"""A TensorList answers to Tensor's methods as its tensors would, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optzoo.optimizers.core import TensorList
from support.problems import tensors

SHAPES = [(), (5,), (3, 4)]
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("lerp_", ("list", 0.1), {}),
    ("addcmul_", ("list", "list"), {"value": 0.3}),
    ("add", ("list",), {}),
    ("add", ("list",), {"alpha": 0.3}),
    ("add_", (0.3,), {}),
    ("sub", ("list",), {}),
    ("sub_", ("list",), {"alpha": 0.3}),
    ("mul", (0.3,), {}),
    ("mul_", ("list",), {}),
    ("div", (0.3,), {}),
    ("div_", ("list",), {}),
    ("clamp_min_", (0,), {}),
    ("clamp_min_", ("list",), {}),
    ("copy_", ("list",), {}),
    ("clone", (), {}),
    ("count_nonzero", (), {}),
    *[(name, (), {}) for name in ("neg", "neg_", "abs_", "exp_", "reciprocal_", "sign", "sign_", "sqrt", "sqrt_")],
    *[(f"__{name}__", ("list",), {}) for name in ("add", "sub", "mul", "truediv")],
    *[(f"__{name}__", (0.3,), {}) for name in ("add", "mul", "rmul", "truediv", "rsub")],
    ("__neg__", (), {}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "arguments", "keywords"), CALLS)
def test_method_is_that_of_every_tensor(
    name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], dtype: torch.dtype
) -> None:
    these, others = tensors(SHAPES, dtype), tensors(SHAPES, dtype, seed=1)
    expected = [
        getattr(t.clone(), name)(*[o if a == "list" else a for a in arguments], **keywords)
        for t, o in zip(these, others, strict=True)
    ]
    whole = TensorList(these)
    result = getattr(whole, name)(*[TensorList(others) if a == "list" else a for a in arguments], **keywords)
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    in_place = name.endswith("_") and not name.endswith("__")
    assert (result is whole) == in_place
    if not in_place:
        assert all(map(torch.equal, these, tensors(SHAPES, dtype)))


@pytest.mark.parametrize(("name", "arguments"), [("lerp_", 1), ("addcmul_", 2), ("add", 1), ("sub_", 1)])
def test_a_scalar_may_be_a_list_of_0_dim_tensors(name: str, arguments: int) -> None:
    """One for all or one for each; in float64 beside float32, as hyper-parameters come into a compiled step."""
    keyword = {"lerp_": "weight", "addcmul_": "value"}.get(name, "alpha")
    others = [TensorList(tensors(SHAPES, torch.float32, seed=i)) for i in range(1, arguments + 1)]
    by_number = getattr(TensorList(tensors(SHAPES, torch.float32)), name)(*others, **{keyword: 0.3})
    for count in (1, len(SHAPES)):
        scalar = TensorList([torch.tensor(0.3, dtype=torch.float64)] * count)
        by_list = getattr(TensorList(tensors(SHAPES, torch.float32)), name)(*others, **{keyword: scalar})
        for a, b in zip(by_number, by_list, strict=True):
            assert a.dtype == b.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=3e-7, atol=3e-7)
