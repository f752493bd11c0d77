"""Matrices, a tensor and a deep product of them: saddles, plateaus, Kronecker curvature. Deterministic."""

from typing import ClassVar

import torch
from torch import Tensor

from ..problem import Problem, Target
from ._parts import fixed_generator, logspace, rotation


class MatrixProblem(Problem):
    """A deterministic loss of matrices that is 0 at best, and its own metric."""

    family = "matrix"
    tags = frozenset({"full"})
    schedule = "constant"
    metric_name = "f"
    eval_every = 5
    run_seconds = 0.3
    weights: list[Tensor]

    def parameters(self) -> list[Tensor]:
        return self.weights

    @torch.no_grad()
    def metric(self) -> float:
        return self.loss(0).item()

    def normal(self, scale: float, *shape: int) -> Tensor:
        """A weight of independent normal numbers."""
        return (scale * torch.randn(shape, generator=self.generator)).requires_grad_()


class MatrixFactorization(MatrixProblem):
    """‖UVᵀ - M‖² / ‖M‖²: a saddle at 0, and singular values that are learned one after the other."""

    name = "matfac"
    description = "factorization of a 60 × 40 matrix of rank 8, singular values 1 … 10^-1.5, from 0.1 N(0, I)"
    tags = frozenset({"core", "quick", "full"})
    budget = 500
    target = Target(1e-3)
    run_seconds = 0.2

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        generator = fixed_generator(self.name)
        left, right = rotation(60, generator)[:, :8], rotation(40, generator)[:, :8]
        self.matrix = (left * logspace(1.0, 10**-1.5, 8) @ right.T).float()
        self.weights = [self.normal(0.1, 60, 8), self.normal(0.1, 40, 8)]

    def loss(self, step: int) -> Tensor:
        u, v = self.weights
        return (u @ v.T - self.matrix).square().sum() / self.matrix.square().sum()


class TensorDecomposition(MatrixProblem):
    """‖[[A, B, C]] - T‖² / ‖T‖² of a tensor of rank 5: swamps and many equivalent minima."""

    name = "cp_tensor"
    description = "CP decomposition of a 10 × 15 × 20 tensor of rank 5, from 0.5 N(0, I)"
    shape: ClassVar[tuple[int, int, int]] = (10, 15, 20)
    budget = 800
    target = Target(1e-3)

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        generator = fixed_generator(self.name)
        self.tensor = self.compose([torch.randn(size, 5, generator=generator) for size in self.shape])
        self.weights = [self.normal(0.5, size, 5) for size in self.shape]

    @staticmethod
    def compose(factors: list[Tensor]) -> Tensor:
        a, b, c = factors
        return torch.einsum("ir,jr,kr->ijk", a, b, c)

    def loss(self, step: int) -> Tensor:
        return (self.compose(self.weights) - self.tensor).square().sum() / self.tensor.square().sum()


class KroneckerQuadratic(MatrixProblem):
    """½ tr(Wᵀ A W B) / n: the curvature that Shampoo, SOAP, PSGD and K-FAC model exactly."""

    name = "kron_quad"
    description = "½ tr(WᵀAWB) of a 32 × 32 matrix, condition numbers of A and B 31, from N(0, I)"
    budget = 400
    target = Target(1e-3, relative=True)

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        generator = fixed_generator(self.name)
        scales = logspace(1.0, 1 / 31, 32).sqrt()
        self.left, self.right = ((scales[:, None] * rotation(32, generator)).float() for _ in range(2))
        self.weights = [self.normal(1.0, 32, 32)]

    def loss(self, step: int) -> Tensor:
        return (self.left @ self.weights[0] @ self.right.T).square().sum() / 2


class DeepLinear(MatrixProblem):
    """‖W₅…W₁X - Y‖² / ‖Y‖²: plateaus, and curvature that is a product."""

    name = "deep_linear"
    description = "5 linear layers of 16 × 16, 64 inputs whose features have scales 1 … 0.1, from N(0, 1/4n)"
    tags = frozenset({"core", "quick", "full"})
    budget = 600
    target = Target(1e-2)

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        generator = fixed_generator(self.name)
        self.inputs = logspace(1.0, 0.1, 16).float()[:, None] * torch.randn(16, 64, generator=generator)
        self.outputs = torch.randn(16, 16, generator=generator) / 4 @ self.inputs
        self.weights = [self.normal(0.5 / 4, 16, 16) for _ in range(5)]

    def loss(self, step: int) -> Tensor:
        outputs = self.inputs
        for weight in self.weights:
            outputs = weight @ outputs
        return (outputs - self.outputs).square().sum() / self.outputs.square().sum()


MATRIX = (MatrixFactorization, TensorDecomposition, KroneckerQuadratic, DeepLinear)
