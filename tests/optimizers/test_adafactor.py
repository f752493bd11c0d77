"""Adafactor: what it promises, and what other implementations of it get wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optzoo.compare.toys import mean_square_update, rank_one_scales, scattered_scales
from optzoo.optimizers.adafactor import Adafactor
from reference import run
from support.checkpoints import differences, saved
from support.problems import gradients, tensors, trajectory

UNIT = {"lr": 1.0, "scale_parameter": False, "clip_threshold": None}
"""Options under which a step is U itself."""
FIRST_HALF, STEPS = 5, 10


def parameter(shape: Sequence[int], dtype: torch.dtype = torch.float64, device: str = "cpu") -> nn.Parameter:
    return nn.Parameter(torch.zeros(tuple(shape), dtype=dtype, device=device))


def direction(g: Tensor, **options: Any) -> Tensor:
    """U of the first step."""
    p = parameter(g.shape, g.dtype)
    p.grad = g
    Adafactor([p], **{**UNIT, "min_dim_size_to_factor": 2, **options}).step()
    return -p.detach()


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def heavy_tailed(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Squares far from rank one, so that RMS(Û) is well above 1."""
    normal, other = tensors([shape, shape], dtype, seed=3)
    return normal * other.mul(2).exp()


# Memory


@pytest.mark.parametrize(
    ("shape", "whole", "factored"),
    [
        ((1024, 4096), 4_194_304, 5_120),
        ((50_000, 1024), 51_200_000, 51_024),
        ((512, 256, 3, 3), 1_179_648, 6_912),
        ((512, 256, 1, 1), 131_072, 768),
        ((768, 3, 16, 16), 589_824, 589_824),
        ((127, 4096), 520_192, 520_192),
        ((4096,), 4096, 4096),
        ((), 1, 1),
    ],
    ids=str,
)
def test_floats_of_second_moments(shape: tuple[int, ...], whole: int, factored: int) -> None:
    """torch, transformers and fairseq factor the last two dimensions, which doubles the state of 1 × 1 convolutions."""
    for options, expected in (({}, factored), ({"factored": False}, whole)):
        p = parameter(shape, torch.bfloat16, device="meta")
        optimizer = Adafactor([p], **options)
        optimizer.init_state()
        moments = {name: t for name, t in optimizer.state[p].items() if name != "step"}
        assert moments.keys() == ({"variance"} if expected == whole else {"row_var", "col_var"})
        assert sum(t.numel() for t in moments.values()) == expected
        assert {t.dtype for t in moments.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("given", "of_params", "expected"),
    [
        (None, torch.float32, torch.float32),
        (None, torch.bfloat16, torch.float32),
        ("bfloat16", torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
    ids=str,
)
def test_dtype_of_the_momentum(given: Any, of_params: torch.dtype, expected: torch.dtype) -> None:
    p = parameter((128, 130), of_params, device="meta")
    optimizer = Adafactor([p], beta1=0.9, momentum_dtype=given)
    optimizer.init_state()
    assert optimizer.state[p]["exp_avg"].shape == p.shape
    assert optimizer.state[p]["exp_avg"].dtype is expected


def test_state_that_is_made_early_is_the_state_of_a_step() -> None:
    shapes = [(), (5,), (130, 128), (128, 2, 129), (127, 300)]
    kinds = []
    for made_early in (True, False):
        params = [parameter(shape) for shape in shapes]
        optimizer = Adafactor(params, beta1=0.9)
        if made_early:
            optimizer.init_state()
        else:
            trajectory(optimizer, params, [tensors(shapes)])
        kinds.append([{name: (t.shape, t.dtype) for name, t in optimizer.state[p].items()} for p in params])
    assert kinds[0] == kinds[1]


# The direction


@pytest.mark.parametrize(
    ("shape", "a", "b"), [((6, 5), 0, 1), ((5, 6), 0, 1), ((3, 6, 5), 1, 2), ((6, 3, 5, 2), 0, 2), ((8, 8), 0, 1)]
)
def test_rank_one_squares_give_the_sign(shape: tuple[int, ...], a: int, b: int) -> None:
    """For every slice of a batch by itself: jettify averages R over all of them, and fails or is wrong there."""
    (g,) = tensors([shape])
    rows, columns = g.exp().sum(b, keepdim=True), (3 * g).exp().sum(a, keepdim=True)
    g = g.sign() * rows * columns
    torch.testing.assert_close(direction(g, min_dim_size_to_factor=5), g.sign(), rtol=1e-12, atol=0)


def test_what_a_row_and_a_column_can_tell() -> None:
    """Mean U² over the last 100 of 2000 steps on G = H ⊙ N(0, 1): 1.07 if H is of rank one, 34.5 if it is 0.1/U(0, 1).

    Those are for β2 = 0.99, bias-corrected. Capped there, ours weights gradients alike from t = 316 on.
    """
    generator = torch.Generator().manual_seed(0)
    factory = partial(Adafactor, **UNIT, beta2_cap=0.99, min_dim_size_to_factor=100)
    for scales, expected in ((rank_one_scales(generator), 1.07), (scattered_scales(generator), 34.5)):
        assert mean_square_update(factory, scales, generator) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("shape", [(9, 6), (40, 3), (5, 8, 4)], ids=str)
def test_tall_is_wide(shape: tuple[int, ...]) -> None:
    """timm's BigVision variant had a row factor of 1 for matrices of more rows than columns (error 4.19)."""
    grads = [heavy_tailed(*shape) * x for x in tensors([()] * STEPS)]
    ends = []
    for transpose in (False, True):
        (start,) = tensors([shape])
        p = nn.Parameter(start.mT.contiguous() if transpose else start)
        optimizer = Adafactor([p], lr=0.1, min_dim_size_to_factor=2, beta1=0.5)
        trajectory(optimizer, [p], [[g.mT.contiguous() if transpose else g] for g in grads])
        ends.append(p.detach().mT if transpose else p.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (600,)], ids=str)
@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0, 3.0, 100.0])
def test_clipping_bounds_the_update_and_never_enlarges_it(shape: tuple[int, ...], threshold: float) -> None:
    """kozistr's and timm's clamped the other way: small updates grew to RMS d, large ones stayed."""
    unclipped = direction(heavy_tailed(*shape))
    clipped = direction(heavy_tailed(*shape), clip_threshold=threshold)
    assert rms(unclipped) > 1.5 if len(shape) > 1 else rms(unclipped) == pytest.approx(1.0)
    if rms(unclipped) < threshold:
        assert torch.equal(clipped, unclipped)
    else:
        assert rms(clipped) == pytest.approx(threshold, rel=1e-12)
        torch.testing.assert_close(clipped / threshold, unclipped / rms(unclipped), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(20, 30), (600,)], ids=str)
