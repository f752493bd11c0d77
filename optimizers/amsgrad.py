"""AMSGrad, which divides by the largest second moment so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .adam import Adam
from .core import Options


class AMSGrad(Adam):
    """AMSGrad: On the Convergence of Adam and Beyond (Reddi, Kale & Kumar, 2018, arXiv:1904.09237).

    Adam's m and v, and three algorithms that carry the name:

        "torch"     v^max ← max(v^max, v),  θ ← θ - lr · m̂ / (√(v^max / (1-β2^t)) + eps)    torch.optim, timm, Keras
        "paper"     v^max ← max(v^max, v),  θ ← θ - lr · m / (√v^max + eps)                  Reddi et al., algorithm 2
        "debiased"  v̂^max ← max(v̂^max, v̂),  θ ← θ - lr · m̂ / (√v̂^max + eps)                 optax

    They differ in practice. After one gradient of 100 and then 1 for ever, the steps of "torch" settle at 0.316 lr,
    those of "debiased" at 0.01 lr: it remembers the first gradient at full weight. "paper" starts with steps of 3 to 6
    lr, for want of bias correction, so it wants a lower lr. (The paper's version has no eps; here it keeps 0/0 out.)

    When: Adam does not converge because rare large gradients matter. A single spike, or inf or nan, stays in the
        maximum: ``reset_max()`` forgets it. The variant is kept in the checkpoint, for the maxima of the variants do
        not mix.

    State: 12 bytes per parameter (``exp_avg``, ``exp_avg_sq``, ``max_exp_avg_sq``) and 8 per tensor (``step``).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0, a number or a Tensor of one element. Default 1e-3, torch's.
        betas: decay of the gradient's mean and of its square per step, in [0, 1). Default (0.9, 0.999), torch's; the
            paper's toys use (0.9, 0.99).
        eps: added to the denominator, >= 0. Default 1e-8, torch's.
        weight_decay: λ >= 0. Default 0.
        variant: ``"torch"`` (default), ``"paper"`` or ``"debiased"``; group key ``amsgrad``.
        decoupled_weight_decay: False (default): g ← g + λθ; True: θ ← (1 - lr λ) θ.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = AMSGrad(model.parameters(), lr=1e-3, variant="debiased")
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        variant: str = "torch",
        *,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if variant not in ("torch", "paper", "debiased"):
            raise ValueError(f"AMSGrad: variant must be 'torch', 'paper' or 'debiased', got {variant!r}")
        super().__init__(
            params, lr, betas, eps, weight_decay, variant, decoupled_weight_decay=decoupled_weight_decay, **options
        )

    @property
    def own_options(self) -> frozenset[str]:
        """Not the variant, which the maxima of a checkpoint are of."""
        return super().own_options - {"amsgrad"}

    def on_load(self, group: dict[str, Any], saved: Mapping[str, Any], step: int) -> None:
        """On the checkpoint of an Adam this stays AMSGrad, and its maxima start from the second moments there."""
        super().on_load(group, saved, step)
        group["amsgrad"] = group["amsgrad"] or self.defaults["amsgrad"]

    @torch.no_grad()
    def reset_max(self) -> None:
        """Let every maximum start again from the present second moment, as after a spike that should not count."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p, {})
                if "max_exp_avg_sq" in state:
                    state["max_exp_avg_sq"].copy_(self.new_buffer("max_exp_avg_sq", p, state, group))
