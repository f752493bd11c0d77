"""What PSGD is made of: updates of its factors, norms, the schedule, and how it sees a tensor."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Mapping
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers.psgd import kron
from optzoo.optimizers.psgd.factors import layout
from optzoo.optimizers.psgd.geometries import GEOMETRIES, procrustes2, procrustes3
from optzoo.optimizers.psgd.noise import Noise
from optzoo.optimizers.psgd.norms import NORMS, exact, power, subspace
from optzoo.optimizers.psgd.schedule import default_probability, updates_at, updates_until
from optzoo.optimizers.psgd.whitening import PSGD
from reference import psgd as reference
from reference.notation import Options

SHAPES = [(), (6,), (4, 5), (3, 4, 2), (4, 1, 3)]
all_geometries = pytest.mark.parametrize("geometry", GEOMETRIES)
both_criteria = pytest.mark.parametrize("newton", [True, False], ids=["newton", "whitening"])


def noise(step: int = 1, batch: int = 1) -> Noise:
    return Noise.at(0, range(batch), step)


# Updates


@all_geometries
@both_criteria
@pytest.mark.parametrize("max_skew", [0, 1, math.inf])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_updates_equal_the_reference(shape: tuple[int, ...], max_skew: float, newton: bool, geometry: str) -> None:
    """Of three tensors at once, and P(X) of the factors after twenty."""
    rng, batch, rule = np.random.default_rng(0), 3, GEOMETRIES[geometry]
    own = {**reference.PSGD_OPTIONS, "max_skew": max_skew, "geometry": geometry}
    squeezed, seen = tuple(n for n in shape if n != 1), layout(shape, {**own, "merge_dims": None})
    theirs = [reference.init(squeezed, Options(**own)) for _ in range(batch)]
    bounds = [np.zeros(len(theirs[0])) for _ in range(batch)]
    ours = [torch.from_numpy(np.stack([np.atleast_1d(q)] * batch)) for q in theirs[0]]
    assert [q.ndim == 3 for q in ours] == list(seen.dense)
    L = torch.zeros(batch, len(ours), dtype=torch.float64)
    for _ in range(20):
        G, V = rng.normal(size=(2, batch, *squeezed))
        for b in range(batch):
            theirs[b], bounds[b] = reference.kron_update(
                theirs[b], bounds[b], G[b], geometry, 0.2, V=V[b], newton=newton
            )
        h, v = (torch.from_numpy(x).reshape(batch, *seen.shape) for x in (G, V))
        ours = kron.balanced(ours) if rule.balanced_every_update else ours
        options: dict[str, Any] = dict(newton=newton, step_size=0.2, beta=0.9, norm=exact, noise=noise())
        ours, L = kron.update(ours, L, h, v, rule, **options)
    X = rng.normal(size=(batch, *squeezed))
    PX = kron.precondition(ours, torch.from_numpy(X).reshape(batch, *seen.shape), rule)
    for b in range(batch):
        np.testing.assert_allclose(L[b], bounds[b], rtol=1e-12)
        for q, expected in zip(ours, theirs[b], strict=True):
            np.testing.assert_allclose(
                q[b].reshape(expected.shape), expected, rtol=0, atol=1e-12 * np.abs(expected).max()
            )
        expected = reference.precondition(theirs[b], X[b], geometry)
        np.testing.assert_allclose(PX[b].reshape(squeezed), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_balancing_keeps_the_product() -> None:
    """Also where the product of the largest entries overflows."""
    factors = [torch.full((2, 3), 1e10), 1e20 * torch.eye(4).expand(2, 4, 4), torch.full((2, 5), 3e20)]
    balanced = kron.balanced(factors)
    for b in range(2):
        sizes = torch.stack([q[b].abs().max() for q in balanced])
        torch.testing.assert_close(sizes, sizes[0].expand(3), rtol=1e-4, atol=0)
        logs = [math.log(float(q[b].abs().max())) for q in factors]
        assert sizes.log().sum().item() == pytest.approx(sum(logs), rel=1e-5)
    assert kron.balanced(factors[:1])[0] is factors[0]


@pytest.mark.parametrize(
    ("turn", "theirs", "largest"), [(procrustes2, reference.procrustes2, 1 / 8), (procrustes3, None, 1 / 3)]
)
def test_rotations_equal_the_reference_and_stop_at_the_cap(turn: Any, theirs: Any, largest: float) -> None:
    """HeavyBall turns by up to 1/2, and ignores the 1/8 it is called with."""
    theirs = theirs or reference.procrustes3
    rng = np.random.default_rng(0)
    symmetric = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    assert torch.equal(turn(symmetric[None], exact, noise())[0], symmetric)
    for angle in (1e-3, 0.1, 1.0):
        A = rng.normal(size=(6, 6))
        A = angle * (A - A.T) / np.linalg.norm(A - A.T, 2)
        Q = np.linalg.solve(np.eye(6) - A / 2, np.eye(6) + A / 2) @ symmetric.numpy()
        turned = turn(torch.from_numpy(Q)[None], exact, noise())[0].numpy()
        np.testing.assert_allclose(turned, theirs(Q), rtol=0, atol=1e-13)
        # a of Q + a (RQ + a/2 R²Q) + O(a³), where R has norm 1, bounds how far singular directions turn
        assert np.linalg.norm(turned - Q, 2) <= (largest + largest**2) * np.linalg.norm(Q, 2)


# Norms


def random_matrices(n: int, kind: str, count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    if kind == "skew":
        a = torch.randn(count, n, n, generator=generator)
        return a - a.mT
    a = torch.randn(count, n, n + 10 if kind == "spd" else 3, generator=generator)
    return a @ a.mT


@pytest.mark.parametrize(
    ("n", "kind", "least", "mean"),
    [
        (8, "spd", 0.98, 0.995),
        (64, "spd", 0.92, 0.955),
        (256, "spd", 0.86, 0.90),
        (64, "rank 3", 0.95, 0.99),
        (8, "skew", 0.98, 0.995),
        (64, "skew", 0.92, 0.945),
        (256, "skew", 0.86, 0.895),
    ],
)
def test_norms_are_estimated_from_below(n: int, kind: str, least: float, mean: float) -> None:
    """A step of Q is too large by what is missing. The authors' estimate, with four products, is as good as this."""
    a = random_matrices(n, kind)
    truth = exact(a, noise())
    torch.testing.assert_close(truth, torch.linalg.svdvals(a).amax(1), rtol=1e-5, atol=0)
    estimated = subspace(a, noise(batch=len(a))) / truth
    assert estimated.max() <= 1 + 1e-5
    assert estimated.min() >= least
    assert estimated.mean() >= mean
    rough = power(a, noise()) / truth
    assert rough.max() <= 1 + 1e-5
    assert rough.min() >= 0.65
    assert estimated.mean() >= rough.mean() - 0.01


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_norms_of_extreme_matrices(norm: str, dtype: torch.dtype) -> None:
    estimate = NORMS[norm]
    assert torch.equal(estimate(torch.zeros(2, 3, 3, dtype=dtype), noise(batch=2)), torch.zeros(2, dtype=dtype))
    diagonal = torch.diag(torch.tensor([1.0, -2.0, 8.0], dtype=dtype))
    a = torch.stack([diagonal, diagonal * 2.0**60, diagonal * 2.0**-60, diagonal * 0])  # squares leave float32's range
    found, again = (estimate(a, noise(batch=4)).double() for _ in range(2))
    assert found.tolist() == again.tolist()
    scale = torch.tensor([1.0, 2.0**60, 2.0**-60, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, 8 * scale, rtol=0.02, atol=0)


def test_norms_of_a_batch_are_those_of_its_members() -> None:
    a = random_matrices(16, "skew", 3).double()
    for norm in NORMS.values():
        whole = norm(a, Noise.at(0, [4, 5, 6], 1))
        alone = [norm(a[i : i + 1], Noise.at(0, [4 + i], 1)) for i in range(3)]
        torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-13, atol=0)


