"""Two-dimensional surfaces: deterministic, cheap, and easy to picture."""

from typing import TypeVar

import torch
from torch import Tensor

from ..problem import Problem, Target

Number = TypeVar("Number", float, Tensor)


def rosenbrock(x: Number, y: Number) -> Number:
    """[(1 - x)² + 100 (y - x²)²] / 100: Rosenbrock's function (1960), its curvature at the minimum scaled to 10."""
    return (1 - x) ** 2 / 100 + (y - x**2) ** 2


class Rosenbrock(Problem):
    """A curved valley with its minimum, 0, at (1, 1). A seed moves the start (-1.5, 2) by 0.05 N(0, I)."""

    name = "rosenbrock"
    version = 1
    description = "[(1-x)² + 100(y-x²)²] / 100 from (-1.5, 2) + 0.05 N(0, I): a curved, ill-conditioned valley"
    budget = 1000
    eval_every = 5
    schedule = "constant"
    metric_name = "f"
    target = Target(1e-3, relative=True)
    run_seconds = 0.2

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        noise = torch.randn(2, generator=self.generator, dtype=torch.float32)
        self.point = (torch.tensor([-1.5, 2.0]) + 0.05 * noise).requires_grad_()

    def parameters(self) -> list[Tensor]:
        return [self.point]

    def loss(self, step: int) -> Tensor:
        return rosenbrock(*self.point.unbind())

    def metric(self) -> float:
        x, y = self.point.tolist()  # Python floats: the metric is exact to double precision
        return float(rosenbrock(x, y))
