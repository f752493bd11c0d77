"""Traps: what one rule or another does not survive. Shown as a tick or a cross, never scored."""

import math

import torch
from torch import Tensor

from ..problem import Problem, Target
from ._parts import fixed_generator


class Trap(Problem):
    """A small problem made to hurt; the metric is its own."""

    family = "trap"
    tags = frozenset({"trap"})
    schedule = "constant"
    vectors_only = True
    x: Tensor

    def parameters(self) -> list[Tensor]:
        return [self.x]


class RareLargeGradients(Trap):
    """The counterexample of AMSGrad (Reddi et al., 2018, arXiv:1904.09237) made periodic, for a second moment of 0.99.

    Every 101st loss is Cx, the others are -x, C = 110, divided by C/10, with smooth walls 50 max(|x| - 1, 0)². The mean
    loss falls towards -1, most gradients point to 1. A second moment that forgets within a period follows the many.
    """

    name = "amsgrad"
    description = "each 101st gradient is 110, the others are -1, walls at ±1, from 0: the mean leads to -1"
    budget = 4040
    eval_every = 101
    metric_name = "|x + 1|"
    target = Target(0.5)
    run_seconds = 0.8

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.x = (0.05 * torch.randn(1, generator=self.generator)).requires_grad_()

    def loss(self, step: int) -> Tensor:
        slope = 10.0 if step % 101 == 0 else -10 / 110
        return (slope * self.x + 50 * (self.x.abs() - 1).relu() ** 2).sum()

    def metric(self) -> float:
        return abs(self.x.item() + 1)


class Rescale(Trap):
    """The loss is multiplied by 100 for the first half, then by 1 and with another optimum: what remembers is slow."""

    name = "rescale"
    description = "20-d noisy quadratic, 100 times larger in its first half, then with another optimum"
    budget = 600
    metric_name = "f, second half"
    target = Target(2e-3)
    run_seconds = 0.2

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        optima = torch.randn(2, 20, generator=fixed_generator(self.name))
        self.optima = optima / optima.norm(dim=1, keepdim=True)
        self.x = torch.zeros(20, requires_grad=True)
        self.noise = 0.1 * torch.randn(self.budget, 20, generator=self.generator)

    def loss(self, step: int) -> Tensor:
        second = step >= self.budget // 2
        risk: Tensor = (self.x - self.optima[int(second)]).square().sum() / 2 + self.noise[step] @ self.x
        return risk if second else 100 * risk

    @torch.no_grad()
    def metric(self) -> float:
        return float((self.x - self.optima[1]).square().sum()) / 2


class Drift(Trap):
    """The optimum moves on a circle and jumps to the other side half-way; the metric is the mean loss so far."""

    name = "drift"
    description = "a quadratic whose optimum circles every 200 steps and jumps half-way; mean loss over time"
    budget = 3000
    eval_every = 100
    metric_name = "mean f"
    target = Target(0.02)
    run_seconds = 0.6

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.phase = 2 * math.pi * torch.rand((), generator=self.generator).item()
        self.x = torch.zeros(2, requires_grad=True)
        self.total, self.count = 0.0, 0

    def loss(self, step: int) -> Tensor:
        angle = self.phase + 2 * math.pi * step / 200 + (math.pi if step >= self.budget // 2 else 0.0)
        loss = (self.x - torch.tensor([math.cos(angle), math.sin(angle)])).square().sum() / 2
        self.total, self.count = self.total + loss.item(), self.count + 1
        return loss

    def metric(self) -> float:
        return self.total / self.count if self.count else 0.5


TRAPS = (RareLargeGradients, Rescale, Drift)
