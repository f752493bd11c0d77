"""Schedule-Free AdamW and SGD: gradients are taken between a fast iterate and the average of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .core import Optimizer, Options, checkpoints
from .core.buckets import Bucket
from .core.evaluation import EvaluationWeights, exchange
from .core.options import DECAY, NON_NEGATIVE, Rule, arguments, betas
from .core.rule import working_dtype
from .core.scalars import maximum, minimum, precision

TRAINED = "trained_weights"
"""Key of the state that has y while the parameter holds x."""
_RULES = dict.fromkeys(("warmup_steps", "r", "weight_lr_power"), NON_NEGATIVE)
_POSITIVE = "β1 not 0, as x = (y - (1-β1) z) / β1"


class _ScheduleFree(EvaluationWeights, Optimizer):
    """What both share: y ← (1-c) y + c z - η (1 - β1 (1-c)) d,  z ← z - η d, which are the papers' lines put together.

    y is the parameter; of one in bfloat16 or float16 the state has y too, in float32: the average moves by less than
    their precision before long.
    """

    own_schedule = True
    buffers: ClassVar[tuple[str, ...]] = ("z",)
    optional_buffers = recoverable = frozenset({"y"})
    scalar_buffers = ("lr_max", "weight_sum")
    _way_out = "leave the with block, or call train(), first"

    @staticmethod
    def interpolation(group: Mapping[str, Any]) -> float:
        """β1"""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """As in the base; RuntimeError where the parameters hold the weights to evaluate."""
        self.check("step()")
        return super().step(closure)

    def numbers(self, bucket: Bucket) -> Any:
        """η = lr · min(1, t/T_w),  w = t^r · (max η)^power,  Σw ← Σw + w,  c = w/Σw."""
        h = super().numbers(bucket)
        on_host = bucket.count is not None and not isinstance(h.lr, Tensor)
        home = torch.device("cpu") if on_host else bucket.device
        lr = h.lr.to(home) if isinstance(h.lr, Tensor) else h.lr
        h.size = lr * (minimum(h.step / h.warmup_steps, 1.0) if h.warmup_steps else 1.0)
        h.lr = 1.0  # y moves by more than lr times a direction
        lr_max, total = self._scalars_of(bucket.states, home)
        lr_max.copy_(maximum(lr_max, h.size))
        weight = h.step**h.r * lr_max**h.weight_lr_power
        total += weight
        c = weight / maximum(total, torch.finfo(total.dtype).tiny)  # nothing counts before the first lr > 0
        for name, values in zip(self.scalar_buffers, (lr_max, total), strict=True):
            torch._foreach_copy_([state[name] for state in bucket.states], list(values.unbind()))
        known = c.tolist() if on_host else []
        h.c = known[0] if len(set(known)) == 1 else c.to(bucket.device)
        h.reach = h.size * (1 - self.interpolation(bucket.group) * (1 - h.c))
        coupled = not h.decoupled_weight_decay
        h.decays, h.decays_y = h.decays and coupled, h.decays and not coupled
        dtype = bucket.rows[0][0].dtype
        h.low = None if working_dtype(dtype) == dtype else dtype
        return h

    def _scalars_of(self, states: Sequence[Any], home: torch.device) -> list[Tensor]:
        """lr_max and Σw of these parameters, kept where step counts are; with an lr that is a tensor, on the device."""
        for state in states:
            for name in self.scalar_buffers:
                if state[name].device != home:  # as loading leaves it
                    state[name] = state[name].to(home)
        return [torch.stack([state[name] for state in states]) for name in self.scalar_buffers]

    # State

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        return self.buffers if working_dtype(param.dtype) == param.dtype else (*self.buffers, "y")

    def buffer_kind(self, name: str, param: Tensor, group: Mapping[str, Any]) -> tuple[Sequence[int], torch.dtype]:
        shape, dtype = super().buffer_kind(name, param, group)
        return shape, precision(param.device) if name in self.scalar_buffers else dtype

    def new_buffer(self, name: str, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
        if name in self.scalar_buffers:
            return checkpoints.count(0, param, group)
        buffer = super().new_buffer(name, param, state, group)
        return buffer.copy_(param) if name in ("y", "z") else buffer

    def reset(self) -> None:
        """Start anew from the parameters as they are, x, y and z alike: when they have been loaded in the middle."""
        self.check("reset()")
        for p in [p for group in self.param_groups for p in group["params"] if self.has_state(p)]:
            for name in ("step", *self.buffers, "y", *self.scalar_buffers):  # not what others keep there
                self.state[p].pop(name, None)

    # Evaluation

    def evaluated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """x = (y - (1-β1) z) / β1"""
        for group in self.param_groups:
            for p in [p for p in group["params"] if self.has_state(p)]:
                state = self.state[p]
                y = _unrounded(p.detach(), state["y"], p.dtype) if "y" in state else p.detach()
                yield p, y.add(y - state["z"], alpha=1 / self.interpolation(group) - 1).to(p.dtype)

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Within the block the parameters are x, after it y, bit for bit. Raises RuntimeError after :meth:`eval`."""
        self.check("evaluation_weights()")
        try:
            self.eval()
            yield
        finally:
            self.train()

    @torch.inference_mode(False)
    @torch.no_grad()
    def eval(self) -> None:
        """Put x into the parameters until :meth:`train`; y is kept in the state, and in checkpoints, meanwhile."""
        if self.is_evaluating:
            return
        self._mark(True)
        for p, x in self.evaluated():
            exchange(p, x)
            self.state[p][TRAINED] = x

    @torch.inference_mode(False)
    @torch.no_grad()
    def train(self) -> None:
        """Put y back into the parameters, bit for bit."""
        for p, state in self.state.items():
            if isinstance(state, dict) and TRAINED in state:
                exchange(p, state.pop(TRAINED))
        self._mark(False)


