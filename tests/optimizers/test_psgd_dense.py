"""PSGDDense: equality with its equations, the inverse of a Hessian, and what it does with unusual parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, distribute_tensor

from optzoo.optimizers.psgd.dense import PSGDDense
from reference import psgd as reference
from reference.notation import Array
from support.checkpoints import differences, saved
from support.psgd import SHAPES, N, Quartic, spd, vector_of

all_geometries = pytest.mark.parametrize("geometry", reference.GEOMETRIES)


def q_of(optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> Array:
    return np.concatenate([optimizer.state[p]["Q"].reshape(-1, N).numpy() for p in params])


def equations(problem: Quartic, steps: int, geometry: str, scale: float | None, lr: float, decay: float) -> Any:
    """θ, Q and L."""
    x, Q, L, m = vector_of(problem.params), np.eye(N), 0.0, np.zeros(N)
    for t in range(1, steps + 1):
        g, v = problem.gradient(x), problem.v(t)
        h = reference.damped(problem.hessian(x) @ v, problem.nu(t), 1e-9)
        if t == 1:
            scale = scale or np.mean(v**2) ** 0.25 * (np.mean(h**4) + 1e-36) ** -0.125
            Q = Q * scale ** (2 if geometry in reference.FITS_P else 1)
        Q, L = reference.dense_update(Q, L, v, h, geometry, 0.1)
        beta = min((t - 1) / t, 0.9)
        m = beta * m + (1 - beta) * g
        x = (1 - lr * decay) * x - lr * reference.precondition([Q], m, geometry)
    return x, Q, L


@pytest.mark.parametrize("init_scale", [0.4, None])
@all_geometries
def test_is_its_equations(geometry: str, init_scale: float | None) -> None:
    problem = Quartic()
    x, Q, L = equations(problem, 30, geometry, init_scale, lr=0.05, decay=0.1)
    options: Any = {"norm": "exact", "weight_decay": 0.1, "init_scale": init_scale}
    optimizer = PSGDDense(problem.params, lr=0.05, geometry=geometry, **options)
    for _ in range(30):
        optimizer.step(problem.loss)
    np.testing.assert_allclose(vector_of(problem.params), x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(q_of(optimizer, problem.params), Q, rtol=0, atol=1e-12)
    for p in problem.params:
        assert optimizer.state[p]["L"].item() == pytest.approx(L, rel=1e-12)


@pytest.mark.slow
@all_geometries
def test_finds_the_inverse_hessian(geometry: str) -> None:
    """From products alone: lr = 0. In EQ the fit is slow; the authors' PRO4P stops at 2e-9."""
    n = 20
    H, x = spd(np.linspace(0.1, 1, n)), nn.Parameter(torch.zeros(n, dtype=torch.float64))
    optimizer = PSGDDense([x], lr=0.0, lr_preconditioner=0.5, geometry=geometry, damping=0.0, init_scale=1.0)
    for _ in range(3000):
        optimizer.step(lambda: x @ H @ x / 2)
    Q = optimizer.state[x]["Q"]
    P = Q if geometry in reference.FITS_P else Q.T @ Q
    error = torch.linalg.norm(P @ H - torch.eye(n)).item() / n**0.5
    assert error < (1e-5 if geometry == "EQ" else 2e-15)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2])
def test_rosenbrock_in_100_dimensions(seed: int) -> None:
    """The authors' first example; their code takes 1442 and 1428 steps to 1e-6."""
    x = nn.Parameter(torch.zeros(100, dtype=torch.float64))
    optimizer = PSGDDense([x], lr=1.0, lr_preconditioner=0.5, momentum=0.9, seed=seed)

    def rosenbrock() -> Tensor:
        a, b = x[0::2], x[1::2]
        return (100 * (b - a**2) ** 2 + (1 - a) ** 2).sum()

    for _ in range(2000):
        loss = optimizer.step(rosenbrock)
    assert loss.item() < 1e-6


def test_leads_away_from_a_saddle_point() -> None:
    """H = diag(1, -1), where Newton's own step -H⁻¹g leads to 0."""
    x = nn.Parameter(torch.tensor([1.0, 1e-3], dtype=torch.float64))
    optimizer = PSGDDense([x], lr=0.2, momentum=0.0)
    for _ in range(40):
        loss = optimizer.step(lambda: (x[0] ** 2 - x[1] ** 2) / 2)
    assert loss < -100


