"""AdEMAMix: Adam with a second, much slower average of the gradient."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .core import Optimizer, Options
from .core.options import NON_NEGATIVE, STEPS, betas
from .core.scalars import expm1, maximum, minimum


class AdEMAMix(Optimizer):
    """The AdEMAMix Optimizer: Better, Faster, Older (Pagliardini, Ablin & Grangier, 2024, arXiv:2409.03137).

        m1 ← β1 m1 + (1-β1) g,    m2 ← β3(t) m2 + (1-β3(t)) g,    v ← β2 v + (1-β2) g²
        θ ← (1 - lr λ) θ - lr · (m̂1 + α(t) m2) / (√v̂ + eps),    m̂1 = m1 / (1-β1^t),    v̂ = v / (1-β2^t)

        α(t) = α · min(t/T_α, 1),    1/ln β3(t) = (1-μ)/ln β1 + μ/ln β3,  μ = min(t/T_β3, 1)

    The paper's algorithm 1: m2 is not bias-corrected, weight decay is decoupled. β3's warm-up moves the half-life of m2
    linearly from β1's to β3's. (The authors' code has ln(β + 1e-8) for ln β, by which 1 - β3(t) is 1e-5 of itself off
    for β3 = 0.999 and 1e-4 for 0.9999.) With α = 0 this is AdamW. β1 = 0 keeps no m1 (m̂1 = g).

    When: long training with AdamW, of language models above all, at a lower lr or with gradients clipped to 0.1-1: a
        persistent gradient moves up to (1+α) lr per step. Warm-ups as long as the run, as the authors do, or none;
        never short ones: while β3(t) rises, early gradients fade only like t^-κ, κ = T_β3 (1-β3), and below κ = 2 they
        can throw the parameters far off, which a warning says. In a short run take β3 = 0.999. Rows of an embedding
        that lose their gradient drift for 1/(1-β3) steps; ``cautious=True`` stops that.

    A run that comes from AdamW takes its moments along, see :func:`optzoo.optimizers.adopt`; the warm-ups then count
    from ``schedule_start``.

    State: 12 bytes per parameter (``exp_avg``, ``exp_avg_slow``, ``exp_avg_sq``), 8 with β1 = 0, and 8 per tensor
        (``step``).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0, a number or a Tensor of one element. Default 1e-3, the paper's.
        betas: (β1, β2, β3) in [0, 1). Default (0.9, 0.999, 0.9999), the paper's.
        alpha: weight of the slow average, >= 0; 4 to 10 work. Default 5, the paper's (the authors' PyTorch code has 2).
        beta3_warmup: T_β3, steps of the warm-up from β1 to β3, or None (default) for none.
        alpha_warmup: T_α, steps of the warm-up from 0 to alpha, or None (default) for none.
        eps: added to the denominator, >= 0. Default 1e-8, the paper's.
        weight_decay: λ >= 0, decoupled. Default 0, the authors' code.
        schedule_start: the step from which the warm-ups count, >= 0. Default 0.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value; a β3 warm-up to a β3 below β1.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = AdEMAMix(model.parameters(), lr=3e-4, beta3_warmup=100_000, alpha_warmup=100_000)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    buffers = ("exp_avg", "exp_avg_slow", "exp_avg_sq")
    recoverable = frozenset({"exp_avg_slow"})
    rules = {
        "betas": betas(3),
        "alpha": NON_NEGATIVE,
        "beta3_warmup": STEPS,
        "alpha_warmup": STEPS,
        "schedule_start": NON_NEGATIVE,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        beta3_warmup: float | None = None,
        alpha_warmup: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        schedule_start: float = 0,
        **options: Unpack[Options],
    ) -> None:
        defaults = dict(lr=lr, betas=betas, alpha=alpha, beta3_warmup=beta3_warmup, alpha_warmup=alpha_warmup)
        super().__init__(
            params, {**defaults, "eps": eps, "weight_decay": weight_decay, "schedule_start": schedule_start}, options
        )

    @staticmethod
    def scalars(h: Any) -> None:
        t = maximum(h.step - h.schedule_start, 0)
        h.correction1 = 1 / (1 - h.beta1**h.step)
        h.gain = (1 - h.beta2**h.step) ** 0.5  # √v̂ + eps = (√v + eps √(1-β2^t)) / √(1-β2^t)
        h.eps = h.eps * h.gain
        h.fast = h.beta1 > 0
        h.slow_weight = 1 - h.beta3
        if h.beta3_warmup:
            mu = maximum(minimum(t / h.beta3_warmup, 1), 1e-300)  # above 0: where β1 = 0, 1/ln β1 counts as 0
            inverse = (1 - mu) * (1 / math.log(h.beta1) if h.fast else 0) + mu / math.log(h.beta3)
            h.slow_weight = maximum(-expm1(1 / inverse), h.slow_weight)  # 1 - β3(t), without cancellation
        if h.alpha_warmup:
            h.alpha = h.alpha * minimum(t / h.alpha_warmup, 1)

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        m1 = s.exp_avg.lerp_(g, 1 - h.beta1) if h.fast else g  # m1 ← β1 m1 + (1-β1) g
        m2 = s.exp_avg_slow.lerp_(g, h.slow_weight)  # m2 ← β3 m2 + (1-β3) g, never bias-corrected
        v = s.exp_avg_sq.mul_(h.beta2).addcmul_(g, g, value=1 - h.beta2)  # v ← β2 v + (1-β2) g²
        return (m2 * h.alpha).add_(m1, alpha=h.correction1).div_(v.sqrt().add_(h.eps))

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        return self.buffers if group["betas"][0] > 0 else self.buffers[1:]

    def check_group(self, group: Mapping[str, Any]) -> None:
        (beta1, _, beta3), warmup = group["betas"], group["beta3_warmup"]
        if not warmup:
            return
        if beta3 < beta1 or beta3 == 0:
            raise ValueError(
                f"AdEMAMix: beta3_warmup={warmup} raises beta3 from beta1, so betas[2] must be positive and at least "
                f"betas[0], got betas={group['betas']}; raise betas[2] or leave beta3_warmup=None"
            )
        if warmup < 2 / (1 - beta3) - 1e-6:
            warnings.warn(
                f"AdEMAMix: beta3_warmup={warmup} is short for beta3={beta3}: early gradients will dominate the slow "
                f"average and may throw the parameters off. Take at least 2/(1-beta3) = {2 / (1 - beta3):.0f} steps, a "
                "smaller beta3 (0.999 in short runs), or beta3_warmup=None",
                stacklevel=2,
            )

    def on_load(self, group: dict[str, Any], saved: Mapping[str, Any], step: int) -> None:
        """In the state of another optimizer the slow average starts at 0, so the warm-ups count from here."""
        if "schedule_start" not in saved and group["schedule_start"] == 0:
            group["schedule_start"] = step
