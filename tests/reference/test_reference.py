"""The references against torch.optim and against numbers measured with the authors' code."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from reference import Reference, run
from reference.ademamix import beta3
from reference.common import RULES, STEPS
from reference.notation import Array

SHAPES = ((), (7,), (3, 5))


def gradients_with_gaps(steps: int) -> list[list[Array | None]]:
    """Random gradients; the second tensor is unused in every third step."""
    rng = np.random.default_rng(0)
    return [
        [None if i == 1 and t % 3 == 0 else rng.normal(size=shape) for i, shape in enumerate(SHAPES)]
        for t in range(steps)
    ]


def run_torch(
    optimizer: type[torch.optim.Optimizer], theta0: Sequence[Array], gradients: list[list[Array | None]], **options: Any
) -> list[list[Array]]:
    params = [torch.tensor(x, requires_grad=True) for x in theta0]
    opt = optimizer(params, foreach=False, **options)
    trajectory = []
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        opt.step()
        trajectory.append([p.detach().numpy().copy() for p in params])
    return trajectory


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "optimizer"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_and_adamw_equal_torch(
    name: str, optimizer: type[torch.optim.Optimizer], weight_decay: float, maximize: bool, amsgrad: bool
) -> None:
    rng = np.random.default_rng(1)
    theta0 = [rng.normal(size=shape) for shape in SHAPES]
    gradients = gradients_with_gaps(60)
    options = {"lr": 1e-2, "weight_decay": weight_decay, "maximize": maximize, "amsgrad": amsgrad}
    ours = run(name, theta0, gradients, **options)
    theirs = run_torch(optimizer, theta0, gradients, **options)
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-14)


def test_adam_and_adamw_defaults_are_torchs() -> None:
    theta0, gradients = [np.array([1.0, -2.0])], [[np.array([0.3, -0.1])]] * 5
    for name, optimizer in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        ours, theirs = run(name, theta0, gradients), run_torch(optimizer, theta0, gradients)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15)


def step_sizes(name: str, gradients: Sequence[float] | Array, **options: Any) -> Array:
    """|Δθ|/η of one coordinate, [0] being the first step's."""
    trajectory = run(name, [np.zeros(())], [[np.asarray(g)] for g in gradients], lr=1.0, **options)
    return np.abs(np.diff([0.0, *(float(theta[0]) for theta in trajectory)]))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("adam", {}, (1.0, 0.218, 0.102, 0.383, 1.0)),
        ("amsgrad", {"variant": "torch"}, (1.0, 0.217, 0.098, 0.251, 0.316)),
        ("amsgrad", {"variant": "paper"}, (3.162, 1.419, 0.316, 0.316, 0.316)),
        ("amsgrad", {"variant": "debiased"}, (1.0, 0.069, 0.010, 0.010, 0.010)),
    ],
)
def test_amsgrad_variants_remember_a_spike_differently(
    name: str, options: dict[str, Any], expected: tuple[float, ...]
) -> None:
    """One gradient of 100, then 1 for ever: step sizes at t = 1, 10, 100, 1000, 20000."""
    sizes = step_sizes(name, [100.0] + [1.0] * 19_999, **options)
    np.testing.assert_allclose(sizes[[0, 9, 99, 999, 19_999]], expected, rtol=0, atol=6e-4)


def test_amsgrad_true_is_the_torch_variant() -> None:
    gradients = [[g] for g in np.random.default_rng(0).normal(size=(20, 4))]
    theta0 = [np.ones(4)]
    expected = run("amsgrad", theta0, gradients)
    np.testing.assert_array_equal(run("adam", theta0, gradients, amsgrad=True), expected)
    np.testing.assert_array_equal(run("adam", theta0, gradients, amsgrad="torch"), expected)


