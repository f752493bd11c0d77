"""What PSGD finds, and what it does with gradients that are zero, missing, not finite or of little precision."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.compare.toys import matrix_regression, spd
from optzoo.optimizers import Adam
from optzoo.optimizers.psgd import kron
from optzoo.optimizers.psgd.factors import layout
from optzoo.optimizers.psgd.geometries import GEOMETRIES
from optzoo.optimizers.psgd.noise import Noise
from optzoo.optimizers.psgd.norms import NORMS, exact
from optzoo.optimizers.psgd.whitening import PSGD
from support.checkpoints import differences

all_geometries = pytest.mark.parametrize("geometry", GEOMETRIES)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameter(*shape: int, value: float = 1.0, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, value, dtype=dtype))


def step(optimizer: PSGD, *pairs: tuple[Tensor, Tensor | None]) -> None:
    for p, g in pairs:
        p.grad = g
    optimizer.step()


# Fits


def fit(geometry: str, newton: bool, dtype: torch.dtype, norm: str) -> float:
    """‖PH - I‖ / √35 after 1000 updates from H V, with H = H1 ⊗ H2 of condition 25."""
    generator = torch.Generator().manual_seed(0)
    h1, h2 = (spd(generator, torch.linspace(0.2, 1, n)) for n in (5, 7))
    rule, single = GEOMETRIES[geometry], torch.promote_types(dtype, torch.float32)
    factors, bounds = [torch.eye(n, dtype=dtype)[None] for n in (5, 7)], torch.zeros(1, 2, dtype=single)
    for t in range(1000):
        v, nu = torch.randn(2, 1, 5, 7, generator=generator, dtype=torch.float64)
        h = (h1 @ v @ h2).to(dtype)
        h = h if dtype == torch.float64 else kron.damped(h, 1e-9, nu.to(dtype))
        if rule.balanced_every_update or t % 100 == 99:
            factors = kron.balanced(factors)
        factors, bounds = kron.update(
            factors,
            bounds,
            h,
            (v if newton else nu).to(dtype),
            rule,
            newton=newton,
            step_size=0.5 * (1 - t / 1000),
            beta=0.9,
            norm=NORMS[norm],
            noise=Noise.at(0, [0], t),
        )
    columns = torch.eye(35, dtype=torch.float64).reshape(35, 5, 7)
    P = kron.precondition([q.double().expand(35, -1, -1) for q in factors], columns, rule).reshape(35, 35)
    return float((P @ torch.kron(h1, h2) - torch.eye(35)).norm() / math.sqrt(35))


@all_geometries
def test_newton_fit_finds_the_inverse_hessian(geometry: str) -> None:
    assert fit(geometry, True, torch.float64, "exact") <= (1e-7 if geometry == "EQ" else 1e-13)


@pytest.mark.parametrize("newton", [True, False], ids=["newton", "whitening"])
def test_default_fit(newton: bool) -> None:
    """With estimated norms, in float32; what is left of whitening is its gradients' noise."""
    assert fit("Q0.5EQ1.5", newton, torch.float32, "subspace") <= (1e-5 if newton else 0.15)


@pytest.mark.slow
@all_geometries
def test_fits_in_low_precision(geometry: str) -> None:
    """Newton's fit in float32 and whitening in bfloat16, which has a hundred times less to lose."""
    assert fit(geometry, True, torch.float32, "subspace") <= 1e-5
    assert fit(geometry, False, torch.bfloat16, "subspace") <= (0.35 if geometry == "QEP" else 0.15)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["QEP", "Q0.5EQ1.5"])
def test_newton_fits_in_bfloat16(geometry: str) -> None:
    assert fit(geometry, True, torch.bfloat16, "subspace") <= (0.35 if geometry == "QEP" else 0.05)


def test_ill_conditioned_regression() -> None:
    """Of lr 0.003 to 0.1, none makes Adam converge; three make PSGD."""
    psgd = partial(PSGD, whiten="grad", precond_update_probability=1.0)
    assert max(matrix_regression(psgd, lr) for lr in (0.01, 0.03, 0.1)) <= 1e-9
    assert min(matrix_regression(Adam, lr) for lr in (0.003, 0.01, 0.03, 0.1)) >= 1e-5