# Noise


def test_noise_is_normal_and_each_stream_its_own() -> None:
    x = Noise.at(0, [0, 1], 1).normal(2, 100_000, like=torch.zeros(1))
    torch.testing.assert_close(x.mean(1), torch.zeros(2), rtol=0, atol=0.01)
    torch.testing.assert_close(x.std(1), torch.ones(2), rtol=0, atol=0.01)
    others = [(1, 0, 1, 0), (0, 1, 1, 0), (0, 0, 2, 0), (0, 0, 1, 1), (-1, 0, 1, 0), (2**63, 0, 1, 0), (0, 0, 1, -1)]
    streams = [x[0]] + [
        Noise.at(seed, [index], step, stream).normal(1, 100_000, like=x)[0] for seed, index, step, stream in others
    ]
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams))
    assert correlation.abs().max() < 0.02


# The schedule


def sum_of_probabilities(t: int) -> float:
    """500 ones, a geometric series down to 0.03, and 0.03."""
    r, k = math.exp(-1e-3), min(t, 4006) - 500
    return float(t) if t <= 500 else 500 + r * (1 - r**k) / (1 - r) + 0.03 * max(t - 4006, 0)


def test_default_schedule() -> None:
    counts = [updates_until(t, None) for t in range(20_001)]
    assert counts == [math.ceil(sum_of_probabilities(t) - 1e-6) for t in range(20_001)]
    at = [t for t in range(1, 20_001) if updates_at(t, None)]
    assert at == [t for t in range(1, 20_001) if counts[t] > counts[t - 1]]
    assert at[:501] == [*range(1, 501), 501]
    assert set(np.diff(at[-100:])) == {33, 34}
    assert [default_probability(t) for t in (1, 500, 4007, 10**6)] == [1.0, 1.0, 0.03, 0.03]


