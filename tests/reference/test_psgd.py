"""The reference of PSGD against steps worked out by hand, its criterion, and preconditioners that are known."""

import math
from typing import Any

import numpy as np
import pytest

from reference.notation import Array, Options
from reference.psgd import (
    BALANCE_EVERY,
    FITS_P,
    GEOMETRIES,
    balanced,
    damped,
    dense_update,
    init,
    kron_update,
    lra_init,
    lra_precondition,
    lra_update,
    matrix,
    precondition,
    procrustes2,
    procrustes3,
)

RNG = np.random.default_rng

all_geometries = pytest.mark.parametrize("geometry", GEOMETRIES)
both_criteria = pytest.mark.parametrize("newton", [True, False], ids=["newton", "whitening"])


def spd(rng: np.random.Generator, eigenvalues: Array) -> Array:
    rotation, _ = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))
    return rotation * eigenvalues @ rotation.T


def start(shape: tuple[int, ...], geometry: str, max_skew: float = math.inf, scale: float = 1.0) -> list[Array]:
    return init(shape, Options(geometry=geometry, init_scale=scale, max_size=math.inf, max_skew=max_skew))


def error(A: Array) -> float:
    return float(np.linalg.norm(A - np.eye(len(A))) / math.sqrt(len(A)))


def noisy_fit(
    shape: tuple[int, ...], geometry: str, max_skew: float, newton: bool, steps: int = 30, transpose: bool = False
) -> tuple[list[Array], Array]:
    """Of unrelated random tensors."""
    rng = RNG(0)
    Qs = start(shape[::-1] if transpose else shape, geometry, max_skew, scale=1.5)
    L = np.zeros(len(Qs))
    for _ in range(steps):
        G, V = np.asarray(rng.normal(size=shape) * np.exp(rng.normal(size=shape))), np.asarray(rng.normal(size=shape))
        if transpose:
            G, V = G.T, V.T
        Qs, L = kron_update(Qs, L, G, geometry, 0.2, V=V, newton=newton)
    return Qs, L


# Updates


@pytest.mark.parametrize(
    ("geometry", "step"),
    [
        ("QEQ", lambda D: 1 - 0.01 * D),
        ("Q0.5EQ1.5", lambda D: 1 - 0.01 * D),
        ("QEP", lambda D: 1 - 0.01 * D),
        ("PRO4P", lambda D: 1 - 0.01 * D),
        ("QUAD", lambda D: (1 - 0.005 * D) ** 2),
        ("QUAD4P", lambda D: (1 - 0.01 * D) ** 2),
    ],
)
def test_diagonal_update_by_hand(geometry: str, step: Any) -> None:
    """M1 = (9, 1) in both axes and N/n = 2, so that ℓ = 11; then M1 = 0, and L = 0.9 · 11 + 0.1 · 2."""
    Qs, L = kron_update([np.ones(2), np.ones(2)], np.zeros(2), np.diag([3.0, 1.0]), geometry, 0.11)
    np.testing.assert_array_equal(L, [11.0, 11.0])
    for Q in Qs:
        np.testing.assert_allclose(Q, step(np.array([7.0, -1.0])), rtol=1e-15)
    if geometry == "QEQ":
        zeroed, L = kron_update(Qs, L, np.zeros((2, 2)), geometry, 0.11)
        np.testing.assert_allclose(L, [10.1, 10.1], rtol=1e-15)
        np.testing.assert_allclose(zeroed[0], Qs[0] * (1 + 0.22 / 10.1), rtol=1e-15)


def test_diagonal_update_by_hand_in_the_lie_group() -> None:
    """A = Q G = (6, 1) and B = V / Q = (1, 2), so that M1 = (36, 1), M2 = (1, 4) and ℓ = 37."""
    Q, G, V = np.array([2.0, 0.5]), np.array([3.0, 2.0]), np.array([2.0, 1.0])
    (updated,), (L,) = kron_update([Q], [0.0], G, "EQ", 0.37, V=V)
    assert L == 37.0
    np.testing.assert_allclose(updated, [2.0 * (1 - 0.35), 0.5 * (1 + 0.03)], rtol=1e-15)