def _unrounded(p: Any, y: Any, low: torch.dtype) -> Any:
    """The float32 y of a parameter that is its rounding; where something else has been written there, the parameter."""
    return torch.where(y.to(low) == p.to(low), y, p.to(y.dtype))


def _descend(p: Any, d: Any, s: Any, h: Any) -> Any:
    """z ← z - η d; returns by how much y moves."""
    y = p if h.low is None else _unrounded(p, s.y, h.low)
    if h.decays_y:
        d = d.add(y, alpha=h.weight_decay)
    u = (y - s.z).mul_(h.c).add_(d, alpha=h.reach)
    s.z.sub_(d, alpha=h.size)
    if h.low is None:
        return u
    s.y.copy_(y - u)
    return p - s.y


class ScheduleFreeAdamW(_ScheduleFree):
    """The Road Less Scheduled (Defazio et al., 2024, arXiv:2405.15682): AdamW without a schedule, on an average.

        θ ← y = (1-β1) z + β1 x,    g at y,    v ← β2 v + (1-β2) g²,    d = g / (√(v / (1-β2^t)) + eps) + λ y
        z ← z - η d,    x ← (1-c) x + c z      η = lr · min(1, t/T_w),    c = w / Σw,    w = t^r (max η)^power

    The parameter is y, where gradients are taken; z is state, and x, the weights to evaluate, follows from both. Put x
    into the model to validate, to test and to save it for use: ``with optimizer.evaluation_weights(): ...``, or
    ``eval()`` before and ``train()`` after, as schedulefree has it. A step in between raises.

    The variant is that of schedulefree 1.4.1, with 1-β2^t inside the root; earlier releases had lr √(1-β2^t) in η and
    in w, which is another trajectory. t, Σw and max η are of each parameter: one that is unfrozen later begins at its
    own x. β1 stays what it is for a run: x is worked out with the present one. With ``cautious`` or ``grams`` it is the
    movement of y that they change. Call :meth:`reset` when weights are loaded in the middle of a run: z is of the old
    ones. Batch norm's statistics are those of y: compute them again for x before evaluating, by
    ``torch.optim.swa_utils.update_bn(batches, model)`` inside the block.

    When: instead of a decaying schedule, or where a run has no known end; with some warm-up, and an lr up to ten times
        that of a scheduled run. An lr scheduler on top works as the formula says: lr is read at every step, w goes by
        the largest there was, so steps of a decayed lr count as much as any. It is not needed.

    State: 8 bytes per parameter (``z``, ``exp_avg_sq``), 4 more where it is bfloat16 or float16 (``y``), and 24 per
        tensor (``step``, ``lr_max``, ``weight_sum``). After ``eval()`` y is there too, as ``trained_weights``, and in
        a ``state_dict``: what loads it is in evaluation mode, and ``train()`` puts y back, whatever the model's
        file held. (A distributed checkpoint made so is for an optimizer that is in that mode as well.)

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size of z, >= 0, a number or a Tensor of one element. Default 2.5e-3, the authors' code's.
        betas: β1, how near to x gradients are taken, in (0, 1), and the decay of the gradient's square per step, in
            [0, 1). Default (0.9, 0.999), the paper's; it finds 0.95 to 0.98 better in long runs.
        eps: added to the denominator, >= 0. Default 1e-8, the paper's.
        weight_decay: λ >= 0, decay at y. Default 0.
        warmup_steps: T_w >= 0, steps in which η grows to lr. Default 0; the paper has 5 % or so of a run.
        r: >= 0; larger forgets early iterates sooner. Default 0, the authors' code's.
        weight_lr_power: power of the largest η in w, >= 0. Default 2, the paper's.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0]))
    >>> optimizer = ScheduleFreeAdamW([w], lr=0.1, warmup_steps=10)
    >>> for _ in range(400):
    ...     w.grad = w.detach() - 1  # of (w - 1)²/2
    ...     optimizer.step()
    >>> with optimizer.evaluation_weights():
    ...     round(w.item(), 2)
    1.0
    """

    buffers = ("z", "exp_avg_sq")
    rules = {**_RULES, "betas": Rule(lambda x: betas(2).holds(x) and x[0] > 0, f"2 numbers in [0, 1), {_POSITIVE}")}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), options)

    @staticmethod
    def interpolation(group: Mapping[str, Any]) -> float:
        beta1: float = group["betas"][0]
        return beta1

    @staticmethod
    def scalars(h: Any) -> None:
        h.root = (1 - h.beta2**h.step) ** 0.5

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        v = s.exp_avg_sq.mul_(h.beta2).addcmul_(g, g, value=1 - h.beta2)
        return _descend(p, g / v.sqrt().div_(h.root).add_(h.eps), s, h)


