"""The reference of PSGD as an optimizer, step by step: numbers by hand, and what must hold of any trajectory."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from reference.notation import Array, Options
from reference.psgd import (
    GEOMETRIES,
    PSGD,
    damped,
    dense_axes,
    due_at,
    init,
    kron_update,
    matrix,
    precondition,
    schedule,
)

RNG = np.random.default_rng

all_geometries = pytest.mark.parametrize("geometry", GEOMETRIES)


def start(shape: tuple[int, ...], geometry: str, max_skew: float = math.inf, scale: float = 1.0) -> list[Array]:
    return init(shape, Options(geometry=geometry, init_scale=scale, max_size=math.inf, max_skew=max_skew))


def random_gradients(steps: int, *shapes: tuple[int, ...]) -> list[list[Array]]:
    rng = RNG(0)
    return [[rng.normal(size=shape) * np.exp(rng.normal(size=shape)) for shape in shapes] for _ in range(steps)]


def trajectory(theta: Sequence[Array], gradients: Sequence[Sequence[Array | None]], **options: Any) -> list[Array]:
    """The end of it."""
    psgd = PSGD(**{"lr": 0.1, **options})
    for g in gradients:
        theta = psgd.step(theta, g)
    return list(theta)


def test_scalar_step_by_hand() -> None:
    """X = g = 2: M1 = 4 and N/n = 1, so that ℓ = 5 and q = 1 − 0.1/5 · 3 = 0.94."""
    (θ,) = trajectory([np.array(1.0)], [[np.array(2.0)]], lr=0.5)
    assert θ == pytest.approx(1 - 0.5 * 0.94**2 * 2, rel=1e-15)
    (θ,) = trajectory([np.array(1.0)], [[np.array(2.0)]], lr=0.5, update_first=False)
    assert θ == 1 - 0.5 * 2
    (θ,) = trajectory([np.array(1.0)], [[np.array(2.0)]], lr=0.5, update_first=False, init_scale=0.5, geometry="QUAD4P")
    assert θ == 1 - 0.5 * 0.25 * 2


def test_momentum_is_a_mean_and_then_decays() -> None:
    """m = 3, then 4, then 4 · 0.6 + 1 · 0.4; P stays I where nothing is due."""
    psgd = PSGD(lr=1.0, momentum=0.6, precond_update_probability=0.0, clip=None)
    θ, moves = [np.zeros(())], []
    for g in (3.0, 5.0, 1.0):
        before = θ[0]
        θ = psgd.step(θ, [np.array(g)])
        moves.append(before - θ[0])
    np.testing.assert_allclose(moves, [3.0, 4.0, 2.8], rtol=1e-15)


def test_decay_coupled_and_decoupled() -> None:
    options = {"lr": 0.5, "weight_decay": 0.5, "precond_update_probability": 0.0, "clip": None}
    (θ,) = trajectory([np.array(2.0)], [[np.array(3.0)]], **options)
    assert θ == 2 * 0.75 - 0.5 * 3
    (θ,) = trajectory([np.array(2.0)], [[np.array(3.0)]], decoupled_weight_decay=False, **options)
    assert θ == 2 - 0.5 * (3 + 0.5 * 2)
    (θ,) = trajectory([np.array(2.0)], [[np.array(3.0)]], maximize=True, decoupled_weight_decay=False, **options)
    assert θ == 2 - 0.5 * (-3 + 0.5 * 2)


def test_clips_the_mean_and_then_the_largest() -> None:
    g = np.zeros(128)
    g[:2] = 800.0, -800.0  # of RMS 100, which becomes 2: the entries are ±16
    for clip, expected in (((2.0, 10.0), 10.0), ((2.0, 20.0), 16.0), (None, 800.0), ((200.0, 1000.0), 800.0)):
        (θ,) = trajectory([np.zeros(128)], [[g]], lr=1.0, precond_update_probability=0.0, clip=clip)
        np.testing.assert_array_equal(θ, -np.sign(g) * expected)


def test_axes_of_length_1_do_not_count() -> None:
    for shape, squeezed in (((1, 1), ()), ((5, 1), (5,)), ((1, 3, 1, 4), (3, 4))):
        gradients = random_gradients(5, shape)
        (ours,) = trajectory([np.ones(shape)], gradients)
        (alone,) = trajectory([np.ones(squeezed)], [[g.reshape(squeezed)] for (g,) in gradients])
        assert ours.shape == shape
        np.testing.assert_array_equal(ours.reshape(squeezed), alone)


def test_tensors_are_independent_and_may_lack_gradients() -> None:
    shapes = [(), (6,), (4, 5), (3, 4, 2)]
    gradients = random_gradients(8, *shapes)
    missing = [[None if i == t % 4 else g for i, g in enumerate(step)] for t, step in enumerate(gradients)]
    invalid = [
        [np.full(shape, np.inf if t < 4 else np.nan) if g is None else g for g, shape in zip(step, shapes, strict=True)]
        for t, step in enumerate(missing)
    ]
    theta = [np.ones(shape) for shape in shapes]
    ours = trajectory(theta, missing, weight_decay=0.1)
    skipped = trajectory(theta, invalid, weight_decay=0.1)
    for i, θ in enumerate(ours):
        (alone,) = trajectory([theta[i]], [[step[i]] for step in missing], weight_decay=0.1)
        np.testing.assert_array_equal(θ, alone)
        np.testing.assert_array_equal(θ, skipped[i])


@all_geometries
def test_zeros_do_not_move_the_preconditioner(geometry: str) -> None:
    """They would multiply every factor by 1 + μ, or its square."""
    if geometry in ("Q0.5EQ1.5", "QUAD4P"):
        Qs, L = start((3, 4), geometry), np.zeros(2)
        for _ in range(10):
            Qs, L = kron_update(Qs, L, np.zeros((3, 4)), geometry, 0.5)
        np.testing.assert_allclose(matrix(Qs, geometry), 1.5**40 * np.eye(12), rtol=1e-12)
    psgd = PSGD(geometry=geometry, noise=lambda *_: np.ones((3, 4)), weight_decay=0.5, lr=0.5, damping=1e-9)
    (θ,) = psgd.step([np.ones((3, 4))], [np.zeros((3, 4))])
    np.testing.assert_array_equal(θ, 0.75 * np.ones((3, 4)))
    np.testing.assert_array_equal(matrix(psgd.states[0]["Qs"], geometry), np.eye(12))
    np.testing.assert_array_equal(psgd.states[0]["L"], np.zeros(2))


@all_geometries
def test_noise_enters_the_fit_only(geometry: str) -> None:
    """ν comes from the tensor's index, its own step and its shape, and the momentum that moves θ is without it."""
    first, second = random_gradients(2, (3, 1, 4))
    options = {"lr": 1.0, "geometry": geometry, "damping": 0.5, "precond_update_probability": 1.0, "clip": None}
    psgd = PSGD(noise=lambda i, t, shape: RNG([i, t]).normal(size=shape), **options)
    Qs, L, m = start((3, 4), geometry, max_skew=1), np.zeros(2), np.zeros((3, 4))
    θ = [np.zeros(()), np.zeros((3, 1, 4))]
    for t, (g,) in enumerate((first, second), start=1):
        m = (1 - 1 / t) * m + g.reshape(3, 4) / t
        ν = RNG([1, t]).normal(size=(3, 4))
        Qs, L = kron_update(Qs, L, damped(m, ν, 0.5), geometry, 0.1, V=ν)
        before, θ = θ, psgd.step(θ, [None, g])
        moved = (before[1] - θ[1]).reshape(3, 4)
        np.testing.assert_allclose(moved, precondition(Qs, m, geometry), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("whiten", "expected"), [("momentum", 0.95), ("grad", math.sqrt(0.1 / 1.9))])
