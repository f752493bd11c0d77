"""Lion: sign of an interpolated momentum."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .core import Optimizer, Options
from .core.options import betas


class Lion(Optimizer):
    """Lion: Symbolic Discovery of Optimization Algorithms (Chen et al., 2023, arXiv:2302.06675).

        c = β1 m + (1-β1) g,    θ ← (1 - lr λ) θ - lr · sign(c),    m ← β2 m + (1-β2) g

    Every coordinate moves by lr or not at all, whatever the gradient's scale. All public implementations agree on it.

    When: large batches, and where state memory is short. Take an lr 3 to 10 times below AdamW's and a weight decay as
        much above, (0.95, 0.98) as betas for language models, and let the schedule bring lr near 0: at constant lr it
        ends in a cycle of ±lr. A coordinate whose gradient stops goes on moving by lr for thousands of steps. A nan in
        a gradient freezes its coordinate, since the sign of nan is 0 in torch: check gradients, or train under a
        GradScaler.

    State: 4 bytes per parameter (``exp_avg``) and 8 per tensor (``step``, which the update does not use).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: distance per coordinate and update, >= 0, a number or a Tensor of one element. Default 1e-4, the authors'.
        betas: weight of m in c, and decay of m per step, in [0, 1). Default (0.9, 0.99), the paper's.
        weight_decay: λ >= 0, decoupled. Default 0, the authors' code.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> w.grad = torch.tensor([3.0, -4.0])
    >>> Lion([w], lr=0.5).step(); w.data
    tensor([ 0.5000, -1.5000])
    """

    buffers = ("exp_avg",)
    rules = {"betas": betas(2)}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay), options)

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        m = s.exp_avg
        u = (m * h.beta1).add_(g, alpha=1 - h.beta1).sign_()  # sign(β1 m + (1-β1) g), with m of the step before
        m.lerp_(g, 1 - h.beta2)  # m ← β2 m + (1-β2) g
        return u