def test_dense_update_by_hand() -> None:
    """X = G = (3, 4) and V = (0, 1): M1 + M2 = (9, 12; 12, 17) has the eigenvalues 13 ± √160."""
    G, V = np.array([3.0, 4.0]), np.array([0.0, 1.0])
    (Q,), (L,) = kron_update([np.eye(2)], [0.0], G, "QEQ", 0.1, V=V, newton=True)
    np.testing.assert_allclose(L, 13 + math.sqrt(160), rtol=1e-15)
    np.testing.assert_allclose(Q, np.eye(2) - 0.1 / L * np.array([[9.0, 12.0], [12.0, 15.0]]), rtol=1e-15)
    _, L = dense_update(np.eye(2), 0.0, V, G, "QEQ", 0.1)
    assert L == 9 + 16 + 1


def test_qep_update_by_hand() -> None:
    """X = 0, so that D = −M2 = −QQᵀ, of the eigenvalues (3 ± √5)/2."""
    Q = np.array([[1.0, 1.0], [0.0, 1.0]])
    (updated,), (L,) = kron_update([Q], [0.0], np.zeros(2), "QEP", 0.1)
    assert pytest.approx((3 + math.sqrt(5)) / 2, rel=1e-15) == L
    np.testing.assert_allclose(updated, Q + 0.1 / L * np.array([[2.0, 3.0], [1.0, 2.0]]), rtol=1e-15)


@pytest.mark.parametrize("shape", [(), (6,), (4, 5), (3, 4, 2)])
@all_geometries
def test_starts_at_the_square_of_the_scale(geometry: str, shape: tuple[int, ...]) -> None:
    P = matrix(start(shape, geometry, 1, scale=0.3), geometry)
    np.testing.assert_allclose(P, 0.09 * np.eye(len(P)), rtol=0, atol=1e-15)


@pytest.mark.parametrize("max_skew", [0, 1, math.inf])
@both_criteria
@all_geometries
def test_a_small_update_lowers_the_criterion(geometry: str, newton: bool, max_skew: float) -> None:
    """The whitening rules without a probe have E over v of vᵀP⁻¹v, which is tr P⁻¹."""
    rng = RNG(0)
    for shape in ((), (6,), (4, 5), (3, 4, 2), (4, 1, 3)):
        Qs, L = noisy_fit(shape, geometry, max_skew, newton)
        G, V = np.asarray(rng.normal(size=shape)), np.asarray(rng.normal(size=shape))

        def criterion(Qs: list[Array], G: Array = G, V: Array = V) -> float:
            P = matrix(Qs, geometry)
            inverse = V.ravel() @ np.linalg.solve(P, V.ravel())
            if not newton and geometry != "EQ":
                inverse = np.trace(np.linalg.inv(P))
            return float(G.ravel() @ P @ G.ravel() + inverse)

        updated, _ = kron_update(Qs, L, G, geometry, 1e-3, V=V, newton=newton)
        assert criterion(updated) < criterion(Qs)


