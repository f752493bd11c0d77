"""Two-dimensional surfaces: deterministic, cheap, and easy to picture. Only Rosenbrock's is scored."""

import math
from abc import abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from ..problem import Picture, Problem, Target

Number = TypeVar("Number", float, Tensor)


def _cos(angle: Number) -> Number:
    return torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)


def _exp(exponent: Number) -> Number:
    return torch.exp(exponent) if isinstance(exponent, Tensor) else math.exp(exponent)


class Surface(Problem):
    """A function of two variables with minimum 0. A seed moves the start by 0.05 N(0, I)."""

    start: ClassVar[tuple[float, float]]
    family = "surface"
    tags = frozenset({"picture"})
    schedule = "constant"
    metric_name = "f"
    eval_every = 2
    run_seconds = 0.1
    vectors_only = True

    @staticmethod
    @abstractmethod
    def value(x: Number, y: Number) -> Number:
        """The function, of two numbers or of two tensors of points."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        noise = torch.randn(2, generator=self.generator, dtype=torch.float32)
        self.point = (torch.tensor(self.start) + 0.05 * noise).requires_grad_()

    def parameters(self) -> list[Tensor]:
        return [self.point]

    def loss(self, step: int) -> Tensor:
        return self.value(*self.point.unbind())

    def metric(self) -> float:
        x, y = self.point.tolist()  # Python floats: the metric is exact to double precision
        return float(self.value(x, y))


class Rosenbrock(Surface):
    """[(1 - x)² + 100 (y - x²)²] / 100: Rosenbrock's function (1960), its curvature at the minimum scaled to 10."""

    name = "rosenbrock"
    description = "[(1-x)² + 100(y-x²)²] / 100 from (-1.5, 2): a curved, ill-conditioned valley"
    start = (-1.5, 2.0)
    tags = frozenset({"core", "full", "picture"})
    budget = 1000
    eval_every = 5
    target = Target(1e-3, relative=True)
    run_seconds = 0.2
    picture = Picture(x=(-2.0, 2.0), y=(-1.0, 3.0), minima=((1.0, 1.0),))

    @staticmethod
    def value(x: Number, y: Number) -> Number:
        return (1 - x) ** 2 / 100 + (y - x**2) ** 2


class Beale(Surface):
    """[(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²] / 10: Beale's function (1958)."""

    name = "beale"
    description = "Beale's function / 10 from (-1.5, -1): plateaus between steep walls"
    start = (-1.5, -1.0)
    budget = 500
    target = Target(1e-3, relative=True)
    picture = Picture(x=(-4.5, 4.5), y=(-4.5, 4.5), minima=((3.0, 0.5),))

    @staticmethod
    def value(x: Number, y: Number) -> Number:
        return ((1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2) / 10


class Rastrigin(Surface):
    """[20 + x² - 10 cos 2πx + y² - 10 cos 2πy] / 100: Rastrigin's function. To look at: which basin is luck."""

    name = "rastrigin"
    description = "Rastrigin's function / 100 from (-2, 3.5): many minima; a local method stops in a near one"
    start = (-2.0, 3.5)
    budget = 300
    target = Target(0.0)
    picture = Picture(x=(-4.5, 4.5), y=(-4.5, 4.5), minima=((0.0, 0.0),), log_contours=False)

    @staticmethod
    def value(x: Number, y: Number) -> Number:
        waves = 10 * _cos(2 * math.pi * x) + 10 * _cos(2 * math.pi * y)
        return (20 + x**2 + y**2 - waves) / 100


class Saddle(Surface):
    """x²/2 - y²/2 + y⁴/4 + 1/4: a strict saddle at the origin between minima at (0, ±1)."""

    name = "saddle"
    description = "x²/2 - y²/2 + y⁴/4 + 1/4 from (1, 0.001): how soon a saddle is left"
    start = (1.0, 1e-3)
    tags = frozenset({"picture", "trap"})
    budget = 300
    target = Target(1e-2, relative=True)
    picture = Picture(x=(-1.5, 1.5), y=(-1.5, 1.5), minima=((0.0, 1.0), (0.0, -1.0)))

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        with torch.no_grad():
            self.point[1] = 1e-3 if self.point[1] > 0 else -1e-3  # a seed chooses the side; the distance is the problem

    @staticmethod
    def value(x: Number, y: Number) -> Number:
        return x**2 / 2 - y**2 / 2 + y**4 / 4 + 0.25


class Plateau(Surface):
    """1 - exp(-(x² + y²) / 2): a well in a plateau, where gradients vanish."""

    name = "plateau"
    description = "1 - exp(-(x²+y²)/2) from (3, 2): gradients vanish far from the minimum"
    start = (3.0, 2.0)
    tags = frozenset({"picture", "trap"})
    budget = 500
    target = Target(1e-2)
    picture = Picture(x=(-1.5, 4.0), y=(-2.0, 3.0), minima=((0.0, 0.0),), log_contours=False)

    @staticmethod
    def value(x: Number, y: Number) -> Number:
        return 1 - _exp(-(x**2 + y**2) / 2)


class AbsoluteValues(Surface):
    """0.1 |x| + |y|: no gradient vanishes at the minimum, so a constant step size oscillates."""

    name = "absv"
    description = "0.1|x| + |y| from (1, 1): not smooth at its minimum"
    start = (1.0, 1.0)
    tags = frozenset({"picture", "trap"})
    budget = 300
    target = Target(1e-2, relative=True)
    picture = Picture(x=(-1.5, 1.5), y=(-1.5, 1.5), minima=((0.0, 0.0),), log_contours=False)

    @staticmethod
    def value(x: Number, y: Number) -> Number:
        return 0.1 * abs(x) + abs(y)


class Bowl(Surface):
    """(x² + y²/100) / 2: condition number 100, along the axes."""

    name = "bowl"
    description = "(x² + y²/100) / 2 from (1, 1): condition number 100, along the axes"
    start = (1.0, 1.0)
    budget = 200
    target = Target(1e-3, relative=True)
    picture = Picture(x=(-1.5, 1.5), y=(-1.5, 1.5), minima=((0.0, 0.0),))

    @staticmethod
    def value(x: Number, y: Number) -> Number:
        return (x**2 + y**2 / 100) / 2


class RotatedBowl(Bowl):
    """The same, turned by 45°: what is straight for a diagonal method on `bowl` is a zig-zag here."""

    name = "bowl_rot"
    description = "the bowl turned by 45°: condition number 100, across the axes"
    start = (0.0, math.sqrt(2))

    @staticmethod
    def value(x: Number, y: Number) -> Number:
        return ((x + y) ** 2 + (y - x) ** 2 / 100) / 4


SURFACES = (Rosenbrock, Beale, Rastrigin, Saddle, Plateau, AbsoluteValues, Bowl, RotatedBowl)
