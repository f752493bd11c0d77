"""The papers' own toy problems, with gradients written out, so that a run is one number: `optzoo compare claims` runs
them, and the tests of the optimizers assert their digits. In double precision unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import Unpack

from optzoo.optimizers import Optimizer, Options, PolynomialDecayAverager

Factory: TypeAlias = Callable[..., torch.optim.Optimizer]
Gradient: TypeAlias = Callable[[Tensor, int], Tensor]


@torch.no_grad()
def descend(
    factory: Factory,
    start: tuple[float, ...],
    gradient: Gradient,
    steps: int,
    *,
    lr: float | Callable[[int], float],
    box: float | None = None,
    **options: Any,
) -> Tensor:
    """The points visited, [0] being the start; `gradient` and `lr` may depend on the step t = 1, 2, …

    With `box`, every point is projected onto [−box, box] after its step.
    """
    x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    schedule = lr if callable(lr) else lambda t: lr
    optimizer = factory([x], lr=schedule(1), **options)
    points = [x.detach().clone()]
    for t in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = schedule(t)
        x.grad = gradient(x, t)
        optimizer.step()
        if box is not None:
            x.clamp_(-box, box)
        points.append(x.detach().clone())
    return torch.stack(points)


def increases(losses: Tensor) -> int:
    """How often the loss rises, by more than rounding."""
    return int((losses[1:] > losses[:-1] * (1 + 1e-12)).sum())


def rare(large: float, small: float, period: int) -> Gradient:
    """AMSGrad's: a rare large gradient says "left", the frequent small ones "right"; best in [-1, 1] is -1."""
    frequent, seldom = torch.tensor([small], dtype=torch.float64), torch.tensor([large], dtype=torch.float64)
    return lambda x, t: seldom.clone() if t % period == 1 else frequent.clone()


def rosenbrock(points: Tensor) -> Tensor:
    x, y = points.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock_gradient(point: Tensor, t: int) -> Tensor:
    x, y = point.tolist()
    return torch.tensor([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)], dtype=torch.float64)


def arrival(points: Tensor) -> int | None:
    """The first step within 0.1 of Rosenbrock's optimum, (1, 1)."""
    near = ((points - 1).norm(dim=-1) < 0.1).nonzero()
    return int(near[0]) if len(near) else None


def quadratic(*curvatures: float) -> tuple[Callable[[Tensor], Tensor], Gradient]:
    """Σ aᵢ wᵢ², without ½, and its gradient."""
    a = torch.tensor(curvatures, dtype=torch.float64)
    return lambda w: (a * w**2).sum(-1), lambda w, t: 2 * a * w


class HeavyBall(Optimizer):
    """s ← βs + g,  w ← w − ε s: the example of the cautious optimizers' paper, and the smallest optimizer there is."""

    buffers = ("momentum_buffer",)

    def __init__(self, params: Any, lr: float, momentum: float, **options: Unpack[Options]) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0}, options)

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        return s.momentum_buffer.mul_(h.momentum).add_(g) + 0  # a new tensor, which the mask may overwrite


# diffGrad: derivatives of one-dimensional functions with a bad minimum on the way to a better one, from x = -1.


def f1(x: float) -> float:
    return 2 * (x + 0.3) if x <= 0 else 2 * (x - 0.2)


def f2(x: float) -> float:
    x8 = torch.tensor(8 * x, dtype=torch.float64)
    return -40.0 if x <= -0.9 else float(3 * x**2 + x8.sin() + x8 * x8.cos())


def f3(x: float) -> float:
    """x² outside; between the breakpoints −½, −⅖, 0, ⅖, ½ straight lines of these slopes."""
    for end, slope in ((-0.4, 1.0), (0.0, -7 / 8), (0.4, 7 / 8), (0.5, -1.0)):
        if -0.5 < x <= end:
            return slope
    return 2 * x


def descend_line(factory: Factory, derivative: Callable[[float], float], lr: float = 0.1) -> Tensor:
    """diffGrad's run: 299 updates from -1 at its settings."""

    def gradient(x: Tensor, t: int) -> Tensor:
        return torch.tensor([derivative(x.item())], dtype=torch.float64)

    return descend(factory, (-1.0,), gradient, 299, lr=lr, betas=(0.95, 0.999), eps=1e-8)


# Lookahead: a quadratic whose minimum is drawn anew at every step.