# Sizes of updates


def sizes(steps: int, shape: tuple[int, ...], scale: float, **options: Any) -> Tensor:
    """RMS of the updates on normal gradients."""
    p = parameter(*shape, value=0.0)
    optimizer, rms = PSGD([p], lr=1.0, precond_update_probability=1.0, **options), []
    for t in range(steps):
        before = p.detach().clone()
        step(optimizer, (p, scale * normal(*shape, seed=t)))
        rms.append((p.detach() - before).square().mean().sqrt())
    return torch.stack(rms)


@pytest.mark.parametrize(("whiten", "expected"), [("momentum", 0.93), ("grad", 0.22)])
def test_size_of_updates(whiten: str, expected: float) -> None:
    """1, or √((1 - β)/(1 + β)) where the gradient is whitened, less what the estimated norms leave."""
    assert sizes(600, (16, 32), 1e-2, whiten=whiten)[300:].mean().item() == pytest.approx(expected, rel=0.07)


def test_bfloat16_factors_whiten() -> None:
    """At steps of 0.1: smaller ones are rounded away, and stop at 0.7."""
    assert 0.9 <= sizes(1000, (32, 64), 0.5, momentum=0.0, precond_dtype="bfloat16")[-200:].mean() <= 1.1


def test_damping_does_not_cap_what_is_common() -> None:
    """NVIDIA's absolute damping of 0.1 bounds P by 10, and leaves gradients of 1e-3 as small as 1e-2."""
    assert sizes(150, (8, 16), 1e-3, whiten="grad", momentum=0.0)[-50:].mean() > 0.8
    assert sizes(150, (8, 16), 1e-3, whiten="grad", momentum=0.0, damping=0.1)[-50:].mean() < 0.05


def test_bounds_start_from_what_is_seen() -> None:
    """L₀ = 1, NVIDIA's, would make first steps of small curvature small: here M1 + M2 = 2 · 0.01."""
    x, q = torch.full((1, 1), 0.1), torch.ones(1, 1)
    options: dict[str, Any] = dict(newton=True, step_size=0.1, beta=0.9, norm=exact, noise=Noise.at(0, [0], 1))
    _, bounds = kron.update([q], torch.zeros(1, 1), x, x, GEOMETRIES["QEQ"], **options)
    assert bounds.item() == pytest.approx(0.02, rel=1e-6)
    _, bounds = kron.update([q], torch.ones(1, 1), x, x, GEOMETRIES["QEQ"], **options)
    assert bounds.item() == pytest.approx(0.902, rel=1e-6)


# Zeros


@all_geometries
@pytest.mark.parametrize("whiten", ["momentum", "grad"])
def test_zeros_do_not_move_the_preconditioner(geometry: str, whiten: str) -> None:
    """It would grow by 1.5⁴⁰ in ten updates (the authors), or start at 3·10⁴ where first gradients set its scale."""
    p = parameter(8, 16)
    optimizer = PSGD([p], lr=1.0, geometry=geometry, whiten=whiten, lr_preconditioner=0.5, init_scale=0.7)
    optimizer.init_state()
    before = copy.deepcopy({name: t for name, t in optimizer.state[p].items() if name != "step"})
    for _ in range(60):
        step(optimizer, (p, torch.zeros(8, 16)))
    assert torch.equal(p, torch.ones(8, 16))
    assert not differences(before, {name: t for name, t in optimizer.state[p].items() if name != "step"})
    step(optimizer, (p, 1e-3 * normal(8, 16)))
    assert (p.detach() - 1).square().mean().sqrt() < 0.02


def test_zeros_in_between_keep_the_factors() -> None:
    p = parameter(3, 4)
    optimizer = PSGD([p], whiten="grad", precond_update_probability=1.0)
    for t in range(3):
        step(optimizer, (p, normal(3, 4, seed=t)))
    before = copy.deepcopy(optimizer.state[p])
    step(optimizer, (p, torch.zeros(3, 4)))
    assert not differences(*[{name: s[name] for name in ("Q0", "Q1", "L")} for s in (before, optimizer.state[p])])
    assert not torch.equal(before["exp_avg"], optimizer.state[p]["exp_avg"])


# Gradients that are not finite, or missing