def test_default_schedule_is_the_sum_of_its_probabilities() -> None:
    """Added up one by one, as earlier versions did: the same steps, but for rounding, which is far from deciding."""
    sums = list(accumulate(map(default_probability, range(1, 300_001)), initial=0.0))
    assert [updates_until(t, None) for t in range(300_001)] == [math.ceil(total - 1e-6) for total in sums]
    falling = sum(map(Fraction, map(default_probability, range(1, 4007))))
    for t in range(2**40, 2**40 + 200):  # where only exact fractions say what is right
        assert updates_until(t, None) == math.ceil(falling + Fraction(3, 100) * (t - 4006) - Fraction(1, 10**6)), t


def test_schedules_take_no_memory_that_grows_with_the_run() -> None:
    tracemalloc.start()
    try:
        assert updates_at(10**12, None) in (True, False)
        assert tracemalloc.get_traced_memory()[0] < 10_000
        updates_at(200_000, lambda t: 0.25)
        assert tracemalloc.get_traced_memory()[0] < 500_000  # one by one they would take 6 MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("percent", [1, 3, 7, 10, 25, 29, 57, 99, 100])
def test_constant_probabilities_are_met_exactly(percent: int) -> None:
    at = [t for t in range(1, 10_001) if updates_at(t, percent / 100)]
    assert len(at) == 100 * percent
    assert at[0] == 1
    assert {*np.diff(at)} <= {math.floor(100 / percent), math.ceil(100 / percent)}


def test_decisions_do_not_depend_on_when_they_are_asked_for() -> None:
    """A resumed run asks for a late step first."""
    fresh = [lambda t, p=p: p if t % 2 else 0.5 for p in (0.1, 0.7)]
    for probability in (None, 0.3, *fresh):
        late = [updates_at(t, probability) for t in range(3000, 0, -1)]
        assert [updates_at(t, probability) for t in range(1, 3001)] == late[::-1]


def test_functions_of_the_step() -> None:
    assert [t for t in range(1, 13) if updates_at(t, lambda t: 1.0 if t < 3 else 0.25)] == [1, 2, 3, 7, 11]
    assert not any(updates_at(t, lambda t: 0.0) for t in range(1, 20))
    seen: list[int] = []

    def once(t: int) -> float:
        seen.append(t)
        return 0.5

    for t in (5, 3, 7, 7):
        updates_at(t, once)
    assert seen == [1, 2, 3, 4, 5, 6, 7]


# How a tensor is seen


def group(**options: Any) -> Mapping[str, Any]:
    return {"max_size": 8192, "max_skew": 1.0, "merge_dims": None, **options}


