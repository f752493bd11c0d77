"""The papers' own toy problems: each optimizer does there what its paper says, to the digits measured on its equations.

The problems are those of `optzoo compare claims`; here are their digits.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optzoo.compare.toys import (
    Factory,
    HeavyBall,
    arrival,
    descend,
    descend_line,
    f1,
    f2,
    f3,
    increases,
    quadratic,
    rare,
    rosenbrock,
    rosenbrock_gradient,
)
from optzoo.optimizers import Adam, AdamW, AdEMAMix, AMSGrad, CAdamW, DiffGrad, Grams

# AMSGrad: a rare large gradient says "left", the frequent small ones say "right"; the optimum on [-1, 1] is -1.

AMSGRAD_VARIANTS = [pytest.param(AMSGrad, {"variant": v}, id=f"AMSGrad-{v}") for v in ("torch", "paper", "debiased")]


@pytest.mark.parametrize(
    ("lr", "adam", "amsgrad"),
    [(0.01, (1.0, 0.646), (-0.993, 0.054)), (lambda t: 0.5 / t**0.5, (1.0, 0.672), (-0.994, 0.012))],
    ids=["constant", "1/sqrt(t)"],
)
@pytest.mark.parametrize(("factory", "options"), [pytest.param(Adam, {}, id="Adam"), *AMSGRAD_VARIANTS])
def test_amsgrad_theorem_1(
    factory: Factory,
    options: dict[str, Any],
    lr: float | Callable[[int], float],
    adam: tuple[float, float],
    amsgrad: tuple[float, float],
) -> None:
    """Reddi et al. 2018, theorem 1 with C = 3: last point and average regret.

    Adam goes to the worst point of the interval, AMSGrad to the best.
    """
    gradient = rare(3.0, -1.0, period=3)
    x = descend(factory, (0.0,), gradient, 3000, lr=lr, box=1.0, betas=(0.0, 0.1), eps=1e-8, **options)
    regret = sum(float(gradient(p, t) * (p + 1)) for t, p in enumerate(x[:-1], start=1)) / 3000
    assert (x[-1].item(), regret) == pytest.approx(adam if factory is Adam else amsgrad, abs=2.5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "options", "expected"),
    [
        (Adam, {}, (1.0, 1.0)),
        (AMSGrad, {"variant": "torch"}, (-0.924, -0.976)),
        (AMSGrad, {"variant": "paper"}, (-0.724, -0.807)),
        (AMSGrad, {"variant": "debiased"}, (-0.986, -0.996)),
    ],
    ids=["Adam", "AMSGrad-torch", "AMSGrad-paper", "AMSGrad-debiased"],
)
def test_amsgrad_figure_1(factory: Factory, options: dict[str, Any], expected: tuple[float, float]) -> None:
    """Reddi et al. 2018, figure 1 (online), after 300 and 500 periods; the paper gives no lr and 1/√t is ours."""
    gradient, lr = rare(1010.0, -10.0, period=101), lambda t: t**-0.5
    x = descend(factory, (0.0,), gradient, 50_500, lr=lr, box=1.0, betas=(0.9, 0.99), **options)
    assert (x[30_300].item(), x[50_500].item()) == pytest.approx(expected, abs=2e-3)


# AdEMAMix: the Rosenbrock valley, where a long memory arrives sooner if a short one keeps it from oscillating.


@pytest.mark.parametrize(
    ("factory", "lr", "options", "steps_to_it", "loss_increases"),
    [
        (Adam, 0.01, {"betas": (0.9, 0.999)}, 9533, 0),
        (Adam, 0.01, {"betas": (0.99, 0.999)}, 9589, 484),
        (Adam, 0.01, {"betas": (0.999, 0.999)}, None, 4020),
        (AdEMAMix, 0.003, {"betas": (0.9, 0.999, 0.999), "alpha": 9.0}, 6809, None),
        (AdEMAMix, 0.003, {"betas": (0.9, 0.999, 0.9999), "alpha": 9.0}, 7265, None),
        (AdEMAMix, 0.01, {"betas": (0.9, 0.999, 0.999), "alpha": 9.0}, 3475, None),
        (AdEMAMix, 0.01, {"betas": (0.9, 0.999, 0.9999), "alpha": 9.0}, 4756, None),
    ],
)
def test_ademamix_rosenbrock(
    factory: Factory, lr: float, options: dict[str, Any], steps_to_it: int | None, loss_increases: int | None
) -> None:
    """Pagliardini et al. 2024, figure 2 (which gives no lr): first step within 0.1 of the optimum.

    AdEMAMix arrives before Adam even at a third of its lr; a longer memory in Adam itself does not help or oscillates.
    """
    steps = 10_000 if loss_increases is not None else steps_to_it + 50
    points = descend(factory, (-3.0, 5.0), rosenbrock_gradient, steps, lr=lr, **options)
    assert arrival(points) == (None if steps_to_it is None else pytest.approx(steps_to_it, abs=5))
    if loss_increases is not None:
        assert increases(rosenbrock(points)) == pytest.approx(loss_increases, rel=0.02)


# Cautious: on a quadratic, momentum overshoots; the mask removes what goes uphill.


@pytest.mark.parametrize(
    ("lr", "momentum", "plain", "cautious"),
    [
        (0.01, 0.5, (2.144e-4, 0), (2.144e-4, 0)),  # nothing opposes the gradient here
        (0.01, 0.9, (1.122e-4, 86), (4.574e-10, 6)),
        (0.01, 0.99, (1.362, 100), (4.244e-6, 8)),
        (0.01, 0.999, (3.468, 100), (1.642e-4, 9)),
        (0.1, 0.99, (0.8757, 96), (1.145e-8, 11)),
        (0.001, 0.99, (1.194, 92), (4.702e-3, 2)),
    ],
)
def test_cautious_heavy_ball(lr: float, momentum: float, plain: tuple[float, int], cautious: tuple[float, int]) -> None:
    """Liang et al. 2024, section 3.1: the loss after 100 steps, and how often it rises in 200."""
    loss, gradient = quadratic(4.0, 1.0)
    for flag, (at_100, climbs) in ((False, plain), (True, cautious)):
        losses = loss(descend(HeavyBall, (1.0, 1.0), gradient, 200, lr=lr, momentum=momentum, cautious=flag))
        assert losses[100].item() == pytest.approx(at_100, rel=1e-3)
        assert increases(losses) == climbs


@pytest.mark.parametrize(
    ("factory", "options", "at_200", "loss_increases"),
    [
        (AdamW, {"betas": (0.9, 0.999)}, 2.6e-10, None),
        (CAdamW, {"betas": (0.9, 0.999)}, 8.2e-20, None),
        (Grams, {"betas": (0.9, 0.999), "eps": 1e-8}, 1.2e-16, None),
        (AdamW, {"betas": (0.99, 0.999)}, 0.147, 230),
        (CAdamW, {"betas": (0.99, 0.999)}, 3.9e-6, 3),
        (Grams, {"betas": (0.99, 0.999), "eps": 1e-8}, 7.0e-8, 245),
    ],
)
def test_cautious_adamw_quadratic(
    factory: Factory, options: dict[str, Any], at_200: float, loss_increases: int | None
) -> None:
    loss, gradient = quadratic(4.0, 1.0)
    w = descend(factory, (1.0, 1.0), gradient, 500, lr=0.1, weight_decay=0.0, **options)
    assert loss(w[200]).item() == pytest.approx(at_200, rel=0.05)
    if loss_increases is not None:
        assert increases(loss(w)) == pytest.approx(loss_increases, abs=2)


def test_cautious_adam_rosenbrock() -> None:
    """With β1 = 0.99 the mask helps and Grams, which damps nothing, does worse than Adam."""
    cases = ((Adam, {}, 5.25e-5), (Adam, {"cautious": True}, 1.35e-12), (Grams, {}, 7.64e-2))
    for factory, own, expected in cases:
        options = {"lr": 0.02, "betas": (0.99, 0.999), "eps": 1e-8, **own}
        points = descend(factory, (-1.2, 1.0), rosenbrock_gradient, 3000, **options)
        assert rosenbrock(points[-1]).item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("lr", "step", "adam", "cautious", "grams"),
    [
        (0.1, 100, 2.24e-6, 2.05e-12, 1.04e-10),
        (0.1, 200, 1.35e-11, 1.92e-21, 7.25e-18),
        (0.01, 300, 8.68e-9, 8.68e-9, 8.68e-9),  # no coordinate has changed sign yet: the three are one
        (0.01, 500, 4.59e-18, 1.92e-23, 1.37e-27),
    ],
)
def test_grams_convex(lr: float, step: int, adam: float, cautious: float, grams: float) -> None:
    """(w1/2)² + (w2/10)²: Grams beats Adam at β1 = 0.9."""
    loss, gradient = quadratic(0.25, 0.01)
    for factory, options, expected in ((Adam, {}, adam), (Adam, {"cautious": True}, cautious), (Grams, {}, grams)):
        w = descend(factory, (1.0, 1.0), gradient, step, lr=lr, betas=(0.9, 0.999), eps=1e-8, **options)
        assert loss(w[step]).item() == pytest.approx(expected, rel=0.02)


# diffGrad: one-dimensional functions with a bad minimum on the way to a better one, from x = -1.


@pytest.mark.parametrize(
    ("derivative", "adam", "diffgrad"),
    [
        pytest.param(f1, (0.20011, 0.33202), (-0.30007, -0.06159), id="F1"),
        pytest.param(f2, (0.00009, 0.07472), (-0.64296, -0.41884), id="F2"),
        pytest.param(f3, (0.00051, 0.26669), (0.01357, 0.18335), id="F3"),
    ],
)
def test_diffgrad_one_dimensional(
    derivative: Callable[[float], float], adam: tuple[float, float], diffgrad: tuple[float, float]
) -> None:
    """Dubey et al. 2019, synthetic functions: where 299 updates end, and the furthest point to the right.

    Half the lr would take Adam to the same minima, so this says nothing about ξ itself: the test below does.
    """
    for factory, expected in ((Adam, adam), (DiffGrad, diffgrad)):
        x = descend_line(factory, derivative)
        assert (x[-1].item(), x.max().item()) == pytest.approx(expected, abs=2e-5)


def test_diffgrad_compares_with_a_copy_of_the_previous_gradient() -> None:
    """ξ = σ(|g₁ − g₂|) with the gradient buffer reused in place, which reads ½ where only a reference is kept."""
    x = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = DiffGrad([x], lr=1.0, betas=(0.0, 0.0), eps=0.0)
    x.grad = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    first, second = x.grad.clone(), torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(x.detach(), -first.sign() * first.abs().sigmoid(), rtol=1e-14, atol=0)
    before = x.detach().clone()
    x.grad.copy_(second)
    optimizer.step()
    torch.testing.assert_close(
        x.detach() - before, -second.sign() * (second - first).abs().sigmoid(), rtol=1e-14, atol=0
    )
