"""What ``update`` may write: the same numbers for one tensor, many, pieces and compiled; what it may not is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import Optimizer
from optzoo.optimizers.core import buckets
from optzoo.optimizers.core import optimizer as optimizer_module
from optzoo.optimizers.core.tensorlist import TensorList
from support.features import needs
from support.problems import gradients, tensors, trajectory

SHAPES = [(), (7,), (40, 41), (1000,)]
Update = Callable[[Any, Any, Any, Any], Any]


def smooth(p: Any, g: Any, s: Any, h: Any) -> Any:
    a = g.abs() + h.x
    m = s.m.lerp_(g.square(), 1 - h.beta1).lerp(p, 0.25)
    u = a.log() + a.log1p().log2() - torch.log10(a + 1) + a.rsqrt() * a.reciprocal() + m.tanh()
    u += g.sin() * g.cos() + torch.erf(g).expm1() - a.neg().exp()
    u -= g.addcmul(g, m, value=0.3).addcdiv(g, a, value=h.x)
    u *= 2 / (a + 1) - 1 + (3 - g) / 7
    return u / a.sqrt()


def pieced(p: Any, g: Any, s: Any, h: Any) -> Any:
    low = torch.where(g.gt(h.x), torch.maximum(g, p), torch.minimum(g, s.m + 0.1))
    mask = g.lt(0.5).logical_and(g.ge(-0.5)).logical_or(p.ne(p).logical_not().logical_xor(p.le(0)))
    s.m.copy_(low.clamp(h.x * -1, 1.5)).mul_(h.beta1)
    u = low.masked_fill(mask, 0.25).copysign(g) + g.clamp_min(0.2) + g.clamp_max(h.x) + p.clamp(max=1.0)
    u **= 2
    u += (2.5 * g).round() + g.floor() + torch.ceil(p) + p.trunc() + g.frac() + mask * 0.5 + g.eq(p) + g**3
    return (
        u.where(u.isfinite(), torch.zeros_like(u)).add_(g.sign().neg_(), alpha=h.x) + g.logical_not() + g.nan_to_num()
    )


def compared(p: Any, g: Any, s: Any, h: Any) -> Any:
    mask = ((g < 0.5) & (g >= -h.x)) | (p != s.m) ^ (p <= 0)
    return -(g * mask) + (g > h.x) + (g == p)


def powers(p: Any, g: Any, s: Any, h: Any) -> Any:
    a = g.abs().add(0.1)
    return a.sigmoid() + a**1.7 + a.pow(h.x) + 1.5**g + a.pow_(g)


def make(update: Update, params: Sequence[nn.Parameter], **options: Any) -> Optimizer:
    """An optimizer with a buffer ``m`` and an option ``x``."""

    class Own(Optimizer):
        buffers = ("m",)

        def __init__(self, params: Any, lr: float = 0.1, x: float = 0.3, **options: Any) -> None:
            super().__init__(params, dict(lr=lr, x=x, betas=(0.9,), weight_decay=0.0), options)

    Own.update = staticmethod(update)  # type: ignore[method-assign]
    return Own(params, **options)


def walk(update: Update, dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES, **options: Any) -> list[Tensor]:
    params = [nn.Parameter(t) for t in tensors(shapes, dtype)]
    return trajectory(make(update, params, **options), params, gradients(3, shapes, dtype))[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("update", [smooth, pieced, compared])
def test_one_tensor_many_and_pieces_give_the_same_bits(
    update: Update, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = walk(update, dtype, foreach=False)
    assert all(p.isfinite().all() for p in loop)
    assert all(map(torch.equal, loop, walk(update, dtype, foreach=True)))
    for shape, whole in zip(SHAPES, loop, strict=True):
        if shape == (1000,):  # the gradients of the others depend on their place
            assert walk(update, dtype)[-1].equal(whole)
    for size in (37, 999):
        monkeypatch.setattr(buckets, "CPU_PIECE", size)
        assert all(map(torch.equal, loop, walk(update, dtype))), size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sigmoid_and_powers_are_within_a_rounding_of_it(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = walk(powers, dtype, foreach=False)
    monkeypatch.setattr(buckets, "CPU_PIECE", 37)
    for whole, cut in zip(loop, walk(powers, dtype), strict=True):
        torch.testing.assert_close(whole, cut, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("update", [smooth, pieced, compared, powers])
def test_numbers_that_are_tensors_give_the_same(update: Update) -> None:
    """``capturable`` and a Tensor lr, where hyper-parameters are TensorLists."""
    number = walk(update, torch.float64)
    for options in ({"capturable": True}, {"lr": torch.tensor(0.1, dtype=torch.float64)}):
        for a, b in zip(number, walk(update, torch.float64, **options), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("update", [smooth, pieced, compared, powers])
def test_fused_is_within_rounding(update: Update, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(40, 41), (100,)]
    default = walk(update, dtype, shapes)
    monkeypatch.setattr(optimizer_module, "SMALLEST", 2)
    if update is compared:
        needs("torch.compile that traces all operators", traces_operators())
    for a, b in zip(default, walk(update, dtype, shapes, fused=True), strict=True):
        error = (a.double() - b.double()).abs() / (1 + a.double().abs())
        assert error.max() <= {torch.float32: 2**-20, torch.bfloat16: 2**-6}[dtype]


def traces_operators() -> bool:
    """Whether torch.compile traces & of objects that are no tensors; it could not up to torch 2.8."""
    with contextlib.suppress(torch._dynamo.exc.Unsupported):
        mask = TensorList([torch.ones(2).bool()])
        torch.compile(lambda: (mask & mask).tensors, backend="eager", fullgraph=True)()
        return True
    return False


REFUSED: dict[str, Update] = {
    "norm": lambda p, g, s, h: g / g.norm(),
    "sum": lambda p, g, s, h: g / torch.sum(g),
    "mean": lambda p, g, s, h: g - g.mean(),
    "max": lambda p, g, s, h: g / g.abs().max(),
    "matmul": lambda p, g, s, h: g @ g,
    "dot": lambda p, g, s, h: g * g.dot(p),
    "argmax": lambda p, g, s, h: g * g.argmax(),
    "item": lambda p, g, s, h: g * g.item(),
    "vector_norm": lambda p, g, s, h: g / torch.linalg.vector_norm(g),
    "shape": lambda p, g, s, h: g / g.shape[0],
    "getitem": lambda p, g, s, h: g * g[0],
    "bool": lambda p, g, s, h: g if g > 0 else -g,
    "len": lambda p, g, s, h: g * len(g),
    "iter": lambda p, g, s, h: g * next(iter(g)),
}


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"fused": True}], ids=str)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_see_a_piece_raises_and_names_measure(
    name: str, count: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_module, "SMALLEST", 2)
    params = [nn.Parameter(t) for t in tensors([(5,)] * count)]
    before = [p.detach().clone() for p in params]
    optimizer = make(REFUSED[name], params, **options)
    for p in params:
        p.grad = torch.ones_like(p)
    for _ in range(2):
        with pytest.raises((AttributeError, TypeError), match=rf"no .*{name}.*measure\(p, g, s, h\)"):
            optimizer.step()
    assert all(map(torch.equal, params, before))


def test_every_path_that_flags_choose_is_tried() -> None:
    """A fault behind an option raises when the option is first set, in the middle of a run too."""
    p = nn.Parameter(torch.ones(3))
    optimizer = make(lambda p, g, s, h: g / g.norm() if h.maximize else g, [p])
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["maximize"] = True
    with pytest.raises(AttributeError, match="measure"):
        optimizer.step()


def test_what_is_measured_is_elementwise_too() -> None:
    class Normalized(Optimizer):
        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, dict(lr=lr, weight_decay=0.0), {})

        @staticmethod
        def measure(p: Any, g: Any, s: Any, h: Any) -> tuple[Any, ...]:
            return (g / g.norm(),)

        def prepare(self, buckets: Any) -> None:
            for bucket in buckets:
                self.square_sums(bucket)

    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(AttributeError, match="update and measure have no 'norm'"):
        Normalized([p]).step()


@pytest.mark.parametrize("name", ["p", "g"])
def test_writing_into_the_parameter_or_the_gradient_is_refused(name: str) -> None:
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        written = p if name == "p" else g
        written *= 2
        return written.clone()

    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=rf"update writes into {name}; make a new tensor"):
        make(update, [p]).step()
    assert p.grad.equal(torch.ones(3))
    assert p.equal(torch.ones(3))


@pytest.mark.compiled
def test_what_cannot_be_compiled_shows_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        print(end="")
        return open("/dev/null").fileno() * g

    monkeypatch.setattr(optimizer_module, "SMALLEST", 2)
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"torch.compile failed: Unsupported: .*builtin.*Leave fused=None") as raised:
        make(update, [p], fused=True).step()
    assert "C++" not in str(raised.value)


def test_inversion_is_logical_not() -> None:
    masks = TensorList([torch.tensor([True, False]), torch.tensor([False])])
    assert (
        [t.tolist() for t in (~masks).tensors]
        == [t.tolist() for t in masks.logical_not().tensors]
        == [[False, True], [True]]
    )
