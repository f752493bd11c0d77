"""Convex problems: ill-conditioned, stochastic or both; the optimum of each is known."""

import functools
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from ..problem import Problem, Target
from ._parts import SKLEARN, epochs_of_batches, fixed_generator, logspace, rotation


class Quadratic(Problem):
    """½ Σ hᵢ xᵢ² with start N(0, I) and gradients that may be noisy; the metric has no noise."""

    size: ClassVar[int] = 100
    condition: ClassVar[float]
    family = "convex"
    metric_name = "f"
    eval_every = 5
    budget = 500
    run_seconds = 0.15
    vectors_only = True

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        generator = fixed_generator(self.name)
        order = torch.randperm(self.size, generator=generator)
        self.curvatures = logspace(1.0, 1 / self.condition, self.size)[order].float()
        self.x = torch.randn(self.size, generator=self.generator).requires_grad_()
        self.noise = self.draw_noise()

    def draw_noise(self) -> Tensor | None:
        """The noise of every step's gradient, one step a row."""
        return None

    def parameters(self) -> list[Tensor]:
        return [self.x]

    def risk(self) -> Tensor:
        return (self.curvatures * self.x.square()).sum() / 2

    def loss(self, step: int) -> Tensor:
        return self.risk() if self.noise is None else self.risk() + self.noise[step] @ self.x

    @torch.no_grad()
    def metric(self) -> float:
        return self.risk().item()


class AxisQuadratic(Quadratic):
    """Curvatures 1 … 1e-3 along the axes, where a diagonal preconditioner is exact."""

    name = "quad"
    description = "50-d quadratic, curvatures 1 … 1e-3 along the axes"
    size = 50
    condition = 1e3
    target = Target(1e-3, relative=True)


class RotatedQuadratic(AxisQuadratic):
    """The same behind a fixed random rotation. The ratio to `quad` is what an optimizer loses by being diagonal."""

    name = "quad_rot"
    description = "50-d quadratic, curvatures 1 … 1e-3, randomly rotated"
    tags = frozenset({"core", "quick", "full"})

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rotation = rotation(self.size, fixed_generator(self.name)).float()

    def risk(self) -> Tensor:
        return (self.curvatures * (self.rotation @ self.x).square()).sum() / 2  # never negative, unlike xᵀHx in float32


class NoisyQuadratic(Quadratic):
    """The noisy quadratic model (Zhang et al., 2019, arXiv:1907.04164): noise in proportion to the curvature."""

    name = "nqm"
    description = "100-d quadratic, curvatures h = 1 … 1e-3, gradient noise of deviation 0.3 √h; the metric is the risk"
    tags = frozenset({"core", "full"})
    condition = 1e3
    schedule = "linear"
    target = Target(5e-3, relative=True)

    def draw_noise(self) -> Tensor:
        return 0.3 * self.curvatures.sqrt() * torch.randn(self.budget, self.size, generator=self.generator)


class HeavyTails(Quadratic):
    """Gradient noise 0.1 r z, z from N(0, I) and r from Pareto(1.5): of finite mean and infinite variance."""

    name = "heavy"
    description = "100-d quadratic, condition number 10, gradient noise of infinite variance; the metric is the risk"
    tags = frozenset({"core", "full"})
    condition = 10.0
    schedule = "linear"
    target = Target(2e-2, relative=True)

    def draw_noise(self) -> Tensor:
        uniform = 1 - torch.rand(self.budget, 1, generator=self.generator, dtype=torch.float64)  # in (0, 1]
        radius = uniform.pow(-1 / 1.5).float()
        return 0.1 * radius * torch.randn(self.budget, self.size, generator=self.generator)


class Rows(NamedTuple):
    """A data set: one example a row, and labels: ±1, classes or numbers."""

    inputs: Tensor
    labels: Tensor


class LinearModel(Problem):
    """A convex loss of a linear model on fixed data, in mini-batches, from w = 0.

    The metric is the gap (f - f*) / (f₀ - f*) of the loss on all data; f* is a constant, found by
    L-BFGS in double precision on the same data, and checked by the tests.
    """

    f_star: ClassVar[float]
    l2: ClassVar[float] = 0.0  # f = mean loss + l2/2 ‖w‖²
    family = "convex"
    schedule = "linear"
    metric_name = "gap"
    batch_size: ClassVar[int] = 64
    budget = 400
    eval_every = 5
    run_seconds = 0.2
    vectors_only = True

    @staticmethod
    @abstractmethod
    def data() -> Rows:
        """The fixed data."""

    @staticmethod
    @abstractmethod
    def mean_loss(predictions: Tensor, labels: Tensor) -> Tensor:
        """The data term."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.inputs, self.labels = self.data()
        self.w = self.zeros()
        self.start = self.objective(self.w.detach(), self.inputs, self.labels).item()
        self.batches = epochs_of_batches(len(self.labels), self.batch_size, self.budget, self.generator)

    def zeros(self) -> Tensor:
        return torch.zeros(self.inputs.shape[1], requires_grad=True)

    def parameters(self) -> list[Tensor]:
        return [self.w]

    def objective(self, w: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        return self.mean_loss(inputs @ w, labels) + self.l2 / 2 * w.square().sum()

    def loss(self, step: int) -> Tensor:
        batch = self.batches[step]
        return self.objective(self.w, self.inputs[batch], self.labels[batch])

    @torch.no_grad()
    def metric(self) -> float:
        return (self.objective(self.w, self.inputs, self.labels).item() - self.f_star) / (self.start - self.f_star)


def logistic(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean of log(1 + exp(-yz)), y = ±1."""
    return softplus(-labels * predictions).mean()