@pytest.mark.parametrize(
    ("β_start", "β3", "μ", "expected"),
    [
        (0.9, 0.9999, 0.001, 0.9499637432),
        (0.9, 0.9999, 0.25, 0.9996011954),
        (0.9, 0.9999, 0.5, 0.9998001996),
        (0.9, 0.9999, 0.75, 0.9998667111),
        (0.9, 0.9999, 0.999, 0.9998999000),
        (0.9, 0.999, 0.25, 0.9961164101),
        (0.9, 0.999, 0.5, 0.9980197853),
        (0.0, 0.9999, 0.25, 0.9996000600),
        (0.0, 0.9999, 0.5, 0.9998000100),
        (0.9, 0.9999, 0, 0.9),
        (0.9, 0.9999, 1, 0.9999),
    ],
)
def test_ademamix_beta3_schedule(β_start: float, β3: float, μ: float, expected: float) -> None:
    assert beta3(μ, β_start, β3) == pytest.approx(expected, rel=0, abs=6e-11)


def test_ademamix_first_step_and_alpha_zero() -> None:
    assert step_sizes("ademamix", [0.1])[0] == pytest.approx(1 + 5 * 1e-4, abs=1e-6)
    gradients = [[g] for g in np.random.default_rng(0).normal(size=(20, 4))]
    adamw = run("adamw", [np.ones(4)], gradients, weight_decay=0.1)
    np.testing.assert_array_equal(run("ademamix", [np.ones(4)], gradients, alpha=0.0, weight_decay=0.1), adamw)


def test_ademamix_schedules_count_from_schedule_start() -> None:
    """Up to its start the schedule adds nothing (α = 0); the bias corrections go on counting every step."""
    gradients = np.random.default_rng(0).normal(size=30)
    warmup = {"alpha_warmup": 20, "beta3_warmup": 20}
    delayed = step_sizes("ademamix", gradients, schedule_start=10, **warmup)
    np.testing.assert_allclose(delayed[:10], step_sizes("adam", gradients)[:10], rtol=1e-12)
    assert delayed[10] != pytest.approx(step_sizes("adam", gradients)[10], rel=1e-3)


@pytest.mark.parametrize(
    ("T", "expected"), [(None, 2.5), (300, 27.0), (1000, 59.0), (3000, 62.0), (10_000, 5.5), (20_000, 0.92)]
)
def test_ademamix_short_schedules_blow_up(T: int | None, expected: float) -> None:
    """Gradients of 100 for 100 steps and ±1 afterwards: the largest step after the change of scale."""
    noise = np.random.default_rng(0).choice([-1.0, 1.0], size=20_000)
    sizes = step_sizes("ademamix", np.concatenate([np.full(100, 100.0), noise]), alpha_warmup=T, beta3_warmup=T)
    assert sizes[100:].max() == pytest.approx(expected, rel=0.05)


def test_ademamix_moves_a_dead_coordinate_and_adam_does_not() -> None:
    """One unit gradient, then zeros: with β3 > √β2 the slow average outlives the root of the second moment."""
    once = [1.0] + [0.0] * 19_999
    sizes = step_sizes("ademamix", once)
    np.testing.assert_allclose(sizes[[999, 4999, 9999, 19_999]], (0.019, 0.117, 0.86, 47.0), rtol=0.02)
    assert sizes.sum() == pytest.approx(1.2e5, rel=0.05)
    assert step_sizes("adam", once).sum() == pytest.approx(6.0, rel=0.02)


def test_lion_moves_by_lr_or_not_at_all_whatever_the_scale_of_gradients() -> None:
    gradients = np.random.default_rng(0).normal(size=50)
    sizes = step_sizes("lion", gradients)
    assert set(np.round(sizes, 12)) <= {0.0, 1.0}
    np.testing.assert_array_equal(step_sizes("lion", 1024 * gradients), sizes)


def test_diffgrad_damps_by_the_change_of_gradient() -> None:
    """ξ_1 = σ(|g_1|) since g_0 = 0; a gradient that repeats gives ξ = ½."""
    first, second = step_sizes("diffgrad", [2.0, 2.0])
    assert first == pytest.approx(1 / (1 + np.exp(-2.0)), rel=1e-7)
    assert second == pytest.approx(0.5, rel=1e-7)