POISONS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@all_geometries
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize(
    "options",
    [{}, {"whiten": "grad", "update_first": False, "norm": "exact"}, {"decoupled_weight_decay": False}],
    ids=["default", "grad", "coupled"],
)
def test_tensors_with_gradients_that_are_not_finite_stay(
    options: Mapping[str, Any], poison: str, geometry: str
) -> None:
    """One such number would stay in Q for ever. Others go on as if alone, and so does the tensor afterwards."""
    hit, other, alone = (parameter(3, 4) for _ in range(3))
    own = {"lr": 0.1, "weight_decay": 0.1, "geometry": geometry, "precond_update_probability": 1.0, **options}
    optimizer, lone = PSGD([other, hit], **own), PSGD([alone], **own)
    for t in range(6):
        g, before = normal(3, 4, seed=t), copy.deepcopy((hit.detach(), optimizer.state[hit]))
        bad = normal(3, 4, seed=10 + t)
        if t == 3:
            bad[1, 2] = POISONS[poison]
        step(optimizer, (other, g.clone()), (hit, bad))
        step(lone, (alone, g))
        if t == 3:
            assert torch.equal(hit, before[0])
            kept = {"Q0", "Q1", "L", "exp_avg"}
            assert not differences(*[{name: s[name] for name in kept} for s in (before[1], optimizer.state[hit])])
    assert optimizer.state[hit]["skipped"] == 1
    assert optimizer.state[other]["skipped"] == 0
    assert hit.isfinite().all()
    assert not torch.equal(hit, before[0])
    torch.testing.assert_close(other, alone, rtol=1e-6, atol=1e-6)


def test_steps_that_were_skipped_do_not_count_in_the_mean() -> None:
    """The running mean of the gradients is that of the finite ones."""
    p = parameter(2, 3)
    optimizer = PSGD([p])
    step(optimizer, (p, torch.full((2, 3), math.nan)))
    step(optimizer, (p, torch.full((2, 3), 4.0)))
    torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full((2, 3), 4.0))


def test_parameters_without_a_gradient_stay_and_have_no_state() -> None:
    moving, idle = parameter(3, 4), parameter(3, 4)
    optimizer = PSGD([idle, moving], lr=0.1, weight_decay=0.1)
    for t in range(3):
        step(optimizer, (moving, normal(3, 4, seed=t)), (idle, None))
    assert torch.equal(idle, torch.ones(3, 4))
    assert idle not in optimizer.state
    step(optimizer, (moving, None), (idle, normal(3, 4)))
    assert [optimizer.state[p]["step"].item() for p in (moving, idle)] == [3, 1]
    step(optimizer, (moving, None), (idle, None))
    assert [optimizer.state[p]["step"].item() for p in (moving, idle)] == [3, 1]


# Shapes and precisions


@all_geometries
@pytest.mark.parametrize("max_skew", [1.0, math.inf])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (5, 1), (1, 3, 1, 4), (0,), (0, 5), (3, 0, 2)], ids=str)
def test_unusual_shapes(shape: tuple[int, ...], max_skew: float, geometry: str) -> None:
    """Axes of size 1 do not count, and empty tensors move nothing."""
    squeezed = tuple(n for n in shape if n != 1)
    ends = []
    for own in (shape, squeezed):
        p, neighbour = parameter(*own), parameter(2, 3)
        optimizer = PSGD([p, neighbour], lr=0.1, geometry=geometry, max_skew=max_skew, weight_decay=0.1)
        for t in range(4):
            step(optimizer, (p, normal(*squeezed, seed=t).reshape(own)), (neighbour, normal(2, 3, seed=t)))
        assert p.shape == own
        assert p.isfinite().all()
        ends.append(p.detach().reshape(squeezed))
    assert torch.equal(*ends)