@pytest.mark.parametrize(
    ("shape", "options", "axes", "dense"),
    [
        ((), {}, (1,), (False,)),
        ((1,), {"max_skew": math.inf}, (1,), (False,)),
        ((1, 1), {}, (1,), (False,)),
        ((7,), {}, (7,), (False,)),
        ((4096,), {}, (4096,), (False,)),  # NVIDIA's has 4096² numbers for a bias
        ((7,), {"max_skew": math.inf}, (7,), (True,)),
        ((5, 1), {}, (5,), (False,)),
        ((10, 50), {}, (10, 50), (True, False)),
        ((50, 10), {}, (50, 10), (False, True)),
        ((50, 50), {}, (50, 50), (True, True)),
        ((50, 50), {"max_size": 49, "max_skew": math.inf}, (50, 50), (False, False)),
        ((10, 50), {"max_size": 50, "max_skew": math.inf}, (10, 50), (True, True)),
        ((10, 50), {"max_skew": 0}, (10, 50), (False, False)),
        ((10, 50), {"max_skew": 5.0}, (10, 50), (True, True)),
        ((50257, 768), {}, (50257, 768), (False, True)),
        ((10000, 10000), {}, (10000, 10000), (False, False)),
        # kron_torch compares signed differences, and makes (393216, 3) and (1344, 7) of these.
        ((512, 256, 3, 3), {}, (512, 256, 3, 3), (True, True, True, True)),
        ((64, 3, 7, 7), {}, (64, 3, 7, 7), (True, True, True, True)),
        ((512, 256, 3, 3), {"merge_dims": "spatial"}, (512, 256, 9), (True, True, True)),
        ((512, 256, 3, 3), {"merge_dims": "matrix"}, (512, 2304), (True, False)),
        ((256, 1, 3, 3), {}, (256, 3, 3), (False, True, True)),
        ((256, 1, 3, 3), {"merge_dims": "spatial"}, (256, 9), (False, True)),
        ((256, 1, 3, 3), {"merge_dims": "matrix"}, (256, 9), (False, True)),
        ((512, 256, 1, 1), {"merge_dims": "spatial"}, (512, 256), (False, True)),
        ((4, 1, 3), {"max_skew": math.inf}, (4, 3), (True, True)),
        ((4, 3), {"merge_dims": "spatial"}, (4, 3), (False, True)),
        ((4,), {"merge_dims": "matrix"}, (4,), (False,)),
        ((), {"merge_dims": "matrix"}, (1,), (False,)),
    ],
    ids=str,
)
def test_layout(shape: tuple[int, ...], options: Any, axes: tuple[int, ...], dense: tuple[bool, ...]) -> None:
    seen = layout(shape, group(**options))
    assert (seen.shape, seen.dense) == (axes, dense)
    assert seen.numel == math.prod(shape)


MIB = 2**20


@pytest.mark.parametrize(
    ("shape", "factors", "size"),
    [
        ((4096, 4096), [(4096, 4096), (4096, 4096)], 192),
        ((1024, 4096), [(1024, 1024), (4096,)], 20),
        ((50257, 768), [(50257,), (768, 768)], 149.7),
        ((4096,), [(4096,)], 0.03),
        ((512, 256, 3, 3), [(512, 512), (256, 256), (3, 3), (3, 3)], 5.75),
    ],
    ids=str,
)
def test_state(shape: tuple[int, ...], factors: list[tuple[int, ...]], size: float) -> None:
    """Its shapes and bytes, without the memory."""
    p = nn.Parameter(torch.empty(shape, device="meta"))
    optimizer = PSGD([p])
    optimizer.init_state()
    state = optimizer.state[p]
    assert [tuple(state[f"Q{i}"].shape) for i in range(len(factors))] == factors
    assert (state["exp_avg"].shape, state["L"].shape) == (p.shape, (len(factors),))
    assert state.keys() == {*(f"Q{i}" for i in range(len(factors))), "L", "exp_avg", "step", "skipped"}
    assert {t.dtype for name, t in state.items() if name != "step"} == {torch.float32}
    assert sum(t.numel() * t.itemsize for t in state.values()) / MIB == pytest.approx(size, rel=0.05, abs=0.005)


def test_an_axis_too_long_for_a_dense_factor_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    group = {"max_size": 6, "max_skew": math.inf, "merge_dims": None}
    for _ in range(3):
        assert layout((7, 5), group).dense == (False, True)
    assert [record.getMessage() for record in caplog.records] == [
        "PSGD: the axis of 7 of a parameter of shape (7, 5) gets a diagonal factor, for it is longer than max_size=6"
    ]
