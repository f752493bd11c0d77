"""Adam and AdamW, with AMSGrad's three readings as an option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .core import Optimizer, Options
from .core.options import betas, one_of
from .core.scalars import precision


class Adam(Optimizer):
    """Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015, arXiv:1412.6980).

        m ← β1 m + (1-β1) g,    v ← β2 v + (1-β2) g²
        θ ← θ - lr · m̂ / (√v̂ + eps),    m̂ = m / (1-β1^t),    v̂ = v / (1-β2^t)

    The form of the paper's algorithm 1 and of torch.optim: eps outside the root, after bias correction. (TensorFlow and
    the authors of C-AdamW and Grams divide by √v + eps instead, which is up to 1/√(1-β2) times as much eps at first.)

    When: the baseline. For decoupled weight decay take :class:`AdamW`.

    State: 8 bytes per parameter (``exp_avg``, ``exp_avg_sq``) and 8 per tensor (``step``); with ``amsgrad`` 12.

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0, a number or a Tensor of one element. Default 1e-3, the paper's.
        betas: decay of the gradient's mean and of its square per step, in [0, 1). Default (0.9, 0.999), the paper's.
        eps: added to the denominator, >= 0. Default 1e-8, the paper's. With 0, a coordinate without gradient is 0/0.
        weight_decay: λ >= 0. Default 0.
        amsgrad: False (default); True or ``"torch"``, ``"paper"``, ``"debiased"``: keep the largest v, see
            :class:`AMSGrad`.
        decoupled_weight_decay: False (default): g ← g + λθ, the L2 penalty; True: θ ← (1 - lr λ) θ, as AdamW.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = Adam(model.parameters(), lr=1e-3)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    buffers: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    recoverable = frozenset({"max_exp_avg_sq"})
    variants = Optimizer.variants | {"amsgrad"}
    rules = {"betas": betas(2), "amsgrad": one_of(False, True, "torch", "paper", "debiased")}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool | str = False,
        *,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        super().__init__(params, {**defaults, "decoupled_weight_decay": decoupled_weight_decay}, options)

    @staticmethod
    def scalars(h: Any) -> None:
        # m̂ / (√v̂ + eps) = gain · m / (√v + eps'), with eps' = eps √(1-β2^t) and gain = √(1-β2^t) / (1-β1^t)
        h.bias2 = 1 - h.beta2**h.step
        root = 1 if h.amsgrad in ("paper", "debiased") else h.bias2**0.5
        h.gain = 1 if h.amsgrad == "paper" else root / (1 - h.beta1**h.step)
        h.eps = h.eps * root

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        m = s.exp_avg.lerp_(g, 1 - h.beta1)  # m ← β1 m + (1-β1) g
        v = s.exp_avg_sq.mul_(h.beta2).addcmul_(g, g, value=1 - h.beta2)  # v ← β2 v + (1-β2) g²
        if h.amsgrad:
            v = s.max_exp_avg_sq.clamp_min_(v / h.bias2 if h.amsgrad == "debiased" else v)
        return m / v.sqrt().add_(h.eps)

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        return (*self.buffers, "max_exp_avg_sq") if group["amsgrad"] else self.buffers

    def new_buffer(self, name: str, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
        """As the base, but the maximum starts from the present v: amsgrad may be switched on in a run."""
        if name != "max_exp_avg_sq":
            return super().new_buffer(name, param, state, group)
        largest: Tensor = state["exp_avg_sq"].clone()
        if group["amsgrad"] == "debiased":  # at step 0, v is 0 and needs no correction
            largest /= 1 - group["betas"][1] ** state["step"].to(largest.device, precision(largest.device)).clamp(min=1)
        return largest

    def on_load(self, group: dict[str, Any], saved: Mapping[str, Any], step: int) -> None:
        ours, theirs = (options.get("amsgrad", False) for options in (group, saved))
        if ours and theirs and {True: "torch"}.get(ours, ours) != {True: "torch"}.get(theirs, theirs):
            raise ValueError(
                f"the checkpoint's maxima are of amsgrad={theirs!r}, {type(self).__name__}'s here of {ours!r}; they do "
                "not mix, use the same variant"
            )


class AdamW(Adam):
    """AdamW: Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019, arXiv:1711.05101).

        θ ← (1 - lr λ) θ - lr · m̂ / (√v̂ + eps)      m̂, v̂ as in :class:`Adam`

    λ is multiplied by the current lr, as in torch.optim; the paper multiplies it by the schedule's factor only, so
    λ_paper = lr_base · λ. Checkpoints pass to and from ``torch.optim.AdamW`` in the middle of a run.

    When: the default choice for neural networks.

    State: 8 bytes per parameter (``exp_avg``, ``exp_avg_sq``) and 8 per tensor (``step``); with ``amsgrad`` 12.

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size per update, >= 0, a number or a Tensor of one element. Default 1e-3, torch's.
        betas: decay of the gradient's mean and of its square per step, in [0, 1). Default (0.9, 0.999), the paper's.
        eps: added to the denominator, >= 0. Default 1e-8, the paper's.
        weight_decay: λ >= 0. Default 1e-2, torch's.
        amsgrad: False (default), True or ``"torch"``, ``"paper"``, ``"debiased"``, see :class:`AMSGrad`.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool | str = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True, **options)