@pytest.mark.parametrize("hessian", ["exact", "finite_difference"])
def test_resumes_bit_for_bit(hessian: str) -> None:
    def closure_of(problem: Quartic) -> Any:
        return problem.loss if hessian == "exact" else problem.backward

    problem, other = Quartic(), Quartic()
    options: Any = {"lr": 0.05, "precond_update_probability": 0.5, "seed": 3}
    optimizer = PSGDDense(problem.params, hessian=hessian, **options)
    for _ in range(7):
        optimizer.step(closure_of(problem))
    checkpoint = saved({"params": [p.detach() for p in problem.params], "optimizer": optimizer.state_dict()})
    for p, q in zip(other.params, checkpoint["params"], strict=True):
        p.data.copy_(q)
    resumed = PSGDDense(other.params, hessian=hessian)
    resumed.load_state_dict(checkpoint["optimizer"])
    for _ in range(7):
        optimizer.step(closure_of(problem))
        resumed.step(closure_of(other))
    assert not differences(problem.params, other.params)
    assert not differences(optimizer.state_dict(), resumed.state_dict())


# Which parameters take part


def test_who_has_no_gradient_stays_as_it_is() -> None:
    """Nor are the rows and columns of Q that belong to it touched."""
    problem = Quartic()
    first, middle, last = problem.params

    def loss() -> Tensor:
        return (first.square() * torch.arange(6.0).reshape(3, 2)).sum() * (1 + last.square().sum())

    optimizer = PSGDDense([first, middle, last], lr=0.05)
    optimizer.step(lambda: loss() + middle.square())
    before = {name: value.clone() for name, value in optimizer.state[middle].items()}
    start, cross = middle.detach().clone(), optimizer.state[first]["Q"][..., 6].clone()
    own = optimizer.state[first]["Q"].clone()
    for _ in range(3):
        optimizer.step(loss)
    assert torch.equal(middle, start)
    assert torch.equal(optimizer.state[first]["Q"][..., 6], cross)
    assert not torch.equal(optimizer.state[first]["Q"], own)
    after = optimizer.state[middle]
    assert after.pop("L") == optimizer.state[first]["L"]  # of the group
    before.pop("L")
    assert not differences(before, after)


def test_groups_are_apart_but_for_their_products() -> None:
    problem = Quartic()
    first, middle, last = problem.params
    optimizer = PSGDDense([{"params": [first, middle]}, {"params": [last], "lr": 0.0}], lr=0.01)
    start = last.detach().clone()
    for _ in range(3):
        optimizer.step(problem.loss)
    assert optimizer.state[first]["Q"].shape == (3, 2, 7)
    assert optimizer.state[last]["Q"].shape == (4, 4)
    assert torch.equal(last, start)
    assert optimizer.state[first]["L"] == optimizer.state[middle]["L"] != optimizer.state[last]["L"]


def test_gradients_that_are_not_finite_change_nothing() -> None:
    problem = Quartic()
    optimizer = PSGDDense(problem.params, lr=0.05, weight_decay=0.1)
    optimizer.step(problem.loss)
    start = [p.detach().clone() for p in problem.params]
    before = saved(optimizer.state_dict())["state"]
    optimizer.step(lambda: problem.loss() * torch.inf)
    assert not differences([p.detach() for p in problem.params], start)
    after = optimizer.state_dict()["state"]
    assert [state.pop("step").item() for state in after.values()] == [2.0] * 3
    assert [state.pop("step").item() for state in before.values()] == [1.0] * 3
    assert not differences(before, after)


