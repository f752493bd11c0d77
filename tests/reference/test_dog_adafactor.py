"""The references of DoG and Adafactor against steps worked out by hand, torch.optim and numbers computed with optax."""

from typing import Any

import numpy as np
import pytest
import torch

from reference import Reference, run
from reference.adafactor import beta2, factored_axes, relative_step
from reference.notation import Array, Options

RNG = np.random.default_rng


# DoG


def test_dog_by_hand() -> None:
    """‖x_0‖ = 13, so r_ε = 1; then r̄ = 1 until the distance is more; G = 4, 4, 49."""
    x0 = [np.array([3.0, 4.0]), np.array(12.0)]
    gradients = [[np.ones(2), np.array(1.0)], [np.zeros(2), None], [np.array([4.0, 2.0]), np.array(5.0)]]
    x1, x2, x3 = run("dog", x0, gradients, reps_rel=1 / 14, eps=1.0)
    np.testing.assert_allclose([*x1[0], x1[1]], [2.5, 3.5, 11.5], rtol=1e-15)
    np.testing.assert_array_equal([*x2[0], x2[1]], [*x1[0], x1[1]])
    np.testing.assert_allclose([*x3[0], x3[1]], [2.5 - 4 / 7, 3.5 - 2 / 7, 11.5 - 5 / 7], rtol=1e-15)

    reference = Reference("dog", reps_rel=1 / 14, eps=1.0)
    reference.step(x0, gradients[0])
    moved = [np.array([3.0, 1.0]), np.array(8.0)]  # 5 away from x_0, four fifths of it in a tensor without gradient
    after = reference.step(moved, [np.array([0.0, 21**0.5]), None])
    np.testing.assert_allclose(after[0], [3.0, 1.0 - 21**0.5], rtol=1e-15)  # η = 5 / √(4 + 21)
    assert after[1] is moved[1]


def test_dog_starts_with_init_eta() -> None:
    """Then r̄ = 0 until something has moved, so r̄_1 is the length of the first step."""
    gradients = [[np.array([3.0, 4.0])], [np.array([0.0, 12.0])]]
    x1, x2 = run("dog", [np.zeros(2)], gradients, init_eta=0.5, eps=0.0)
    np.testing.assert_array_equal(x1[0], [-1.5, -2.0])
    np.testing.assert_allclose(x2[0], [-1.5, -2.0 - 2.5 / 13 * 12], rtol=1e-15)


def test_ldog_is_dog_on_each_tensor() -> None:
    rng = RNG(0)
    x0 = [rng.normal(size=shape) for shape in ((), (7,), (3, 5))]
    gradients = [[None if i == t % 4 else rng.normal(size=x.shape) for i, x in enumerate(x0)] for t in range(12)]
    together = run("ldog", x0, gradients, reps_rel=0.1)
    for i, x in enumerate(x0):
        alone = run("dog", [x], [[step[i]] for step in gradients], reps_rel=0.1)
        np.testing.assert_array_equal([step[i] for step in together], [step[0] for step in alone])
    assert any(abs(run("dog", x0, gradients, reps_rel=0.1)[-1][i] - x).max() > 1e-3 for i, x in enumerate(together[-1]))


def test_dog_does_not_see_the_scale_of_gradients() -> None:
    gradients = [[g] for g in RNG(0).normal(size=(30, 5))]
    scaled = [[1024 * g for g in step] for step in gradients]
    ours = run("dog", [np.ones(5)], gradients, eps=0.0)
    np.testing.assert_array_equal(run("dog", [np.ones(5)], scaled, eps=0.0), ours)


def test_dog_decay_coupled_and_decoupled() -> None:
    """g = 0 and x = 2: coupled, the gradient is λx = 1 and enters G; decoupled, x shrinks by c η λ and G stays eps."""
    options = {"lr": 0.1, "weight_decay": 0.5, "reps_rel": 1 / 3}
    ((coupled,),) = run("dog", [np.array(2.0)], [[np.array(0.0)]], eps=3.0, **options)
    assert coupled == pytest.approx(2.0 - 0.1 / 2, rel=1e-15)
    ((decoupled,),) = run("dog", [np.array(2.0)], [[np.array(0.0)]], eps=0.25, decoupled_weight_decay=True, **options)
    assert decoupled == pytest.approx(2.0 * (1 - 0.1 * 2 * 0.5), rel=1e-15)


