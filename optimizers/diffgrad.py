"""diffGrad: Adam slowed down where the gradient barely changes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .adam import Adam
from .core import Options


class DiffGrad(Adam):
    """diffGrad: An Optimization Method for Convolutional Neural Networks (Dubey et al., 2020, arXiv:1909.11015).

        θ ← θ - lr · ξ · m̂ / (√v̂ + eps),    ξ = sigmoid(|g_{t-1} - g_t|)      m̂, v̂ as in :class:`Adam`, g_0 = 0

    eps as in the paper, after bias correction; the authors' code divides by √v + eps. Their first code also kept a
    reference to ``p.grad`` instead of a copy, which makes ξ = 1/2 wherever gradients are reused; here it is a copy, and
    includes coupled weight decay.

    When: to reproduce the paper. ξ depends on the gradient's absolute size: where gradients change by much less than 1,
        as in most training, ξ ≈ 1/2 and diffGrad is Adam at half the lr. Loss scaling must be undone before the step.

    State: 12 bytes per parameter (``exp_avg``, ``exp_avg_sq``, ``previous_grad``) and 8 per tensor (``step``).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0, a number or a Tensor of one element. Default 1e-3, the paper's.
        betas: decay of the gradient's mean and of its square per step, in [0, 1). Default (0.9, 0.999), the paper's.
        eps: added to the denominator, >= 0. Default 1e-8, the paper's.
        weight_decay: λ >= 0. Default 0.
        decoupled_weight_decay: False (default): g ← g + λθ; True: θ ← (1 - lr λ) θ.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([100.0, 0.001])
    >>> DiffGrad([w], lr=0.1).step(); w.data
    tensor([0.9000, 0.9500])
    """

    buffers = ("exp_avg", "exp_avg_sq", "previous_grad")
    recoverable = frozenset({"previous_grad"})

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=decoupled_weight_decay, **options)

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        # ξ = 1/(1 + e^-|Δg|). torch's sigmoid rounds the ends of a tensor differently from its middle on CPU, which
        # would make the result depend on how tensors are cut into pieces; its exp does not.
        slowdown = (s.previous_grad - g).abs_().neg_().exp_().add_(1)
        s.previous_grad.copy_(g)
        return Adam.update(p, g, s, h).div_(slowdown)
