"""PSGDLRA: equality with its equations, whitening and Newton's method, and what it does with unusual gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers.psgd.lra import PSGDLRA
from optzoo.optimizers.psgd.noise import coin
from reference import psgd as reference
from reference.notation import Array
from support.checkpoints import differences, saved
from support.problems import gradients, tensors, trajectory
from support.psgd import N, Quartic, spd, vector_of

GRADIENT_SHAPES = [(), (3, 4), (5,), (2, 3, 2)]
ranks = pytest.mark.parametrize("rank", [0, 1, 3])


def buffer_of(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], name: str, rank: int) -> Array:
    if not rank:
        return np.zeros((N, 0))
    return np.concatenate([optimizer.state[p][name].reshape(-1, rank).double().numpy() for p in params])


def preconditioner(optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    """P"""
    state = optimizer.state[x]
    Q = torch.diag(state["d"])
    if "U" in state:
        Q = Q + state["U"] @ (state["V"].T * state["d"])
    return Q.T @ Q


@ranks
@pytest.mark.parametrize(
    "options",
    [
        {"hessian": "exact"},
        {"hessian": "exact", "init_scale": None, "grad_clip_max_norm": 1.5},
        {"whiten": "momentum", "clip": (0.8, 1.5)},
        {"whiten": "grad", "init_scale": 0.2},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_is_its_equations(rank: int, options: dict[str, Any]) -> None:
    problem = Quartic()
    own = {"lr": 0.05, "rank": rank, "seed": 5, "init_scale": 0.4, "beta_L": 0.8, "weight_decay": 0.1, **options}
    optimizer = PSGDLRA(problem.params, **own)
    optimizer.init_state()
    x, m, L, d = vector_of(problem.params), np.zeros(N), np.zeros(3), np.full(N, own["init_scale"] or 1.0)
    U, V = (buffer_of(optimizer, problem.params, name, rank) for name in "UV")
    for t in range(1, 31):
        g, nu = problem.gradient(x), problem.nu(t, seed=5)
        beta = min((t - 1) / t, 0.9)
        m = beta * m + (1 - beta) * g
        if "hessian" in options:
            optimizer.step(problem.loss)
            v = problem.v(t, seed=5)
            h = reference.damped(problem.hessian(x) @ v, nu, 1e-9)
        else:
            problem.backward()
            optimizer.step()
            v, h = nu, reference.damped(g if options["whiten"] == "grad" else m, nu, 1e-9)
        if t == 1 and own["init_scale"] is None:
            d = d * np.mean(v**2) ** 0.25 * (np.mean(h**4) + 1e-36) ** -0.125
        U, V, d, L = reference.lra_update(U, V, d, L, v, h, 0.1, of_u=coin(5, 0, t), beta_L=0.8)
        u = reference.lra_precondition(U, V, d, m)
        if "hessian" not in options:
            rms, largest = own.get("clip", (2.0, 10.0))
            u = np.clip(u / max(1.0, np.sqrt(np.mean(u**2)) / rms), -largest, largest)
        elif "grad_clip_max_norm" in options:
            u = u * min(1.0, 1.5 / np.linalg.norm(u))
        x = (1 - 0.05 * 0.1) * x - 0.05 * u
    np.testing.assert_allclose(vector_of(problem.params), x, rtol=0, atol=1e-12)
    for name, value in (("U", U), ("V", V)):
        np.testing.assert_allclose(buffer_of(optimizer, problem.params, name, rank), value, rtol=0, atol=1e-12)
    for p in problem.params:
        np.testing.assert_allclose([optimizer.state[p][name].item() for name in ("L_u", "L_v", "L_d")], L, rtol=1e-12)


def test_u_and_v_have_the_authors_size_at_first() -> None:
    x = nn.Parameter(torch.zeros(100, 40))
    optimizer = PSGDLRA([x], rank=7)
    optimizer.init_state()
    U, V = (optimizer.state[x][name] for name in "UV")
    assert U.shape == V.shape == (100, 40, 7)
    for factor in (U, V):
        assert factor.norm().item() == pytest.approx(0.1**0.5, rel=0.02)
    assert (U * V).sum().abs() < 0.01


def test_coins_are_fair() -> None:
    tosses = [coin(seed, group, step) for seed in range(4) for group in range(5) for step in range(500)]
    assert sum(tosses) / len(tosses) == pytest.approx(0.5, abs=0.02)


# What P comes to be


@pytest.mark.slow
def test_newton_finds_the_inverse_of_a_low_rank_hessian() -> None:
    """From products alone: lr = 0. The fit is slow: 1e-5 of it are left after 5000 steps in the authors' code."""
    W = tensors([(10, 5)])[0] / 10**0.5
    H = torch.diag(torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1) + W @ W.T
    x = nn.Parameter(torch.zeros(10, dtype=torch.float64))
    optimizer = PSGDLRA([x], lr=0.0, rank=5, hessian="exact", lr_preconditioner=0.5, damping=0.0)
    errors = []
    for _ in range(2):
        for _ in range(2500):
            optimizer.step(lambda: x @ H @ x / 2)
        errors.append(torch.linalg.norm(preconditioner(optimizer, x) @ H - torch.eye(10)).item() / 10**0.5)
    assert errors[0] < 0.1
    assert errors[1] < 1e-2