def test_grams_takes_adams_magnitude_and_the_gradients_sign() -> None:
    gradients = [[np.array(g)] for g in ([3.0, -1.0, 0.0], [-0.5, -1.0, 0.0])]
    adam = run("adam", [np.zeros(3)], gradients, lr=1.0, eps=1e-6)
    ours = run("grams", [np.zeros(3)], gradients, lr=1.0)
    np.testing.assert_array_equal(ours[0][0], adam[0][0])
    adam_step, our_step = adam[1][0] - adam[0][0], ours[1][0] - ours[0][0]
    np.testing.assert_allclose(our_step, [-adam_step[0], adam_step[1], 0.0], rtol=1e-12)  # m > 0 > g in the first


@pytest.mark.parametrize(
    ("scale", "floor", "expected"),
    [("floor", 1e-3, 4 / 3), ("floor", 0.9, 1 / 0.9), ("xi", 1e-3, 4 / 4), (None, 1e-3, 1.0)],
)
def test_cautious_scales(scale: str | None, floor: float, expected: float) -> None:
    """Three of four entries agree; products far below the smallest float still count by their signs."""
    reference = Reference("clion", betas=(0.0, 0.0), lr=1.0, cautious_scale=scale, cautious_floor=floor)
    (theta,) = reference.step([np.zeros(4)], [np.array([1e-300, -2.0, 0.0, 5.0])])
    np.testing.assert_allclose(theta, [-expected, expected, 0.0, -expected], rtol=1e-15)


def test_cautious_masks_what_opposes_the_gradient() -> None:
    """The mask acts on the update only: the masked coordinate's momentum keeps integrating."""
    gradients = [[np.array(g)] for g in ([1.0, 1.0], [-0.01, 1.0], [1.0, 1.0])]
    plain, cautious = (run(name, [np.zeros(2)], gradients, lr=1.0, weight_decay=0.0) for name in ("adamw", "cadamw"))
    np.testing.assert_allclose(cautious[1][0] - cautious[0][0], [0.0, 2 * (plain[1][0] - plain[0][0])[1]], rtol=1e-12)
    np.testing.assert_allclose(cautious[2][0] - cautious[1][0], plain[2][0] - plain[1][0], rtol=1e-12)


def test_coupled_decay_is_part_of_the_gradient_and_decoupled_is_not() -> None:
    """g = 0, so that all the movement is decay: coupled, the moments normalise λθ to a full step."""
    theta0, zero = [np.array([2.0])], [[np.array([0.0])]]
    options = {"lr": 0.1, "weight_decay": 0.5}
    full_step = {"adam": 1.0, "amsgrad": 1.0, "grams": 1.0, "lion": 1.0, "diffgrad": 1 / (1 + np.exp(-1.0))}
    for name, step in full_step.items():
        ((decoupled,),) = run(name, theta0, zero, decoupled_weight_decay=True, **options)
        assert decoupled == pytest.approx(2.0 - 0.1 * 0.5 * 2.0, abs=1e-15)
        ((coupled,),) = run(name, theta0, zero, decoupled_weight_decay=False, **options)
        assert coupled == pytest.approx(2.0 - 0.1 * step, abs=2e-7)


def test_maximize_is_descent_on_the_negated_gradient() -> None:
    theta0, gradients = [np.ones(3)], [[g] for g in np.random.default_rng(0).normal(size=(10, 3))]
    negated = [[-g for g in step] for step in gradients]
    for name in (*RULES, *STEPS):
        ours = run(name, theta0, gradients, weight_decay=0.1, maximize=True)
        np.testing.assert_array_equal(ours, run(name, theta0, negated, weight_decay=0.1))


def test_unknown_option_is_an_error() -> None:
    for name in ("lion", "dog", "adafactor"):
        with pytest.raises(TypeError, match="no option"):
            Reference(name, alpha=1.0)
