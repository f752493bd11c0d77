"""PSGDNewton: the Kronecker preconditioner fitted to products of the Hessian, against its paper and a known Hessian."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import PSGDNewton
from optzoo.optimizers.psgd.geometries import GEOMETRIES
from reference import psgd as reference
from reference.notation import Options
from support.psgd import SHAPES, Quartic, spd, vector_of

STEPS, LR, MU, MOMENTUM, DAMPING = 20, 0.02, 0.2, 0.9, 1e-9
OPTIONS: Mapping[str, Any] = {
    "lr": LR,
    "lr_preconditioner": MU,
    "damping": DAMPING,
    "norm": "exact",
    "max_skew": np.inf,
}


def parts(x: Any) -> list[Any]:
    """A vector of all parameters cut into theirs."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(x, ends), SHAPES, strict=True)]


def equations(problem: Quartic, geometry: str) -> Any:
    """m ← β m + (1-β) g, Q fitted to (v, Hv) first, θ ← θ - lr P m."""
    x = vector_of(problem.params)
    h = Options(**{**reference.PSGD_OPTIONS, "geometry": geometry, "max_skew": np.inf})
    Qs = [reference.init(shape, h) for shape in SHAPES]
    L = [np.zeros(len(Q)) for Q in Qs]
    m = [np.zeros(shape) for shape in SHAPES]
    for t in range(1, STEPS + 1):
        v = problem.v(t)
        products, nu = parts(problem.hessian(x) @ v), parts(problem.nu(t))
        β = min((t - 1) / t, MOMENTUM)
        direction = []
        for i, (g, v_i) in enumerate(zip(parts(problem.gradient(x)), parts(v), strict=True)):
            damped = reference.damped(products[i], nu[i], DAMPING)
            Qs[i], L[i] = reference.kron_update(Qs[i], L[i], damped, geometry, MU, V=v_i, newton=True)
            m[i] = β * m[i] + (1 - β) * g
            direction.append(reference.precondition(Qs[i], m[i], geometry).reshape(-1))
        x = x - LR * np.concatenate(direction)
    return x


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_its_equations(geometry: str) -> None:
    problem = Quartic()
    expected = equations(problem, geometry)
    optimizer = PSGDNewton(problem.params, geometry=geometry, **OPTIONS)
    for _ in range(STEPS):
        optimizer.step(problem.loss)
    np.testing.assert_allclose(vector_of(problem.params), expected, rtol=0, atol=1e-12)


def test_finite_differences_come_close_to_exact_products() -> None:
    ends = []
    for hessian in ("exact", "finite_difference"):
        problem = Quartic()
        optimizer = PSGDNewton(problem.params, hessian=hessian, **OPTIONS)
        for _ in range(STEPS):
            optimizer.step(problem.loss if hessian == "exact" else problem.backward)
        ends.append(vector_of(problem.params))
    assert 0 < np.abs(ends[0] - ends[1]).max() < 1e-6


def test_newton_steps_do_not_mind_the_condition() -> None:
    """Eigenvalues from 0.01 to 1: gradient descent comes to 0.02 in as many steps."""
    H = spd(np.logspace(-2, 0, 8))
    x = nn.Parameter(torch.ones(8, dtype=torch.float64))
    optimizer = PSGDNewton([x], lr=0.5, lr_preconditioner=0.5, momentum=0.0, max_skew=torch.inf)
    for _ in range(400):
        optimizer.step(lambda: x @ H @ x / 2)
    assert x.abs().max() < 1e-6


def test_resumes_bit_for_bit_and_updates_rarely() -> None:
    """Also between updates, which depend on the number of the step alone."""

    def run(stop: int) -> Tensor:
        problem = Quartic()
        options = {**OPTIONS, "precond_update_probability": 0.3}
        optimizer = PSGDNewton(problem.params, **options)
        for t in range(12):
            if t == stop:
                file = io.BytesIO()
                torch.save(optimizer.state_dict(), file)
                file.seek(0)
                optimizer = PSGDNewton(problem.params, **options)
                optimizer.load_state_dict(torch.load(file, weights_only=True))
            optimizer.step(problem.loss)
        return torch.from_numpy(vector_of(problem.params))

    assert all(torch.equal(run(stop), run(12)) for stop in (3, 4, 8))


def test_a_step_without_a_closure_says_what_it_needs() -> None:
    optimizer = PSGDNewton([nn.Parameter(torch.ones(2))])
    with pytest.raises(TypeError, match=r"needs step\(closure\).* GradScaler .* bfloat16"):
        optimizer.step()
    with pytest.raises(ValueError, match="hessian must be 'exact' or 'finite_difference', got 'newton'"):
        PSGDNewton([nn.Parameter(torch.ones(2))], hessian="newton")
    with pytest.raises(ValueError, match="capturable=True is not possible"):
        PSGDNewton([nn.Parameter(torch.ones(2))], capturable=True)