@all_geometries
def test_the_inverse_is_a_fixed_point(geometry: str) -> None:
    rng = RNG(0)
    h1, h2 = np.linspace(0.2, 1, 3), np.linspace(0.5, 2, 4)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    H1, P1 = rotation * h1 @ rotation.T, rotation / h1 @ rotation.T
    Q1 = {"EQ": np.linalg.cholesky(P1).T, "PRO4P": P1, "QUAD4P": P1}.get(geometry, rotation / np.sqrt(h1) @ rotation.T)
    Qs = [Q1, 1 / h2 if geometry in FITS_P else 1 / np.sqrt(h2)]
    V = rng.normal(size=(3, 4))
    updated, _ = kron_update(Qs, np.zeros(2), H1 @ V * h2, geometry, 0.5, V=V, newton=True)
    np.testing.assert_allclose(matrix(updated, geometry), np.kron(P1, np.diag(1 / h2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("max_skew", [0, 1, math.inf])
@both_criteria
@all_geometries
def test_preconditioner_stays_positive_definite(geometry: str, newton: bool, max_skew: float) -> None:
    for shape in ((), (6,), (4, 5), (3, 4, 2)):
        Qs, _ = noisy_fit(shape, geometry, max_skew, newton)
        P = matrix(Qs, geometry)
        np.testing.assert_allclose(P, P.T, rtol=0, atol=1e-2 * np.abs(P).max())  # PRO4P turns no further
        assert np.linalg.eigvalsh(P + P.T).min() > 0
        G = np.asarray(RNG(1).normal(size=shape))
        np.testing.assert_allclose(precondition(Qs, G, geometry).ravel(), P @ G.ravel(), rtol=0, atol=1e-13)
        if geometry == "EQ":
            assert all(np.array_equal(Q, np.triu(Q)) for Q in Qs if Q.ndim == 2)


@pytest.mark.parametrize("max_skew", [0, 1, math.inf])
@both_criteria
@all_geometries
def test_update_does_not_tell_rows_from_columns(geometry: str, newton: bool, max_skew: float) -> None:
    Qs, L = noisy_fit((4, 5), geometry, max_skew, newton)
    Qs_T, L_T = noisy_fit((4, 5), geometry, max_skew, newton, transpose=True)
    np.testing.assert_allclose(L, L_T[::-1], rtol=1e-9)
    for Q, Q_T in zip(Qs, Qs_T[::-1], strict=True):
        np.testing.assert_allclose(Q, Q_T, rtol=0, atol=1e-9)


def test_balancing_keeps_the_product() -> None:
    rng = RNG(0)
    Qs = [rng.normal(size=(3, 3)), rng.normal(size=2), rng.normal(size=(4, 4))]
    extreme = [1e200 * Qs[0], 1e150 * Qs[1], 1e-200 * Qs[2]]
    after = balanced(extreme)
    np.testing.assert_allclose([np.abs(Q).max() for Q in after], np.abs(after[0]).max(), rtol=1e-12)
    G = rng.normal(size=(3, 2, 4))
    expected = 1e150 * precondition(Qs, G, "QUAD4P")
    np.testing.assert_allclose(precondition(after, G, "QUAD4P"), expected, rtol=1e-10)
    assert balanced([Qs[0]])[0] is Qs[0]


@all_geometries
def test_update_balances_on_demand_and_qep_always(geometry: str) -> None:
    rng = RNG(0)
    Qs, G, V = [0.1 * np.eye(3), 30 * np.ones(4)], rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    plain, L = kron_update(Qs, np.zeros(2), G, geometry, 0.1, V=V)
    after, L_after = kron_update(Qs, np.zeros(2), G, geometry, 0.1, V=V, balance=True)
    np.testing.assert_array_equal(L_after, L)
    expected = plain if geometry == "QEP" else balanced(plain)
    for Q, Q_expected in zip(after, expected, strict=True):
        np.testing.assert_array_equal(Q, Q_expected)
    if geometry == "QEP":
        before, L_before = kron_update(balanced(Qs), np.zeros(2), G, geometry, 0.1, V=V)
        np.testing.assert_allclose(L_before, L, rtol=1e-14)
        np.testing.assert_allclose(before[0], plain[0], rtol=1e-14)


def test_damping() -> None:
    G, ν = np.array([1.0, -4.0]), np.array([2.0, 3.0])
    np.testing.assert_array_equal(damped(G, ν, 0.5, eps=0.25), [1.0 + 0.75 * 2, -4.0 + 1.5 * 3])
    assert damped(np.array(0.0), np.array(3.0), 1e-9) == pytest.approx(3e-9, rel=1e-15)


# Procrustes


@pytest.mark.parametrize(("turn", "largest", "third"), [(procrustes2, 1 / 8, 0), (procrustes3, 1 / 3, 1 / 8)])
def test_procrustes_turns_towards_symmetric(turn: Any, largest: float, third: float) -> None:
    rng = RNG(0)
    S = spd(rng, np.linspace(0.1, 1, 6))
    np.testing.assert_array_equal(turn(S + S.T), S + S.T)
    for angle in (1e-3, 0.1, 1.0):
        A = rng.normal(size=(6, 6))
        A = angle * (A - A.T) / np.linalg.norm(A - A.T, 2)
        Q = np.linalg.solve(np.eye(6) - A / 2, np.eye(6) + A / 2) @ S
        R = (Q.T - Q) / np.linalg.norm(Q.T - Q, 2)
        traces = {
            a: np.trace((np.eye(6) + a * R + a**2 / 2 * R @ R + third * a**3 * R @ R @ R) @ Q)
            for a in np.linspace(0, largest, 50)
        }
        np.testing.assert_allclose(np.trace(turn(Q)), max(traces.values()), rtol=1e-4)
        for _ in range(200):
            Q = turn(Q)
        np.testing.assert_allclose(Q, Q.T, rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.svd(Q)[1], np.linalg.svd(S)[1], rtol=5e-3)


# Fits


def kron_fit(geometry: str, newton: bool, steps: int) -> float:
    rng = RNG(0)
    H1, H2 = spd(rng, np.linspace(0.2, 1, 5)), spd(rng, np.linspace(0.2, 1, 7))
    Qs, L = start((5, 7), geometry), np.zeros(2)
    for t in range(steps):
        V, W = rng.normal(size=(2, 5, 7))
        μ, balance = 0.5 * (1 - t / steps), t % BALANCE_EVERY == BALANCE_EVERY - 1
        Qs, L = kron_update(Qs, L, H1 @ V @ H2, geometry, μ, V=V if newton else W, newton=newton, balance=balance)
    return error(matrix(Qs, geometry) @ np.kron(H1, H2))


@all_geometries
def test_kron_newton_finds_the_inverse_hessian(geometry: str) -> None:
    assert kron_fit(geometry, newton=True, steps=1000) < (1e-6 if geometry == "EQ" else 1e-14)


@all_geometries
def test_kron_whitening_finds_the_inverse_root(geometry: str) -> None:
    assert kron_fit(geometry, newton=False, steps=1000) < 0.15


@all_geometries
def test_whitened_gaussians_are_white(geometry: str) -> None:
    """E[(Pg)(Pg)ᵀ] = PΣP."""
    rng = RNG(0)
    A = rng.normal(size=(6, 6))
    for max_skew, C in ((math.inf, A), (0, np.diag(np.diag(A)))):
        (Q,), L = start((6,), geometry, max_skew), np.zeros(1)
        for t in range(2000):
            g, v = C @ rng.normal(size=6), rng.normal(size=6)
            (Q,), L = kron_update([Q], L, g, geometry, 0.5 * (1 - t / 2000), V=v)
        P = matrix([Q], geometry)
        assert error(P @ C @ C.T @ P.T) < 0.3


@all_geometries
def test_dense_newton_finds_the_inverse_hessian(geometry: str) -> None:
    rng = RNG(0)
    H = spd(rng, np.linspace(0.1, 1, 20))
    Q, L = np.eye(20), 0.0
    for _ in range(3000):
        v = rng.normal(size=20)
        Q, L = dense_update(Q, L, v, H @ v, geometry, 0.5)
    assert error(matrix([Q], geometry) @ H) < (2e-5 if geometry == "EQ" else 2e-15)


def lra_fit(H: Array, rank: int, steps: int, newton: bool = True) -> Array:
    """P."""
    rng = RNG(0)
    n = len(H)
    U, V, d = lra_init(*rng.normal(size=(2, n, rank)), 1.0)
    L = np.zeros(3)
    for t in range(steps):
        v, w = rng.normal(size=(2, n))
        μ = 0.5 if newton else 0.5 * (1 - t / steps)
        U, V, d, L = lra_update(U, V, d, L, v if newton else w, H @ v, μ, of_u=rng.random() < 0.5)
    return np.stack([lra_precondition(U, V, d, e) for e in np.eye(n)])


def test_lra_newton_finds_the_inverse_hessian() -> None:
    rng = RNG(0)
    U = rng.normal(size=(10, 5)) / math.sqrt(10)
    H = np.diag(rng.random(10) + 0.1) + U @ U.T
    at_2000, at_5000 = (error(lra_fit(H, 5, steps) @ H) for steps in (2000, 5000))
    assert at_2000 < 1e-2
    assert at_5000 < 1e-3
    assert at_5000 < at_2000 / 10


@pytest.mark.parametrize("of_u", [True, False])
def test_lra_update_is_one_of_q(of_u: bool) -> None:
    """δQ = −s (aaᵀ − bbᵀ) VVᵀ Q, or −s UUᵀ (aaᵀ − bbᵀ) Q, with a = Qh and b = Q⁻ᵀv."""
    rng = RNG(0)
    U, (v, h), d = rng.normal(size=(6, 2)), rng.normal(size=(2, 6)), 1 + rng.random(6)
    V = np.linalg.qr(rng.normal(size=(6, 6)))[0] @ U  # UᵀU = VᵀV, balanced

    def q(U: Array, V: Array, d: Array) -> Array:
        return (np.eye(6) + U @ V.T) * d

    Q = q(U, V, d)
    U, V, d_after, L = lra_update(old_U := U, old_V := V, d, np.zeros(3), v, h, 0.1, of_u=of_u)
    a, b = Q @ h, np.linalg.solve(Q.T, v)
    D = np.outer(a, a) - np.outer(b, b)
    W = old_V @ old_V.T if of_u else old_U @ old_U.T
    ell = sum(np.linalg.norm(x) * np.linalg.norm(W @ x) for x in (a, b))
    np.testing.assert_allclose(L[:2], [ell, 0] if of_u else [0, ell], rtol=1e-12)
    np.testing.assert_allclose(q(U, V, d) - Q, -0.1 / ell * (D @ W if of_u else W @ D) @ Q, rtol=0, atol=1e-12)
    Ph, invPv = Q.T @ a, np.linalg.solve(Q, b)
    assert L[2] == pytest.approx(np.abs(h * Ph).max() + np.abs(v * invPv).max(), rel=1e-12)
    np.testing.assert_allclose(d_after, d - 0.1 / L[2] * (h * Ph - v * invPv) * d, rtol=1e-12)


def test_lra_of_rank_0_scales_by_the_absolute_inverse() -> None:
    h = np.array([3.0, -0.2, 1.0, -5.0])
    np.testing.assert_allclose(lra_fit(np.diag(h), 0, 3000), np.diag(1 / np.abs(h)), rtol=1e-12)


def test_lra_whitening_finds_the_inverse_root() -> None:
    rng = RNG(0)
    U = rng.normal(size=(10, 2)) / math.sqrt(10)
    H = np.diag(rng.random(10) + 0.1) + U @ U.T
    assert error(lra_fit(H, 5, 3000, newton=False) @ H) < 0.3


def test_lra_balances() -> None:
    """At μ = 0 only that is left of an update, and it changes P by at most the fourth power of a tenth."""
    rng = RNG(0)
    U, V, d = lra_init(*rng.normal(size=(2, 8, 3)), 0.7)
    np.testing.assert_allclose([np.linalg.norm(U), np.linalg.norm(V)], math.sqrt(0.1), rtol=1e-15)
    U, L = 5 * U, np.zeros(3)
    v, h = rng.normal(size=(2, 8))
    before = lra_precondition(U, V, d, h)
    for t in range(1000):
        U, V, d, L = lra_update(U, V, d, L, v, h, 0.0, of_u=t % 2 == 0)
    np.testing.assert_allclose(U.T @ U, V.T @ V, rtol=0, atol=1e-6)
    np.testing.assert_allclose(lra_precondition(U, V, d, h), before, rtol=1e-4)
    assert L.min() > 0