def test_newton_of_rank_0_divides_by_the_curvature() -> None:
    """|H|⁻¹, also where it is negative."""
    h = torch.tensor([3.0, -0.2, 1.0, -5.0], dtype=torch.float64)
    x = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = PSGDLRA([x], lr=0.0, rank=0, hessian="exact", lr_preconditioner=0.5)
    for _ in range(500):
        optimizer.step(lambda: (h * x**2).sum() / 2)
    torch.testing.assert_close(optimizer.state[x]["d"] ** 2, 1 / h.abs(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("rank", [0, 6])
def test_whitening(rank: int) -> None:
    """E[(P g)(P g)ᵀ] comes near I."""
    C = spd(np.linspace(0.2, 2, 6)) if rank else torch.diag(torch.linspace(0.2, 2, 6, dtype=torch.float64))
    x, generator = nn.Parameter(torch.zeros(6, dtype=torch.float64)), torch.Generator().manual_seed(0)
    optimizer = PSGDLRA([x], lr=0.0, rank=rank, whiten="grad")
    for t in range(1000):
        optimizer.param_groups[0]["lr_preconditioner"] = 0.5 * (1 - t / 1000)
        x.grad = C @ torch.randn(6, generator=generator, dtype=torch.float64)
        optimizer.step()
    P = preconditioner(optimizer, x)
    error = torch.linalg.norm(P @ C @ C @ P - torch.eye(6)).item() / 6**0.5
    assert error < 0.5


# Continuing


@pytest.mark.parametrize("options", [{}, {"rank": 0}, {"whiten": "grad", "momentum": 0.0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resumes_bit_for_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    """Also where a parameter has no gradient in every third step, and with options known from the checkpoint alone."""
    rows = gradients(14, GRADIENT_SHAPES, dtype)
    params = [nn.Parameter(t) for t in tensors(GRADIENT_SHAPES, dtype)]
    optimizer = PSGDLRA(params, lr=0.01, precond_update_probability=0.5, weight_decay=0.1, seed=7, **options)
    trajectory(optimizer, params, rows[:7])
    checkpoint = saved({"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()})
    trajectory(optimizer, params, rows[7:])
    resumed = [nn.Parameter(p) for p in checkpoint["params"]]
    other = PSGDLRA(resumed)
    other.load_state_dict(checkpoint["optimizer"])
    trajectory(other, resumed, rows[7:])
    assert not differences(params, resumed)
    assert not differences(optimizer.state_dict(), other.state_dict())


def test_a_run_may_change_its_hessian() -> None:
    """``hessian`` is not the checkpoint's: it is to fit the closure."""
    problem = Quartic()
    optimizer = PSGDLRA(problem.params, rank=2, lr=0.01)
    problem.backward()
    optimizer.step()
    newton = PSGDLRA(problem.params, hessian="exact")
    newton.load_state_dict(saved(optimizer.state_dict()))
    newton.step(problem.loss)
    assert newton.param_groups[0]["rank"] == 2


# Gradients


@ranks
def test_who_has_no_gradient_stays_as_it_is(rank: int) -> None:
    """The others step as if they were alone: the random numbers of each are its own."""
    rows = gradients(5, GRADIENT_SHAPES)
    together, alone = ([nn.Parameter(t) for t in tensors(GRADIENT_SHAPES)] for _ in range(2))
    optimizer = PSGDLRA(together, lr=0.01, rank=rank, weight_decay=0.1)
    optimizer.init_state()
    before = [saved(dict(optimizer.state[p])) for p in together[3:]]
    other = PSGDLRA(alone, lr=0.01, rank=rank, weight_decay=0.1)
    other.init_state()
    trajectory(optimizer, together, [[*row[:3], None] for row in rows])
    other.param_groups[0]["params"].pop()
    trajectory(other, alone[:3], [row[:3] for row in rows])
    assert not differences(together[:3], alone[:3])
    assert torch.equal(together[3], tensors(GRADIENT_SHAPES)[3])
    after = [dict(optimizer.state[p]) for p in together[3:]]
    for state in (*before, *after):
        for name in ("L_u", "L_v", "L_d"):
            state.pop(name)
    assert not differences(before, after)


@pytest.mark.parametrize("value", [0.0, torch.inf, torch.nan])
def test_gradients_nothing_can_be_learnt_from(value: float) -> None:
    """Zeros would let P grow; what is not finite would spoil all that comes after."""
    params = [nn.Parameter(t) for t in tensors(GRADIENT_SHAPES)]
    optimizer = PSGDLRA(params, lr=0.1, weight_decay=0.1, whiten="grad")
    trajectory(optimizer, params, gradients(3, GRADIENT_SHAPES))
    start, before = [p.detach().clone() for p in params], saved(optimizer.state_dict())["state"]
    for p in params:
        p.grad = torch.zeros_like(p)
    params[1].grad.view(-1)[0] = value
    optimizer.step()
    for p, old, state in zip(params, start, before.values(), strict=True):
        kept = ["U", "V", "d", "L_u", "L_v", "L_d"] + (["exp_avg"] if value else [])
        assert not differences({k: optimizer.state[p][k] for k in kept}, {k: state[k] for k in kept})
        assert p.isfinite().all()
        assert torch.equal(p, old) == bool(value)


def test_complex_parameters_are_pairs() -> None:
    start = tensors([(3, 2)])[0]
    z, pairs = nn.Parameter(torch.view_as_complex(start.clone())), nn.Parameter(start.clone())
    for p in (z, pairs):
        optimizer = PSGDLRA([p], lr=0.01, rank=2)
        for g in tensors([(3, 2)] * 5, seed=1):
            p.grad = torch.view_as_complex(g) if p.is_complex() else g
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(z.detach()), pairs.detach(), rtol=1e-14, atol=1e-14)


def test_empty_and_unusual_parameters() -> None:
    """Also of mixed precision and in another order of memory."""
    params = [
        nn.Parameter(torch.zeros(0)),
        nn.Parameter(torch.ones(2, 3, dtype=torch.float64)),
        nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
    ]
    optimizer = PSGDLRA([{"params": params}, {"params": [nn.Parameter(torch.zeros(0, 2))]}], lr=0.01, rank=2)
    for _ in range(3):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
    assert {p.unique().numel() > 0 for p in params[1:]} == {True}
    assert all(p.isfinite().all() and (p < 1).all() for p in params[1:])


# Errors


def test_bad_options() -> None:
    p = nn.Parameter(torch.zeros(3))
    for name, value in {"rank": -1, "whiten": "m", "hessian": "newton", "clip": (2.0,), "seed": 1.5}.items():
        with pytest.raises(ValueError, match=f"PSGDLRA: {name} must be"):
            PSGDLRA([p], **{name: value})
    with pytest.raises(ValueError, match="grad_clip_max_norm is for Newton's step"):
        PSGDLRA([p], grad_clip_max_norm=1.0)
    with pytest.raises(ValueError, match="capturable=True is not possible"):
        PSGDLRA([p], capturable=True)


def test_a_group_on_two_devices() -> None:
    params = [nn.Parameter(torch.zeros(3, device=device)) for device in ("cpu", "meta")]
    with pytest.raises(ValueError, match="a group is on cpu and meta; give each device a group of its own"):
        PSGDLRA(params).init_state()
