"""A problem with a Hessian that is known, and the random numbers PSGD takes for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from optzoo.optimizers.psgd.noise import Noise
from reference.notation import Array

SHAPES = [(3, 2), (), (4,)]
N = 11


def vector_of(tensors: Sequence[Tensor]) -> Array:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).double().numpy()


class Quartic:
    """xᵀAx/2 + Σx⁴/10 of all parameters as one vector, with eigenvalues of both signs."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)
        A, x = (torch.randn(N, n, generator=generator, dtype=torch.float64) for n in (N, 1))
        self.A = (A + A.T) / 2
        parts = x[:, 0].split([max(1, int(np.prod(shape))) for shape in SHAPES])
        self.params = [nn.Parameter(t.reshape(shape).to(dtype)) for t, shape in zip(parts, SHAPES, strict=True)]

    def loss(self) -> Tensor:
        x = torch.cat([p.reshape(-1) for p in self.params])
        return x @ self.A.to(x.dtype) @ x / 2 + x.pow(4).sum() / 10

    def square_sum(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.params]).square().sum()

    def backward(self) -> Tensor:
        """An ordinary closure."""
        for p in self.params:
            p.grad = None
        loss = self.loss()
        loss.backward()
        return loss

    def gradient(self, x: Array) -> Array:
        return self.A.numpy() @ x + 0.4 * x**3

    def hessian(self, x: Array) -> Array:
        return self.A.numpy() + np.diag(1.2 * x**2)

    def v(self, step: int, seed: int = 0) -> Array:
        """The probe of Hv."""
        return np.concatenate([self._normal(seed, i, p.shape, step, 1) for i, p in enumerate(self.params)])

    def nu(self, step: int, seed: int = 0) -> Array:
        """The noise in the damping."""
        return np.concatenate([self._normal(seed, i, (p.numel(),), step, 0) for i, p in enumerate(self.params)])

    @staticmethod
    def _normal(seed: int, index: int, shape: Sequence[int], step: int, stream: int) -> Array:
        like = torch.zeros((), dtype=torch.float64)
        normal: Array = Noise.at(seed, [index], step, stream).normal(1, *shape, like=like)[0].reshape(-1).numpy()
        return normal


def spd(eigenvalues: Sequence[float]) -> Tensor:
    """A random symmetric matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    n = len(eigenvalues)
    rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return rotation * torch.as_tensor(eigenvalues, dtype=torch.float64) @ rotation.T