@all_geometries
@pytest.mark.parametrize("precond_dtype", [None, "bfloat16", "float64"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_precision_of_state(dtype: torch.dtype, precond_dtype: str | None, geometry: str) -> None:
    """HeavyBall had L in float64, which made its products float64; squares of large float16 gradients overflow."""
    p = parameter(3, 4, dtype=dtype)
    optimizer = PSGD([p], lr=0.1, geometry=geometry, precond_dtype=precond_dtype)
    for t in range(3):
        step(optimizer, (p, 3e4 * normal(3, 4, seed=t, dtype=torch.float32).sign().to(dtype)))
    state, single = optimizer.state[p], torch.float64 if dtype == torch.float64 else torch.float32
    factor = single if precond_dtype is None else getattr(torch, precond_dtype)
    assert {name: t.dtype for name, t in state.items()} == {
        **{"Q0": factor, "Q1": factor, "L": single, "exp_avg": single, "skipped": single, "step": torch.float64}
    }
    assert all(t.isfinite().all() for t in (p, *state.values()))
    assert state["skipped"] == 0
    assert 0 < (p.detach().double() - 1).abs().max() < 2


def test_no_product_of_float32_tensors_is_made_in_float64() -> None:
    p, seen = parameter(3, 4), set()
    optimizer = PSGD([p], lr=0.1, weight_decay=0.1)

    class Products(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "mm" in func.__name__:
                seen.update(t.dtype for t in args if isinstance(t, Tensor))
            return func(*args, **(kwargs or {}))

    with Products():
        step(optimizer, (p, normal(3, 4)))
    assert seen == {torch.float32}


@pytest.mark.parametrize("merge_dims", [None, "spatial", "matrix"])
def test_merged_dimensions_are_those_of_a_reshaped_tensor(merge_dims: str | None) -> None:
    """And memory formats change nothing."""
    shape = (4, 3, 2, 5)
    seen = layout(shape, {"merge_dims": merge_dims, "max_size": 8192, "max_skew": 1.0}).shape
    whole, reshaped, last = parameter(*shape), parameter(*seen), parameter(*shape)
    last.data = last.data.to(memory_format=torch.channels_last)
    optimizers = [PSGD([p], lr=0.1, merge_dims=merge_dims) for p in (whole, last)] + [PSGD([reshaped], lr=0.1)]
    for t in range(4):
        g = normal(*shape, seed=t)
        grads = [g, g.to(memory_format=torch.channels_last), g.reshape(seen)]
        for optimizer, p, grad in zip(optimizers, (whole, last, reshaped), grads, strict=True):
            step(optimizer, (p, grad))
    torch.testing.assert_close(last.detach(), whole.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(reshaped.detach().reshape(shape), whole.detach(), rtol=1e-5, atol=1e-6)


def test_complex_parameters_are_pairs_of_real_ones() -> None:
    z = parameter(3, 4, dtype=torch.complex64)
    pairs = nn.Parameter(torch.view_as_real(z.detach()).clone())
    optimizers = PSGD([z], lr=0.1), PSGD([pairs], lr=0.1)
    for t in range(4):
        g = normal(3, 4, 2, seed=t)
        step(optimizers[0], (z, torch.view_as_complex(g)))
        step(optimizers[1], (pairs, g))
    torch.testing.assert_close(torch.view_as_real(z.detach()), pairs.detach(), rtol=1e-6, atol=1e-6)


# Scale at first


@pytest.mark.parametrize(("size", "expected"), [(1e-2, 1.0), (1.0, 1.0), (1e3, 1.0)])
@pytest.mark.parametrize("geometry", ["Q0.5EQ1.5", "QUAD4P"])
def test_scale_from_the_first_gradient(geometry: str, size: float, expected: float) -> None:
    """The first update has an RMS of 1, whatever the size of the gradient; a zero gradient before it means nothing."""
    p = parameter(16, 32)
    optimizer = PSGD([p], lr=1.0, init_scale=None, geometry=geometry, clip=None, momentum=0.0)
    step(optimizer, (p, torch.zeros(16, 32)))
    step(optimizer, (p, size * normal(16, 32)))
    assert float((p - 1).square().mean().sqrt()) == pytest.approx(expected, rel=0.3)


def test_scale_from_the_first_gradient_is_bounded() -> None:
    """P of gradients that are nearly zero would be as good as infinite."""
    p = parameter(4, 4)
    optimizer = PSGD([p], init_scale=None)
    step(optimizer, (p, normal(4, 4) * 1e-30))
    assert all(optimizer.state[p][name].max() <= 11 for name in ("Q0", "Q1"))  # √100 each, and one update