@pytest.mark.parametrize("hessian", ["exact", "finite_difference"])
def test_complex_parameters_are_pairs(hessian: str) -> None:
    start = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, pairs = nn.Parameter(torch.view_as_complex(start.clone())), nn.Parameter(start.clone())
    ends = []
    for p in (z, pairs):
        optimizer = PSGDDense([p], lr=0.1, hessian=hessian)

        def closure(p: Tensor = p, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            x = torch.view_as_real(p) if p.is_complex() else p
            loss = (x.pow(4) * torch.arange(1, 7).reshape(3, 2)).sum() + (x[0] * x[1]).sum()
            if hessian == "finite_difference":
                loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        ends.append(torch.view_as_real(p) if p.is_complex() else p)
        assert optimizer.state[p]["Q"].shape == (3, 2, 6)
    torch.testing.assert_close(*[end.detach() for end in ends], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_parameters_have_float32_state(dtype: torch.dtype) -> None:
    problem = Quartic(dtype)
    optimizer = PSGDDense(problem.params, lr=0.02)
    first = optimizer.step(problem.loss)
    for _ in range(100):
        last = optimizer.step(problem.loss)
    state = [(name, value.dtype) for p in problem.params for name, value in optimizer.state[p].items()]
    assert {dtype for name, dtype in state if name != "step"} == {torch.float32}
    assert {dtype for name, dtype in state if name == "step"} == {torch.float64}
    assert {p.dtype for p in problem.params} == {dtype}
    assert last < first - 1


def test_options_of_all_optimizers() -> None:
    """maximize climbs, coupled decay is part of the loss and so of its Hessian, cautious is another step."""

    def end(sign: float = 1.0, decay: float = 0.0, steps: int = 5, **options: Any) -> Array:
        problem = Quartic()
        optimizer = PSGDDense(problem.params, **{"lr": 0.05, "momentum": 0.0, **options})
        for _ in range(steps):
            optimizer.step(lambda: sign * problem.loss() + decay / 2 * problem.square_sum())
        return vector_of(problem.params)

    np.testing.assert_allclose(end(-1.0, maximize=True), end(), rtol=1e-8)
    np.testing.assert_allclose(end(lr=torch.tensor(0.05)), end(), rtol=1e-6)
    coupled = end(weight_decay=0.3, decoupled_weight_decay=False)
    np.testing.assert_allclose(coupled, end(decay=0.3), rtol=1e-8)
    assert np.abs(coupled - end(weight_decay=0.3)).max() > 1e-3
    fast: Any = {"lr": 0.5, "momentum": 0.9, "steps": 20}
    assert np.abs(end(**fast, cautious=True) - end(**fast)).max() > 1e-3


def test_norm_of_the_step_is_clipped() -> None:
    problem = Quartic()
    before = vector_of(problem.params)
    PSGDDense(problem.params, lr=1.0, grad_clip_max_norm=1e-3).step(problem.loss)
    assert np.linalg.norm(vector_of(problem.params) - before) == pytest.approx(1e-3, rel=1e-12)


# Errors


def test_more_than_max_size() -> None:
    small, big = (nn.Parameter(torch.zeros(n)) for n in (3, 10_001))
    with pytest.raises(ValueError, match=r"10,001 numbers needs a matrix of 10,001 × 10,001; max_size is 10,000"):
        PSGDDense([big])
    optimizer = PSGDDense([small], max_size=3)
    with pytest.raises(ValueError, match="PSGDLRA"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(4))]})
    assert len(optimizer.param_groups) == 1


def test_bad_options() -> None:
    params = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for name, value in {"hessian": None, "geometry": "Q", "momentum": 1.0, "lr_preconditioner": 0.0}.items():
        with pytest.raises(ValueError, match=f"PSGDDense: {name} must be"):
            PSGDDense(params, **{name: value})
    with pytest.raises(ValueError, match="capturable=True is not possible"):
        PSGDDense(params, capturable=True)
    groups = [{"params": params[:1]}, {"params": params[1:], "hessian": "finite_difference"}]
    with pytest.raises(ValueError, match="hessian must be the same in all groups"):
        PSGDDense(groups)


def test_sharded_parameters_are_refused() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        p = nn.Parameter(distribute_tensor(torch.ones(3), mesh, [Replicate()]))
        optimizer = PSGDDense([p])
        with pytest.raises(NotImplementedError, match="sharded parameters"):
            optimizer.step(lambda: p.sum())
        with pytest.raises(NotImplementedError, match="use PSGD"):
            optimizer.init_state()
    finally:
        torch.distributed.destroy_process_group()
