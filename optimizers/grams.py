"""Grams: the size of Adam's update, the direction of the gradient."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .adam import Adam
from .core import Options


class Grams(Adam):
    """Grams: Gradient Descent with Adaptive Momentum Scaling (Cao, Li & Song, 2024, arXiv:2412.17107).

        θ ← (1 - lr λ) θ - lr · sign(g) · |m̂ / (√v̂ + eps)|      m̂, v̂ as in :class:`Adam`

    Here eps is added after bias correction, as in Adam; the authors' code divides by √v + eps, which is the same in the
    long run and up to 1/√(1-β2) times as much eps at first. Gradients are read only; the authors' code overwrites them.

    When: noisy training at usual momentum (β1 = 0.9), where it is often faster than Adam. Not with β1 = 0.99: it does
        not damp, and near a minimum its steps keep the size of the momentum and flip with the gradient's sign. A
        coordinate without gradient does not move at all.

    State: 8 bytes per parameter (``exp_avg``, ``exp_avg_sq``) and 8 per tensor (``step``).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0, a number or a Tensor of one element. Default 1e-3, the authors'.
        betas: decay of the gradient's mean and of its square per step, in [0, 1). Default (0.9, 0.999), the authors'.
        eps: added to the denominator, >= 0. Default 1e-6, the authors'.
        weight_decay: λ >= 0, decoupled. Default 0.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    >>> w.grad = torch.tensor([0.5, -0.1, 0.0])
    >>> Grams([w], lr=0.1).step(); w.data
    tensor([ 0.9000, -1.9000,  3.0000])
    """

    presets = {"grams": True}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True, **options)
