"""PSGD steps as its reference does, whatever shares the step, and draws its random numbers from nowhere else."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import matrices
from optzoo.optimizers.psgd.geometries import GEOMETRIES
from optzoo.optimizers.psgd.noise import Noise
from optzoo.optimizers.psgd.whitening import PSGD
from reference import psgd as reference
from support.checkpoints import differences
from support.problems import tensors

SHAPES = [(), (6,), (4, 5), (4, 5), (3, 4, 2), (4, 1, 3)]
all_geometries = pytest.mark.parametrize("geometry", GEOMETRIES)


def gradients(steps: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[list[Tensor | None]]:
    """Of unequal sizes; the second tensor has none in every third step, so that its step count differs."""
    rows: list[list[Tensor | None]] = []
    for t in range(steps):
        pairs = zip(tensors(shapes, seed=2 * t + 1), tensors(shapes, seed=2 * t + 2), strict=True)
        rows.append([None if i == 1 and t % 3 == 1 else g * s.exp() for i, (g, s) in enumerate(pairs)])
    return rows


def parameters(shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(shapes)]


def walk(optimizer: PSGD, params: Sequence[Tensor], rows: Sequence[Sequence[Tensor | None]]) -> None:
    for row in rows:
        for p, g in zip(params, row, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()


# The reference


def noise_of(tensor: int, step: int, shape: tuple[int, ...]) -> Any:
    """Exact norms draw nothing: the numbers of a tensor and a step are those of its only update."""
    numbers = Noise.at(0, [tensor], step).normal(1, *(shape or (1,)), like=torch.empty(0, dtype=torch.float64))
    return numbers.reshape(shape).numpy()


def largest_error(steps: int, rows: Sequence[Sequence[Tensor | None]] | None = None, **options: Any) -> float:
    """How far PSGD gets away from its reference."""
    params = parameters()
    options = {"lr": 0.01, **options}
    theirs = reference.PSGD(noise=noise_of, **options)
    theta = [p.detach().numpy().copy() for p in params]
    optimizer, worst = PSGD(params, norm="exact", **options), 0.0
    for row in gradients(steps) if rows is None else rows:
        walk(optimizer, params, [row])
        theta = theirs.step(theta, [None if g is None else g.numpy() for g in row])
        moved = [np.abs(p.detach().numpy() - θ).max() for p, θ in zip(params, theta, strict=True)]
        assert np.isfinite(moved).all()
        worst = max(worst, *moved)
    return worst


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "grad": {"whiten": "grad", "weight_decay": 0.1, "max_skew": math.inf, "momentum": 0.5},
    "coupled": {"weight_decay": 0.1, "decoupled_weight_decay": False, "update_first": False, "whiten": "grad"},
    "diagonal": {"max_skew": 0, "lr_preconditioner": 0.5, "maximize": True, "whiten": "grad"},
    "dense": {"max_skew": math.inf, "precond_update_probability": 0.3, "update_first": False, "init_scale": 0.7},
    "unclipped": {"clip": None, "momentum": 0.0, "precond_update_probability": lambda t: 0.9 / t, "max_skew": 0},
    "ascent": {"maximize": True, "weight_decay": 0.1, "decoupled_weight_decay": False, "clip": (0.5, 1.0)},
    "cached": {"precond_update_probability": 0.3, "cache_preconditioner": True, "beta_L": 0.5, "damping": 1e-2},
    "limited": {"max_size": 4, "max_skew": math.inf, "init_scale": 1e-2, "whiten": "grad", "momentum": 0.0},
}
# The reference caches nothing, and knows nothing of it.
OWN = {"cache_preconditioner"}


@all_geometries
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(variant: str, geometry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"geometry": geometry, **VARIANTS[variant]}
    if options.keys() & OWN:
        monkeypatch.setattr(reference.PSGD, "__init__", _without_own(reference.PSGD.__init__))
    assert largest_error(12, **options) <= 1e-12


def _without_own(init: Callable[..., None]) -> Callable[..., None]:
    def wrapped(self: Any, **options: Any) -> None:
        init(self, **{name: value for name, value in options.items() if name not in OWN})

    return wrapped


@pytest.mark.parametrize("geometry", ["Q0.5EQ1.5", "QEP", "QUAD4P"])
def test_equals_the_reference_past_a_balancing(geometry: str) -> None:
    """At the 100th update the factors are scaled to one size."""
    assert largest_error(102, geometry=geometry, precond_update_probability=1.0) <= 1e-12


@pytest.mark.parametrize("geometry", ["Q0.5EQ1.5", "EQ", "QEP"])
def test_equals_the_reference_on_zeros(geometry: str) -> None:
    """First gradients of zeros are counted in the mean, and update nothing."""
    rows = gradients(8)
    for row in rows[:3]:
        row[2:4] = [torch.zeros(4, 5, dtype=torch.float64), torch.zeros(4, 5, dtype=torch.float64)]
    assert largest_error(8, rows, geometry=geometry) <= 1e-12


# Batches of tensors, and whose noise it is


@all_geometries
@pytest.mark.parametrize("options", [{}, {"norm": "power", "max_skew": math.inf}], ids=["subspace", "power"])
def test_batches_equal_one_by_one(geometry: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(4, 5)] * 3 + [(3, 4, 2)] * 2 + [(6,)] * 2
    ends = []
    for batch in (2**22, 45, 1):  # all, two matrices, one tensor
        monkeypatch.setattr(matrices, "CPU_BATCH", batch)
        params = parameters(shapes)
        walk(PSGD(params, lr=0.1, geometry=geometry, **options), params, gradients(6, shapes))
        ends.append([p.detach() for p in params])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-13, atol=1e-13)


# Of a size at which noise shows: it enters the damping, and the estimates of norms.
NOISY = {"lr": 0.1, "damping": 0.1, "max_skew": math.inf}


def end(rows: Sequence[Sequence[Tensor | None]], shapes: Sequence[tuple[int, ...]], **options: Any) -> list[Tensor]:
    params = parameters(shapes)
    walk(PSGD(params, **{**NOISY, **options}), params, rows)
    return [p.detach() for p in params]


def test_noise_is_that_of_seed_position_and_step() -> None:
    shapes = [(4, 5)] * 3
    rows = [[g if i != 1 else None for i, g in enumerate(row)] for row in gradients(5, shapes)]
    alone = [[g if i == 2 else None for i, g in enumerate(row)] for row in rows]
    first, second, third = end(rows, shapes)
    assert not differences([first, second, third], end(rows, shapes))
    torch.testing.assert_close(end(alone, shapes)[2], third, rtol=1e-13, atol=1e-13)
    assert not torch.allclose(end(rows, shapes, seed=1)[2], third, atol=1e-6)
    params = [nn.Parameter(torch.ones(4, 5, dtype=torch.float64)) for _ in range(2)]
    walk(PSGD(params, **NOISY), params, [[row[2], row[2]] for row in rows])
    assert not torch.allclose(params[0], params[1], atol=1e-6)  # the same gradients at two positions


def test_noise_does_not_depend_on_how_parameters_are_grouped() -> None:
    shapes = [(4, 5)] * 3
    params, rows = parameters(shapes), gradients(5, shapes)
    walk(PSGD([{"params": params[:1]}, {"params": params[1:]}], **NOISY), params, rows)
    torch.testing.assert_close([p.detach() for p in params], end(rows, shapes), rtol=1e-13, atol=1e-13)


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)

    def states() -> tuple[Any, ...]:
        kind, keys, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), random.getstate(), kind, keys.tolist(), rest

    before, params = states(), parameters()
    for geometry in GEOMETRIES:
        walk(PSGD(params, geometry=geometry, max_skew=math.inf), params, gradients(3))
    assert states() == before


@pytest.mark.parametrize("update_first", [True, False])
@pytest.mark.parametrize("whiten", ["momentum", "grad"])
def test_noise_enters_neither_gradient_nor_momentum(whiten: str, update_first: bool) -> None:
    """kron_torch adds its noise in place: to the momentum it then applies, or to p.grad itself."""
    params, rows = parameters(), gradients(4)
    optimizer = PSGD(
        params, damping=0.5, whiten=whiten, update_first=update_first, weight_decay=0.1, decoupled_weight_decay=False
    )
    optimizer.param_groups[0]["weight_decay"] = 0.0
    means = [torch.zeros_like(p) for p in params]
    counts = [0] * len(params)
    for row in rows:
        for i, (p, g) in enumerate(zip(params, row, strict=True)):
            p.grad = None if g is None else g.clone()
            if g is not None:
                counts[i] += 1
                means[i] += (g - means[i]) / counts[i]
        optimizer.step()
        for p, g, m in zip(params, row, means, strict=True):
            assert g is None or (torch.equal(p.grad, g) and p.grad._version == 0)
            if p in optimizer.state:
                torch.testing.assert_close(optimizer.state[p]["exp_avg"], m, rtol=1e-14, atol=1e-14)