@pytest.mark.parametrize("scale", [1e-8, 1e-12, 1e12])
def test_first_step_does_not_see_the_scale_of_gradients(shape: tuple[int, ...], scale: float) -> None:
    """torch.optim bounds V from below by its eps: steps of 0.088 at gradients of 1e-8, 8.8e-6 at 1e-12."""
    g = tensors([shape], torch.float32)[0]
    g = g.sign() * (g.abs() + 1)
    torch.testing.assert_close(direction(g * scale), direction(g), rtol=1e-5, atol=1e-6)
    assert rms(direction(g * scale)) == pytest.approx(1.0, abs=0.1)


def test_zero_gradients_and_what_follows_them() -> None:
    for shape in ((4, 5), (6,)):
        p = parameter(shape, torch.float32)
        optimizer = Adafactor([p], lr=1.0, scale_parameter=False, min_dim_size_to_factor=2)
        trajectory(optimizer, [p], [[torch.zeros(shape)]] * 50)
        assert not p.any()
        trajectory(optimizer, [p], [[torch.full(shape, 1e3)]])
        assert rms(p.detach()) == pytest.approx(1.0, rel=1e-5)  # clipped: unclipped it is 4.8


# Precision


@pytest.mark.parametrize("shape", [(8, 16), (64,)], ids=str)
def test_statistics_of_bfloat16_parameters_follow_the_gradients(shape: tuple[int, ...]) -> None:
    """From N(0, 1) to N(0, 0.1²): float32 row statistics fall to 0.035; torch's, in bfloat16, stay at 1.02 for ever."""
    p = parameter(shape, torch.bfloat16)
    optimizer = Adafactor([p], lr=0.01, min_dim_size_to_factor=8)
    generator = torch.Generator().manual_seed(0)
    levels = []
    for scale in (1.0, 0.1):
        for _ in range(3000):
            p.grad = (scale * torch.randn(shape, generator=generator)).bfloat16()
            optimizer.step()
        state = optimizer.state[p]
        levels.append(state["row_var" if len(shape) == 2 else "variance"].mean().item())
    assert levels[0] == pytest.approx(1.0, abs=0.05)
    assert levels[1] == pytest.approx(0.035, abs=0.005)


# The size of the step