# Adafactor


def random_run(
    shapes: list[tuple[int, ...]], steps: int = 12, **options: Any
) -> tuple[list[Array], list[list[Array]], list[Array]]:
    """Start, gradients of uneven scale, and end."""
    rng = RNG(0)
    theta0 = [rng.normal(size=shape) for shape in shapes]
    gradients = [[rng.normal(size=shape) * np.exp(rng.normal(size=shape)) for shape in shapes] for _ in range(steps)]
    return theta0, gradients, run("adafactor", theta0, gradients, **options)[-1]


def test_adafactor_first_step_by_hand() -> None:
    """β2_1 = 0, so that U = sign(g); α_1 = 1e-2 · max(1e-3, RMS(θ)), RMS(3, 4) = 3.54."""
    gradient = [[np.array([1e-12, -7.0])]]
    α = 1e-2 * (25 / 2) ** 0.5
    ((theta,),) = run("adafactor", [np.array([3.0, 4.0])], gradient)
    np.testing.assert_allclose(theta, [3 - α, 4 + α], rtol=1e-7)  # ε1 = 1e-30 beside 1e-24
    ((theta,),) = run("adafactor", [np.zeros(2)], gradient, lr=0.1, clip_threshold=0.5)
    np.testing.assert_allclose(theta, [-0.5e-4, 0.5e-4], rtol=1e-6)
    ((theta,),) = run(
        "adafactor", [np.array([3.0, 4.0])], gradient, lr=0.1, scale_parameter=False, weight_decay=0.5, beta1=0.75
    )
    np.testing.assert_allclose(theta, [3 * 0.95 - 0.025, 4 * 0.95 + 0.025], rtol=1e-6)  # m is not bias-corrected


def test_adafactor_schedules() -> None:
    steps = [relative_step(t, warmup_init=False) for t in (1, 10_000, 1_000_000)]
    np.testing.assert_allclose(steps, [1e-2, 1e-2, 1e-3], rtol=1e-12)
    warm = [relative_step(t, warmup_init=True) for t in (1, 10_000, 1_000_000)]
    np.testing.assert_allclose(warm, [1e-6, 1e-2, 1e-3], rtol=1e-12)
    h = Options(decay_rate=0.8, decay_offset=0, beta2_cap=None)
    np.testing.assert_allclose([beta2(t, h) for t in (1, 2, 1000)], [0, 1 - 2**-0.8, 1 - 1000**-0.8], rtol=1e-12)
    h = Options(decay_rate=0.8, decay_offset=990, beta2_cap=0.7)
    np.testing.assert_allclose([beta2(t, h) for t in (5, 991, 992, 1000)], [0, 0, 1 - 2**-0.8, 0.7], rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), None),
        ((500,), None),
        ((128, 128), (0, 1)),
        ((1024, 4096), (0, 1)),
        ((4096, 1024), (1, 0)),
        ((512, 256, 3, 3), (1, 0)),
        ((768, 3, 16, 16), None),
        ((2, 200, 300, 200), (3, 2)),
    ],
)
def test_adafactor_factors_the_two_largest_axes(shape: tuple[int, ...], axes: tuple[int, int] | None) -> None:
    assert factored_axes(shape, Options(factored=True, min_dim_size_to_factor=128)) == axes
    assert factored_axes(shape, Options(factored=False, min_dim_size_to_factor=128)) is None


def test_adafactor_of_rank_one_squares_is_the_sign() -> None:
    rng = RNG(1)
    g = rng.choice([-1.0, 1.0], size=(3, 6, 5)) * np.exp(3 * rng.normal(size=(3, 6, 1)) + rng.normal(size=(3, 1, 5)))
    options = {"lr": 1.0, "scale_parameter": False, "min_dim_size_to_factor": 4, "clip_threshold": None}
    ((theta,),) = run("adafactor", [np.zeros_like(g)], [[g]], **options)
    np.testing.assert_allclose(theta, -np.sign(g), rtol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7,), (1,)])
