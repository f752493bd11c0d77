"""PSGD (Li 2015, arXiv:1512.04202; Li 2024, arXiv:2402.11858): P = QᵀQ fitted while it is used.

The criterion is E[hᵀPh + vᵀP⁻¹v]. With h = Hv, v ~ N(0, I), its minimum is P = |H|⁻¹ (Newton). With h = g, and v
independent of it, it is P = E[ggᵀ]^(−1/2) (whitening). Here Q is

    Q_1 ⊗ … ⊗ Q_d, for each axis of a tensor a factor, dense (n×n) or diagonal (n): `kron_update`, `precondition`;
    one dense matrix for a vector: `dense_update`, `precondition`;
    (I + UVᵀ) diag(d) for a vector: `lra_update`, `lra_precondition`.

In the geometries PRO4P and QUAD4P, "Q" is P itself. Norms are exact. Every random number is an argument. `PSGD` is the
whole whitening optimizer, with a Kronecker product for every tensor.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from .notation import Array, Options, State
from .transforms import SHARED, transform

GEOMETRIES = ("EQ", "QEP", "QEQ", "Q0.5EQ1.5", "QUAD", "PRO4P", "QUAD4P")
FITS_P = ("PRO4P", "QUAD4P")


# One factor for each axis


def along(Q: Array, X: Array, i: int) -> Array:
    """X ×_i Q."""
    if Q.ndim == 2:
        return np.moveaxis(np.tensordot(Q, X, (1, i)), 0, i)
    return np.moveaxis(Q * np.moveaxis(X, i, -1), -1, i) if X.ndim else Q * X


def along_all(Qs: Sequence[Array], X: Array) -> Array:
    for i, Q in enumerate(Qs):
        X = along(Q, X, i)
    return X


def gram(X: Array, i: int, Q: Array) -> Array:
    """X_(i) X_(i)ᵀ, or where Q is diagonal the diagonal of it."""
    X_i = np.moveaxis(X, i, 0).reshape(X.shape[i], -1) if X.ndim else X
    return X_i @ X_i.T if Q.ndim == 2 else (X_i**2).sum(1) if X.ndim else X_i**2


def precondition(Qs: Sequence[Array], G: Array, geometry: str) -> Array:
    """P(G)."""
    return along_all(Qs, G) if geometry in FITS_P else along_all([Q.T for Q in Qs], along_all(Qs, G))


def matrix(Qs: Sequence[Array], geometry: str) -> Array:
    """P, by which `precondition` multiplies a raveled tensor."""
    factors = [np.atleast_2d(Q) if Q.ndim != 1 else np.diag(Q) for Q in Qs]
    return reduce(np.kron, factors if geometry in FITS_P else [Q.T @ Q for Q in factors])


def damped(G: Array, noise: Array, damping: float, eps: float = np.finfo(np.float64).eps) -> Array:
    return G + (damping + eps * np.abs(G)) * noise


def balanced(Qs: Sequence[Array]) -> list[Array]:
    """The same Q_1 ⊗ … ⊗ Q_d, with all max|Q_i| the same."""
    b = np.array([np.abs(Q).max() for Q in Qs])
    return [Q * (np.exp(np.log(b).mean()) / b_i) for Q, b_i in zip(Qs, b, strict=True)] if len(Qs) > 1 else list(Qs)


def spectral(A: Array) -> float:
    return float(np.linalg.norm(A, 2))


def kron_update(
    Qs: Sequence[Array],
    L: Sequence[float] | Array,
    G: Array,
    geometry: str,
    mu: float,
    *,
    V: Array | None = None,
    newton: bool = False,
    beta_L: float = 0.9,
    balance: bool = False,
    norm: Callable[[Array], float] = spectral,
    norm_skew: Callable[[Array], float] = spectral,
) -> tuple[list[Array], Array]:
    """All factors after one update, each from the old ones, and L.

    G is damped already. With `newton` it is h, and V is v; EQ whitens with V = ν too.
    """
    if geometry == "QEP":
        Qs = balanced(Qs)
    if geometry == "EQ":
        X = along_all(Qs, G)
        V = along_all([np.linalg.inv(Q).T if Q.ndim == 2 else 1 / Q for Q in Qs], V)
    else:
        X = precondition(Qs, G, geometry)
    updated, L = [], np.array(L, dtype=np.float64)
    for i, Q in enumerate(Qs):
        c = G.size / (len(Q) if Q.ndim else 1)
        largest = norm if Q.ndim == 2 else np.max
        M1 = gram(along(Q, X, i) if geometry == "QEP" else X, i, Q)
        if newton or geometry == "EQ":
            M2 = gram(along(Q, V, i) if geometry == "QEP" else V, i, Q)
            ell = largest(M1 + M2)
        elif geometry == "QEP":
            M2 = c * (Q @ Q.T if Q.ndim == 2 else Q * Q)
            ell = largest(M1 + M2)
        else:
            M2 = c * (np.eye(len(Q)) if Q.ndim == 2 else 1.0)
            ell = largest(M1) + c
        L[i] = max(beta_L * L[i] + (1 - beta_L) * ell, ell)
        updated.append(moved(Q, mu / L[i] * (M1 - M2), geometry, norm_skew))
    return balanced(updated) if balance and geometry != "QEP" else updated, L


def moved(Q: Array, D: Array, geometry: str, norm_skew: Callable[[Array], float] = spectral) -> Array:
    """Q a step along −D, in the geometry."""
    if geometry == "QUAD":
        D = D / 2
    if geometry in ("QUAD", "QUAD4P"):
        if Q.ndim < 2:
            return Q * (1 - D) ** 2
        p = Q - D @ Q
        p = p - p @ D
        return (p + p.T) / 2
    if Q.ndim < 2:
        return Q - D * Q
    if geometry == "EQ":
        return Q - np.triu(D) @ Q
    if geometry == "QEQ":
        return Q - Q @ D
    Q = Q - D @ Q
    if geometry == "Q0.5EQ1.5":
        return procrustes2(Q, norm_skew)
    if geometry == "PRO4P":
        for _ in range(10):
            Q = procrustes3(Q, norm_skew)
            if np.abs(Q - Q.T).max() < 1e-3 * np.abs(Q).max():
                break
    return Q


def generator(Q: Array, norm: Callable[[Array], float]) -> Array:
    R = Q.T - Q
    return R / (norm(R) + np.finfo(np.float64).tiny)


def procrustes2(Q: Array, norm: Callable[[Array], float] = spectral) -> Array:
    """Q rotated towards symmetric, by about exp(aR): tr(exp(aR) Q) grows the most, to second order, for a ≤ 1/8."""
    R = generator(Q, norm)
    RQ = R @ Q
    RRQ = R @ RQ
    t1, t2 = np.trace(RQ), np.trace(RRQ)
    a = min(-t1 / t2, 1 / 8) if t2 < 0 else 1 / 8
    return Q + a * (RQ + a / 2 * RRQ)


def procrustes3(P: Array, norm: Callable[[Array], float] = spectral) -> Array:
    """The same to third order, with a³/8 where exp has a³/6, which stays closer to a rotation; a ≤ 1/3."""
    R = generator(P, norm)
    RP = R @ P
    RRP = R @ RP
    RRRP = R @ RRP
    t1, t2, t3 = np.trace(RP), np.trace(RRP), np.trace(RRRP)
    if not t1 > 0 > t3:
        return P
    w = abs(t2) + np.sqrt(t2**2 - 1.5 * t1 * t3)  # either form is the positive root of t1 + t2 a + (3/8) t3 a²
    a = min(2 * t1 / w if t2 < 0 else -w / (0.75 * t3), 1 / 3)
    return P + a * (RP + a / 2 * (RRP + a / 4 * RRRP))


# One matrix for a vector


def dense_update(
    Q: Array, L: float, v: Array, h: Array, geometry: str, mu: float, *, beta_L: float = 0.9
) -> tuple[Array, float]:
    """The only factor of a vector, but for ‖aaᵀ + bbᵀ‖₂ ≤ ‖a‖² + ‖b‖², the trace."""
    (Q,), (L,) = kron_update([Q], [L], h, geometry, mu, V=v, newton=True, beta_L=beta_L, norm=np.trace)
    return Q, float(L)


def lra_init(U: Array, V: Array, scale: float) -> tuple[Array, Array, Array]:
    """From normal U and V, n×r."""
    return *(X * np.sqrt(0.1) / np.linalg.norm(X) if X.size else X for X in (U, V)), np.full(len(U), scale)


def lra_precondition(U: Array, V: Array, d: Array, g: Array) -> Array:
    x = d * g
    x = x + U @ (V.T @ x)
    return d * (x + V @ (U.T @ x))


def lra_update(
    U: Array,
    V: Array,
    d: Array,
    L: Sequence[float] | Array,
    v: Array,
    h: Array,
    mu: float,
    *,
    of_u: bool,
    beta_L: float = 0.9,
) -> tuple[Array, Array, Array, Array]:
    """U, V, d and L = (L_u, L_v, L_d) after one update of d and of either U or V; whitening, v = ν."""
    L, norm = np.array(L, dtype=np.float64), np.linalg.norm

    def rate(i: int, ell: float) -> float:
        L[i] = max(beta_L * L[i] + (1 - beta_L) * ell, ell)
        return mu / L[i]

    if U.shape[1]:
        ρ = np.sqrt(norm(U) / norm(V))
        U, V = U / ρ, V * ρ
        E = 0.1 * (U.T @ U - V.T @ V) / (norm(U) ** 2 + norm(V) ** 2)
        U, V = U - U @ (E - E @ E / 2), V + V @ (E + E @ E / 2)
    K = np.eye(U.shape[1]) + V.T @ U
    a = d * h
    a = a + U @ (V.T @ a)
    Ph = d * (a + V @ (U.T @ a))
    b = v / d
    b = b - V @ np.linalg.solve(K.T, U.T @ b)
    invPv = (b - U @ np.linalg.solve(K, V.T @ b)) / d

    d = d - rate(2, np.abs(h * Ph).max() + np.abs(v * invPv).max()) * (h * Ph - v * invPv) * d
    W = V if of_u else U
    ell = sum(norm(x) * norm(W @ (W.T @ x)) for x in (a, b))
    if U.shape[1] and of_u:
        U = U - rate(0, ell) * (np.outer(a, a @ V) - np.outer(b, b @ V)) @ K
    elif U.shape[1]:
        step = rate(1, ell) * (np.outer(a, a @ U) - np.outer(b, b @ U))
        V = V - step - V @ (U.T @ step)
    return U, V, d, L


# The optimizer

PSGD_OPTIONS = {
    "lr": 2e-4,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "decoupled_weight_decay": True,
    "whiten": "momentum",
    "geometry": "Q0.5EQ1.5",
    "lr_preconditioner": 0.1,
    "precond_update_probability": None,  # p(t) of the tensor's step t, or a number, or `schedule`
    "beta_L": 0.9,
    "damping": 1e-9,
    "noise": None,  # ν(tensor, step, shape), for the damping and as EQ's V; otherwise there is no noise
    "init_scale": 1.0,
    "max_size": 8192,
    "max_skew": 1.0,
    "update_first": True,
    "clip": (2.0, 10.0),
}
BALANCE_EVERY = 100  # updates of a tensor


class PSGD:
    """`step` maps parameters to new ones, like `common.Reference`."""

    def __init__(self, **options: Any) -> None:
        known = {**SHARED, **PSGD_OPTIONS}
        if unknown := options.keys() - known.keys():
            raise TypeError(f"PSGD has no option {sorted(unknown)}; it has {sorted(known)}")
        self.h = Options(**{**known, **options})
        self.states: defaultdict[int, State] = defaultdict(lambda: defaultdict(lambda: np.zeros(())))
        self.steps: Counter[int] = Counter()

    def step(self, theta: Sequence[Array], gradients: Sequence[Array | None]) -> list[Array]:
        pairs = enumerate(zip(theta, gradients, strict=True))
        gs = {i: -g if self.h.maximize else g for i, (_, g) in pairs if g is not None and g.size}
        return step(theta, gs, self.states, self.steps, self.h)


def step(
    theta: Sequence[Array],
    gradients: Mapping[int, Array],
    states: Mapping[int, State],
    steps: Counter[int],
    h: Options,
) -> list[Array]:
    finite = {i for i, g in gradients.items() if np.isfinite(g).all()}
    steps.update(finite)
    return [descend(i, θ, gradients[i], states[i], steps[i], h) if i in finite else θ for i, θ in enumerate(theta)]


def descend(i: int, θ: Array, g: Array, s: State, t: int, h: Options) -> Array:
    if h.decoupled_weight_decay:
        θ = θ * (1 - h.lr * h.weight_decay)
    else:
        g = g + h.weight_decay * θ
    G = np.squeeze(g)
    if t == 1:
        s["Qs"] = init(G.shape, h)
        s["L"] = np.zeros(len(s["Qs"]))
    β = min((t - 1) / t, h.momentum)
    s["m"] = β * s["m"] + (1 - β) * G
    w = G if h.whiten == "grad" else s["m"]
    due = due_at(t, s, h.precond_update_probability)
    if due and h.update_first:
        fit(w, i, t, s, h)
    u = precondition(s["Qs"], s["m"], h.geometry)
    if due and not h.update_first:
        fit(w, i, t, s, h)
    if h.clip is not None:
        u = np.clip(u / max(1.0, np.sqrt(np.mean(u**2)) / h.clip[0]), -h.clip[1], h.clip[1])
    return θ - h.lr * transform(u.reshape(θ.shape), g, h)


def fit(w: Array, i: int, t: int, s: State, h: Options) -> None:
    """Factors that would whiten nothing but zeros grow without end, so such an update is left out."""
    if not w.any():
        return
    s["updates"] = s["updates"] + 1
    ν = None if h.noise is None else h.noise(i, t, w.shape)
    s["Qs"], s["L"] = kron_update(
        s["Qs"],
        s["L"],
        w if ν is None else damped(w, ν, h.damping),
        h.geometry,
        h.lr_preconditioner,
        V=ν,
        beta_L=h.beta_L,
        balance=s["updates"] % BALANCE_EVERY == 0,
    )


def init(shape: tuple[int, ...], h: Options) -> list[Array]:
    """The factors of P = init_scale² I, of a tensor without axes of length 1."""
    scale = h.init_scale**2 if h.geometry in FITS_P else h.init_scale
    if not shape:
        return [np.array(scale)]
    dense = dense_axes(shape, h.max_size, h.max_skew)
    scale = scale ** (1 / len(shape))
    return [scale * (np.eye(n) if is_dense else np.ones(n)) for n, is_dense in zip(shape, dense, strict=True)]


def dense_axes(shape: tuple[int, ...], max_size: float, max_skew: float) -> tuple[bool, ...]:
    """Which axes have a dense factor."""
    return tuple(1 < n <= max_size and n**2 <= max_skew * math.prod(shape) for n in shape)


def due_at(t: int, s: State, p: Callable[[int], float] | float | None) -> bool:
    """Whether S = p(1) + … + p(t), rounded up, has grown: at the first step, and then as often as p says.

    A sum that is whole but for rounding counts as whole, so that p = 0.1 is due at exactly 1, 11, 21, …
    """
    before = s["S"]
    s["S"] = before + (schedule(t) if p is None else p(t) if callable(p) else p)
    return math.ceil(s["S"] - 1e-6) > math.ceil(before - 1e-6)


def schedule(t: int, flat: int = 500, decay: float = 1e-3, floor: float = 0.03) -> float:
    return min(1.0, max(floor, math.exp(-decay * (t - flat))))