@pytest.mark.parametrize(
    ("options", "value", "expected"),
    [
        ({}, 2.0, 1e-2 * 2.0),
        ({}, 0.0, 1e-2 * 1e-3),
        ({"eps": (1e-30, 0.5)}, 0.1, 1e-2 * 0.5),
        ({"scale_parameter": False}, 2.0, 1e-2),
        ({"relative_step": True}, 2.0, 1e-2 * 2.0),
        ({"warmup_init": True}, 2.0, 1e-6 * 2.0),
        ({"lr": 0.3}, 2.0, 0.3 * 2.0),
        ({"lr": 0.3, "relative_step": False}, 2.0, 0.3 * 2.0),
        ({"lr": 0.5, "relative_step": True}, 2.0, 0.5 * 1e-2 * 2.0),
        ({"lr": 0.5, "relative_step": True, "warmup_init": True}, 2.0, 0.5 * 1e-6 * 2.0),
        ({"lr": 0.0}, 2.0, 0.0),  # timm makes that the relative step
        ({"lr": 0.3, "beta1": 0.9}, 2.0, 0.1 * 0.3 * 2.0),
        ({"lr": 0.3, "beta1": 0.9, "momentum_of": "update"}, 2.0, 0.1 * 0.3 * 2.0),
    ],
)
def test_size_of_the_first_step(options: Mapping[str, Any], value: float, expected: float) -> None:
    p = nn.Parameter(torch.full((3,), value, dtype=torch.float64))
    p.grad = torch.tensor([1.0, -5.0, 0.1], dtype=torch.float64)
    Adafactor([p], **options).step()
    torch.testing.assert_close(p.detach(), value - expected * p.grad.sign(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("foreach", [None, False])
def test_lr_is_one_number_for_all_parameters_and_steps(foreach: bool | None) -> None:
    """fairseq multiplies group["lr"] by RMS(θ) for every parameter, and goes on with that; torch caps it by 1/√t."""
    params = [nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64)) for _ in range(3)]
    optimizer = Adafactor(params, lr=0.5, foreach=foreach)
    for t in range(1, 31):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.full_like(p, (-1.0) ** t)
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.5
        for p, start in zip(params, before, strict=True):
            moved = start - p.detach()
            torch.testing.assert_close(moved, 0.5 * p.grad * start.abs().clamp(min=1e-3), rtol=1e-12, atol=0)


def test_a_parameter_that_joins_late_makes_its_own_first_step() -> None:
    params = [parameter((3,)), parameter((3,))]
    optimizer = Adafactor(params, lr=1.0, scale_parameter=False)
    rows = [[torch.full((3,), g, dtype=torch.float64), None] for g in (1.0, -2.0, 3.0)]
    trajectory(optimizer, params, [*rows, [rows[0][0], torch.full((3,), 5.0, dtype=torch.float64)]])
    assert torch.equal(params[1], -torch.ones(3, dtype=torch.float64))
    assert [optimizer.state[p]["step"].item() for p in params] == [4, 1]


# Against the reference, where shapes and options meet


def reference_end(start: Sequence[Tensor], rows: Sequence[Sequence[Tensor | None]], **options: Any) -> list[Any]:
    arrays = [[None if g is None else g.numpy() for g in row] for row in rows]
    return run("adafactor", [t.numpy() for t in start], arrays, **options)[-1]


def test_equals_the_reference_at_real_sizes() -> None:
    shapes = [(), (7,), (128, 130), (130, 128), (127, 140), (2, 128, 3, 129), (128, 128)]
    options = {"lr": 0.1, "beta1": 0.9, "weight_decay": 0.1}
    start, rows = tensors(shapes), gradients(STEPS, shapes)
    params = [nn.Parameter(t.clone()) for t in start]
    end = trajectory(Adafactor(params, **options), params, rows)[-1]
    for p, q in zip(end, reference_end(start, rows, **options), strict=True):
        np.testing.assert_allclose(p.numpy(), q, rtol=0, atol=1e-13)


BIG_VISION = {
    "lr": 0.01,
    "beta1": 0.9,
    "beta2_cap": 0.999,
    "clip_threshold": None,
    "scale_parameter": False,
    "min_dim_size_to_factor": 32,
    "momentum_of": "update",
    "weight_decay": 0.1,
}