def test_size_of_the_step(whiten: str, expected: float) -> None:
    """Near 1 where the momentum is white, and smaller by √((1 − β)/(1 + β)) where the gradient is."""
    rng = RNG(0)
    psgd, θ, sizes = PSGD(lr=1.0, whiten=whiten, precond_update_probability=1.0), [np.zeros((8, 16))], []
    for _ in range(600):
        after = psgd.step(θ, [1e-2 * rng.normal(size=(8, 16))])
        sizes.append(np.sqrt(np.mean((after[0] - θ[0]) ** 2)))
        θ = after
    assert np.mean(sizes[300:]) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("whiten", ["momentum", "grad"])
def test_balances_every_hundredth_update(whiten: str) -> None:
    psgd, θ = PSGD(precond_update_probability=1.0, whiten=whiten), [np.zeros((3, 4))]
    imbalance = []
    for (g,) in random_gradients(201, (3, 4)):
        θ = psgd.step(θ, [g])
        b = [np.abs(Q).max() for Q in psgd.states[0]["Qs"]]
        imbalance.append(abs(b[0] / b[1] - 1))
    assert [t for t, x in enumerate(imbalance, start=1) if x < 1e-14] == [100, 200]


@pytest.mark.parametrize(
    ("shape", "max_size", "max_skew", "dense"),
    [
        ((), 8192, 1.0, ()),
        ((7,), 8192, 1.0, (False,)),
        ((7,), 8192, math.inf, (True,)),
        ((10, 50), 8192, 1.0, (True, False)),
        ((50, 10), 8192, 1.0, (False, True)),
        ((50, 50), 8192, 1.0, (True, True)),
        ((50, 50), 49, math.inf, (False, False)),
        ((10, 50), 50, math.inf, (True, True)),
        ((10, 50), 8192, 0.0, (False, False)),
        ((10, 50), 8192, 5.0, (True, True)),
        ((50257, 768), 8192, 1.0, (False, True)),
        ((512, 256, 3, 3), 8192, 1.0, (True, True, True, True)),
        ((512, 2304), 8192, 1.0, (True, False)),
        ((4, 1, 3), 8192, math.inf, (True, False, True)),
    ],
)
def test_which_axes_are_dense(shape: tuple[int, ...], max_size: float, max_skew: float, dense: Any) -> None:
    assert dense_axes(shape, max_size, max_skew) == dense


def updates(p: Any, steps: int) -> list[int]:
    state: Any = {"S": 0.0}
    return [t for t in range(1, steps + 1) if due_at(t, state, p)]


def test_when_the_preconditioner_is_updated() -> None:
    assert updates(1.0, 5) == [1, 2, 3, 4, 5]
    assert updates(0.1, 40) == [1, 11, 21, 31]
    assert updates(0.0, 40) == []
    assert updates(lambda t: 1.0 if t < 3 else 0.25, 12) == [1, 2, 3, 7, 11]
    for percent in (1, 3, 7, 29, 57, 99):
        assert len(updates(percent / 100, 10_000)) == 100 * percent


def test_schedule() -> None:
    assert [schedule(t) for t in (1, 500, 10**6)] == [1.0, 1.0, 0.03]
    np.testing.assert_allclose([schedule(1500), schedule(4006)], [math.exp(-1), math.exp(-3.506)], rtol=1e-15)
    assert schedule(4007) == 0.03
    at = updates(None, 10_000)
    assert at[:500] == list(range(1, 501))
    r = math.exp(-1e-3)
    assert len(at) == math.ceil(500 + r * (1 - r**3506) / (1 - r) + 0.03 * (10_000 - 4006))
    assert max(np.diff(at[-100:])) == 34