def stationary_variance(factory: Factory, lr: float) -> float:
    """Of 20,000 runs of 400 steps on f = (x - c)²/2 with c ~ N(0, 1)."""
    x = nn.Parameter(torch.zeros(20_000, dtype=torch.float64))
    optimizer = factory([x], lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        x.grad = x.detach() - torch.randn(x.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return x.var().item()


def lookahead_variance(lr: float, k: int, alpha: float) -> tuple[float, float]:
    """What the paper's theory has for SGD, and for Lookahead around it."""
    rho = 1 - lr
    sgd = lr**2 / (1 - rho**2)
    a, b = alpha**2 * (1 - rho ** (2 * k)), 2 * alpha * (1 - alpha) * (1 - rho**k)
    return sgd, sgd * a / (a + b)


# DoG: logistic regression, with the average of the iterates; single precision.

LOGISTIC_OPTIMUM = 0.334244  # by L-BFGS


@cache
def logistic_regression() -> tuple[Tensor, Tensor]:
    """2000 points with 50 features of sizes from 1 to 0.1, and labels drawn from a logistic model."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 50, generator=generator) * torch.logspace(0, -1, 50)
    logits = x @ torch.randn(50, generator=generator)
    return x, torch.bernoulli(torch.sigmoid(3 * logits / logits.std()), generator=generator)


@torch.no_grad()
def suboptimality(factory: Factory, **options: Any) -> tuple[float, float]:
    """Of the average and of the last point of 3000 steps on batches of 32."""
    x, y = logistic_regression()
    params = weight, bias = nn.Parameter(torch.zeros(50)), nn.Parameter(torch.zeros(()))
    optimizer, averager = factory(params, **options), PolynomialDecayAverager(params)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        batch = torch.randint(2000, (32,), generator=generator)
        residual = (torch.sigmoid(x[batch] @ weight + bias) - y[batch]) / 32
        weight.grad, bias.grad = residual @ x[batch], residual.sum()
        optimizer.step()
        averager.update()
    last = binary_cross_entropy_with_logits(x @ weight + bias, y).item() - LOGISTIC_OPTIMUM
    with averager.evaluation_weights():
        return binary_cross_entropy_with_logits(x @ weight + bias, y).item() - LOGISTIC_OPTIMUM, last


# PSGD: a matrix regression where two condition numbers multiply.


def spd(generator: torch.Generator, eigenvalues: Tensor) -> Tensor:
    """A symmetric matrix of these eigenvalues, in random directions."""
    size = len(eigenvalues)
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix: Tensor = rotation * eigenvalues.double() @ rotation.T
    return matrix


def matrix_regression(factory: Factory, lr: float) -> float:
    """f/f₀ after 1000 steps on f = ½ tr(A (W - W*) S (W - W*)ᵀ), where conditions of 100 and 10⁴ multiply."""
    generator, w = torch.Generator().manual_seed(0), nn.Parameter(torch.zeros(20, 20, dtype=torch.float64))
    s, a = (spd(generator, torch.logspace(0, exponent, 20)) for exponent in (-4, -2))
    target = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    optimizer = factory([w], lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 1000)

    def gradient() -> Tensor:
        return (a @ (w - target) @ s).detach()

    at_first = (gradient() * (w - target)).sum().item()
    for _ in range(1000):
        w.grad = gradient()
        optimizer.step()
        scheduler.step()
    return (gradient() * (w - target)).sum().item() / at_first


# Adafactor: how well a row and a column stand for all second moments; single precision.


def rank_one_scales(generator: torch.Generator) -> Tensor:
    return 0.01 / (torch.rand(100, 1, generator=generator) * torch.rand(1, 200, generator=generator))


def scattered_scales(generator: torch.Generator) -> Tensor:
    return 0.1 / torch.rand(100, 200, generator=generator)


@torch.no_grad()
def mean_square_update(factory: Factory, scales: Tensor, generator: torch.Generator) -> float:
    """Mean U² over the last 100 of 2000 steps on gradients H ⊙ N(0, 1): 1 if U divides by what gradients are."""
    p, squares = nn.Parameter(torch.zeros_like(scales)), []
    optimizer = factory([p])
    for _ in range(2000):
        p.zero_()
        p.grad = scales * torch.randn(scales.shape, generator=generator)
        optimizer.step()
        squares.append(p.square().mean())
    return torch.stack(squares[-100:]).mean().item()