def test_big_vision() -> None:
    """Its options, with β2 past its cap; in bfloat16, where the momentum has three digits, too."""
    shapes = [(7,), (31, 40), (33, 40)]
    for dtype, cap, tolerance in (("float64", 0.5, 1e-13), ("bfloat16", 0.999, 5e-3)):
        start, rows = tensors(shapes), gradients(STEPS, shapes)
        params = [nn.Parameter(t.clone()) for t in start]
        optimizer = Adafactor.big_vision(params, lr=0.01, weight_decay=0.1, momentum_dtype=dtype, beta2_cap=cap)
        end = trajectory(optimizer, params, rows)[-1]
        expected = reference_end(start, rows, **{**BIG_VISION, "beta2_cap": cap})
        for p, q in zip(end, expected, strict=True):
            np.testing.assert_allclose(p.numpy(), q, rtol=0, atol=tolerance)
    optimizer = Adafactor.big_vision(params)
    assert {**BIG_VISION, "lr": 1e-3, "weight_decay": 0.0, "momentum_dtype": "bfloat16"}.items() <= (
        optimizer.param_groups[0].items()
    )


def test_complex_parameters_are_their_real_view() -> None:
    z, *grads = tensors([(3, 4)] * (STEPS + 1), torch.complex128)
    p = nn.Parameter(z.clone())
    options = {"lr": 0.1, "min_dim_size_to_factor": 3}
    trajectory(Adafactor([p], **options), [p], [[g] for g in grads])
    real = torch.view_as_real
    (expected,) = reference_end([real(z)], [[real(g)] for g in grads], **options)
    np.testing.assert_allclose(real(p.detach()).numpy(), expected, rtol=0, atol=1e-14)


def test_memory_layout_makes_no_difference() -> None:
    shape, ends = (8, 6, 3, 2), []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(tensors([shape])[0].to(memory_format=memory_format))
        rows = [[g.to(memory_format=memory_format)] for g in tensors([shape] * STEPS, seed=1)]
        trajectory(Adafactor([p], lr=0.1, min_dim_size_to_factor=4, beta1=0.9), [p], rows)
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-14)


# State and errors


def test_gradients_are_left_alone() -> None:
    shapes = [(6, 5), (3, 6, 5), (4,)]
    params = [parameter(shape) for shape in shapes]
    for p, g in zip(params, tensors(shapes), strict=True):
        p.grad = g.clone()
    Adafactor(params, maximize=True, min_dim_size_to_factor=5, beta1=0.9, weight_decay=0.1).step()
    for p, g in zip(params, tensors(shapes), strict=True):
        assert torch.equal(p.grad, g)
        assert p.grad._version == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("momentum_dtype", [None, "bfloat16"])
def test_resumes_bit_for_bit(dtype: torch.dtype, momentum_dtype: str | None) -> None:
    """torch casts loaded state to the parameter's dtype, statistics to bfloat16 and bfloat16 momentum to float32."""
    shapes = [(), (6, 5), (5, 6, 2), (7,)]
    options = {"lr": 0.1, "min_dim_size_to_factor": 5, "beta1": 0.9, "momentum_dtype": momentum_dtype}
    rows = gradients(STEPS, shapes, dtype)
    params = [nn.Parameter(t) for t in tensors(shapes, dtype)]
    optimizer = Adafactor(params, **options)
    trajectory(optimizer, params, rows[:FIRST_HALF])
    checkpoint = saved({"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()})
    trajectory(optimizer, params, rows[FIRST_HALF:])
    resumed = [nn.Parameter(p) for p in checkpoint["params"]]
    other = Adafactor(resumed)
    other.load_state_dict(checkpoint["optimizer"])
    trajectory(other, resumed, rows[FIRST_HALF:])
    assert not differences(params, resumed)
    assert not differences(optimizer.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative_step": False}, "relative_step=False needs an lr"),
        ({"lr": 0.1, "warmup_init": True}, "warmup_init=True.*lr=0.1"),
        ({"momentum_dtype": "bfloat16"}, "set beta1"),
        ({"momentum_of": "update"}, "set beta1"),
        ({"eps": 1e-30}, "eps must be"),
        ({"eps": (1e-30, -1.0)}, "eps must be"),
        ({"lr": -0.1}, "lr must be"),
    ],
)
def test_options_that_contradict_each_other(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adafactor([parameter((3,))], **options)
    optimizer = Adafactor([parameter((3,))])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [parameter((2,))], **options})
    assert len(optimizer.param_groups) == 1


def test_a_checkpoint_of_another_shape_names_the_parameter() -> None:
    models = [nn.Linear(6, 5), nn.Linear(6, 5)]
    optimizer, other = (Adafactor(model.named_parameters(), min_dim_size_to_factor=5) for model in models)
    models[0](torch.ones(1, 6)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["row_var"] = torch.ones(3, 1)
    with pytest.raises(ValueError, match=r"'row_var' of parameter 'weight' has shape \(3, 1\)"):
        other.load_state_dict(state)
    assert not other.state