def test_adafactor_equals_torch_where_they_agree(shape: tuple[int, ...], weight_decay: float) -> None:
    """On matrices and vectors, below torch's cap 1/√t of the lr, with gradients far from where torch clamps."""
    theta0, gradients, ours = random_run(
        [shape], steps=40, lr=0.03, weight_decay=weight_decay, min_dim_size_to_factor=1
    )
    p = torch.tensor(theta0[0], requires_grad=True)
    optimizer = torch.optim.Adafactor([p], lr=0.03, weight_decay=weight_decay, eps=(1e-30, 1e-3))
    for (g,) in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
    np.testing.assert_allclose(ours[0], p.detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {},
            [
                0.116739872,
                16.758901447,
                174.041117906,
                -65.667998138,
                -1067.763623739,
                -334.764375131,
                37.382017427,
                -6.338265129,
            ],
        ),
        (
            {"beta1": 0.9},
            [
                0.121210192,
                16.299237474,
                176.066747777,
                -92.799678800,
                -1039.577854234,
                -319.154420724,
                -34.805424929,
                -8.742048348,
            ],
        ),
    ],
)
def test_adafactor_equals_optax(options: dict[str, Any], expected: list[float]) -> None:
    """Σ k θ_k after 12 steps of optax 0.2.8's adafactor in float64, but for β2, which optax computes in float32."""
    shapes = [(), (7,), (6, 9), (9, 6), (5, 4, 8), (8, 8), (3, 7, 7), (2, 9)]
    _, _, ours = random_run(shapes, lr=0.03, min_dim_size_to_factor=4, **options)
    sums = [float(np.arange(1, θ.size + 1) @ θ.ravel()) for θ in ours]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_adafactor_does_not_tell_rows_from_columns() -> None:
    theta0, gradients, wide = random_run([(6, 9)], lr=0.03, min_dim_size_to_factor=4, beta1=0.5)
    options = {"lr": 0.03, "min_dim_size_to_factor": 4, "beta1": 0.5}
    tall = run("adafactor", [theta0[0].T], [[step[0].T] for step in gradients], **options)[-1]
    np.testing.assert_allclose(tall[0].T, wide[0], rtol=0, atol=1e-14)


def test_adafactor_factors_each_matrix_of_a_batch() -> None:
    options = {"lr": 0.03, "scale_parameter": False, "clip_threshold": None, "min_dim_size_to_factor": 4}
    theta0, gradients, batch = random_run([(3, 6, 5)], **options)
    for i in range(3):
        alone = run("adafactor", [theta0[0][i]], [[step[0][i]] for step in gradients], **options)[-1]
        np.testing.assert_allclose(alone[0], batch[0][i], rtol=0, atol=1e-14)


def test_adafactor_averages_steps_or_updates() -> None:
    """They are the same while α_t is constant; averaged steps keep draining at the α of their time."""
    constant = {"lr": 0.03, "scale_parameter": False, "beta1": 0.9}
    of_step, of_update = (random_run([(7,)], momentum_of=kind, **constant)[2] for kind in ("step", "update"))
    np.testing.assert_allclose(of_step, of_update, rtol=0, atol=1e-15)
    for kind, expected in (("step", -0.25), ("update", 0.0)):
        reference = Reference("adafactor", lr=1.0, scale_parameter=False, beta1=0.5, momentum_of=kind)
        θ = reference.step([np.zeros(1)], [np.ones(1)])
        assert θ[0] == -0.5
        reference.h.lr = 0.0
        assert reference.step(θ, [np.ones(1)])[0] - θ[0] == pytest.approx(expected, abs=1e-15)


def test_adafactor_counts_the_steps_of_each_tensor() -> None:
    """A tensor's own first step has β2 = 0, whenever it comes."""
    gradients = [[np.array([g]), None] for g in (1.0, -2.0, 3.0)] + [[np.array([1.0]), np.array([5.0])]]
    θ = run("adafactor", [np.ones(1), np.ones(1)], gradients, lr=0.1)[-1]
    assert θ[1] == pytest.approx(0.9, rel=1e-15)