class RawLogistic(LinearModel):
    """Breast cancer data (Wolberg et al., 1995) divided by one number, so that the features keep their scales."""

    name = "logreg_raw"
    description = "logistic regression on breast cancer data, features of very different scales, l2 1e-3, batch 64"
    tags = frozenset({"core", "quick", "full"})
    l2 = 1e-3
    f_star = 0.213682119662
    target = Target(0.01)
    requires = SKLEARN
    mean_loss = staticmethod(logistic)

    @staticmethod
    @functools.cache
    def data() -> Rows:
        from sklearn import datasets

        features, classes = datasets.load_breast_cancer(return_X_y=True)
        x = torch.tensor(features, dtype=torch.float64)
        return Rows(
            torch.cat([x / x.std(), torch.ones(len(x), 1)], dim=1).float(), torch.tensor(2 * classes - 1).float()
        )


class SparseLogistic(LinearModel):
    """Binary features, the j-th of them present in 1/j of the examples: Adagrad's home (Duchi et al., 2011)."""

    name = "sparse_lr"
    description = "logistic regression, 512 binary features of frequency 1/j, 4096 examples, l2 1e-4, batch 64"
    tags = frozenset({"core", "full"})
    l2 = 1e-4
    f_star = 0.236121014678
    target = Target(0.05)
    mean_loss = staticmethod(logistic)

    @staticmethod
    @functools.cache
    def data() -> Rows:
        generator = fixed_generator("sparse_lr")
        frequency = 1 / torch.arange(1, 513, dtype=torch.float64)
        x = (torch.rand(4096, 512, generator=generator, dtype=torch.float64) < frequency).double()
        truth = 3 * torch.randn(512, generator=generator, dtype=torch.float64)
        probability = torch.sigmoid(x @ truth)
        positive = torch.rand(4096, generator=generator, dtype=torch.float64) < probability
        return Rows(x.float(), 2 * positive.float() - 1)


class ColumnScaledLeastSquares(LinearModel):
    """Least squares on diabetes data (Efron et al., 2004), columns of unit variance, nearly collinear."""

    name = "diabetes"
    description = "least squares on diabetes data, near-collinear columns, batch 64"
    f_star = 0.240580255691
    target = Target(3e-3)
    requires = SKLEARN

    @staticmethod
    def mean_loss(predictions: Tensor, labels: Tensor) -> Tensor:
        return (predictions - labels).square().mean() / 2

    @staticmethod
    @functools.cache
    def data() -> Rows:
        from sklearn import datasets

        features, progression = datasets.load_diabetes(return_X_y=True)
        x, y = torch.tensor(features, dtype=torch.float64), torch.tensor(progression, dtype=torch.float64)
        x = x / torch.linalg.matrix_norm(x, 2) * len(x) ** 0.5  # the largest curvature is 1
        return Rows(x.float(), ((y - y.mean()) / y.std()).float())


class SoftmaxModel(LinearModel):
    """A linear model of several classes, whose parameter is a matrix."""

    classes: ClassVar[int]
    vectors_only = False

    def zeros(self) -> Tensor:
        return torch.zeros(self.inputs.shape[1], self.classes, requires_grad=True)

    @staticmethod
    def mean_loss(predictions: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(predictions, labels)


class SoftmaxDigits(SoftmaxModel):
    """Softmax regression on the digits: an easy control."""

    name = "softmax_digits"
    description = "softmax regression on scikit-learn's digits, l2 5e-4, batch 64: an easy control"
    classes = 10
    l2 = 5e-4
    f_star = 0.0698671187195
    budget = 300
    target = Target(5e-3)
    requires = SKLEARN

    @staticmethod
    @functools.cache
    def data() -> Rows:
        from .digits import load_digits

        digits = load_digits()
        return Rows(digits.train_images, digits.train_labels)


class Zipf(SoftmaxModel):
    """Classes of frequency 1/k: why Adam beats SGD on text (Kunstner et al., 2024, arXiv:2402.19449).

    Separable, so that the infimum is 0; the metric is the loss on all data.
    """

    name = "zipf"
    description = (
        "softmax regression, 128 separable classes of frequency 1/k in 64 dimensions, 4096 examples, batch 256"
    )
    tags = frozenset({"core", "full"})
    classes = 128
    batch_size = 256
    f_star = 0.0
    metric_name = "train CE"
    target = Target(1e-3)
    eval_every = 10
    run_seconds = 0.8

    @staticmethod
    @functools.cache
    def data() -> Rows:
        generator = fixed_generator("zipf")
        frequency = 1 / torch.arange(1, 129, dtype=torch.float64)
        labels = torch.multinomial(frequency, 4096, replacement=True, generator=generator)
        means = torch.rand(128, 64, generator=generator, dtype=torch.float64)  # not centred, as activations are not
        noise = torch.randn(4096, 64, generator=generator, dtype=torch.float64)
        return Rows((means[labels] + 0.2 * noise).float(), labels)


CONVEX = (
    AxisQuadratic,
    RotatedQuadratic,
    NoisyQuadratic,
    HeavyTails,
    RawLogistic,
    SparseLogistic,
    ColumnScaledLeastSquares,
    SoftmaxDigits,
    Zipf,
)