class ScheduleFreeSGD(_ScheduleFree):
    """The Road Less Scheduled (Defazio et al., 2024, arXiv:2405.15682): SGD without a schedule, on an average.

        θ ← y = (1-β1) z + β1 x,    g at y,    d = g + λ y
        z ← z - η d,    x ← (1-c) x + c z      η = lr · min(1, t/T_w),    c = w / Σw,    w = t^r (max η)^power

    All that :class:`ScheduleFreeAdamW` says of y, x, modes and checkpoints holds here.

    When: where SGD with momentum works, without its schedule; with some warm-up, and an lr of ten times and more that
        of a scheduled run.

    State: 4 bytes per parameter (``z``), 4 more where it is bfloat16 or float16 (``y``), and 24 per tensor (``step``,
        ``lr_max``, ``weight_sum``).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: step size of z, >= 0, a number or a Tensor of one element. Default 1.0, the authors' code's.
        momentum: β1, how near to x gradients are taken, in (0, 1). Default 0.9, the paper's.
        weight_decay: λ >= 0, decay at y. Default 0.
        warmup_steps: T_w >= 0, steps in which η grows to lr. Default 0; the paper has 5 % or so of a run.
        r: >= 0; larger forgets early iterates sooner. Default 0, the authors' code's.
        weight_lr_power: power of the largest η in w, >= 0. Default 2, the paper's.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0]))
    >>> optimizer = ScheduleFreeSGD([w], lr=1.0)
    >>> for _ in range(400):
    ...     w.grad = w.detach() - 1  # of (w - 1)²/2
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> round(w.item(), 2)
    1.0
    >>> optimizer.train()
    """

    rules = {**_RULES, "momentum": Rule(lambda x: DECAY.holds(x) and x > 0, f"a number in [0, 1), {_POSITIVE}")}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: float = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, arguments(locals()), options)

    @staticmethod
    def interpolation(group: Mapping[str, Any]) -> float:
        momentum: float = group["momentum"]
        return momentum

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        return _descend(p, g, s, h)
