"""Lookahead: every k steps of any optimizer, go back part of the way."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optzoo.unwrapping import unwrapped

from .adam import AdamW
from .core.buckets import cut, default_piece, local
from .core.evaluation import EvaluationWeights
from .core.making import Base
from .core.options import FRACTION, Rule, one_of
from .core.rule import working_dtype
from .core.wrapper import OptimizerWrapper

_Beginning: TypeAlias = "tuple[Mapping[str, Any], Tensor, Tensor]"
"""A group, a parameter of it that is about to make its first step, and its slow weights."""


def _is_whole(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


class Lookahead(EvaluationWeights, OptimizerWrapper):
    """Lookahead Optimizer: k steps forward, 1 step back (Zhang, Lucas, Hinton & Ba, 2019, arXiv:1907.08610).

        every step:       θ ← A(θ, g)                       A: any optimizer, the base
        every k-th step:  φ ← φ + α (θ - φ),    θ ← φ       φ: the slow weights, θ before the first step

    Slow weights start where a parameter is right before its first step, so weights may be loaded, moved or sharded
    after construction; those of bfloat16 and float16 parameters are float32. At a sync all parameters of a group take
    part that had a gradient since the last one. The others, and those that have been frozen since (``requires_grad`` is
    False and there is no gradient), stay where they are, and φ joins them. With ``alpha=1`` it is the base, bit for
    bit.

    Call :meth:`reset` when weights are loaded or made anew in the middle of a run: the next sync would else pull them
    back towards slow weights that belong to the old ones. Lookahead cannot tell a loaded weight from one that is
    clipped, swapped or perturbed between steps.

    When: noisy gradients or a large lr, around an optimizer that works: on a noisy quadratic with SGD at lr · curvature
        0.1 the variance that remains is 0.44 of the base's. Evaluate with :meth:`evaluation_weights`.

    State: 4 bytes per parameter (``lookahead_slow``, float32) on top of the base's (12 bytes per parameter with AdamW);
        ``"pullback"`` 4 more per momentum buffer. The count of steps since the last sync is ``lookahead_step`` of the
        groups.

    Args:
        params: parameters as in torch.optim (tensors, (name, tensor) pairs, group dicts), or an optimizer that exists.
            A group may have its own ``lookahead_k``, ``lookahead_alpha``, ...; all are read at every step.
        base: what makes the base of the parameters, called as ``base(params, **base_options)``: a class, a
            ``functools.partial``, a function; or a name of :func:`optzoo.optimizers.list_optimizers`. Default None:
            :class:`AdamW`. Not with an optimizer that exists.
        k: steps between syncs, an integer >= 1. Default 5, the paper's.
        alpha: α, how far to follow the base at a sync, in (0, 1]. Default 0.5, the paper's for ImageNet and that of
            most libraries; the authors' class has 0.8.
        pullback_momentum: what becomes of the base's momentum at a sync. ``"none"`` (default, the authors'): nothing;
            ``"reset"``: zero; ``"pullback"``: it goes back as the parameters do, b ← b_slow ← b_slow + α (b - b_slow)
            with b_slow = 0 at first. (In the authors' code b_slow is b itself from the first sync on, and a sync is
            b ← α (2 - α) b: with SGD's momentum 0.9, k = 5 and a constant gradient b is 0.45 less than here.)
        momentum_keys: names of the state that is momentum, where it has the parameter's shape. Default
            ``("momentum_buffer", "exp_avg")``, torch's.
        **base_options: options of the base, such as ``lr``.

    Raises:
        ValueError: an option out of its range, named with its value; a Lookahead around a Lookahead.
        TypeError: a base that makes no optimizer, or needs arguments it did not get; base or its options together with
            an optimizer that exists.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([8.0]))
    >>> optimizer = Lookahead([w], torch.optim.SGD, lr=1.0, k=2)
    >>> for _ in range(4):
    ...     w.grad = torch.ones(1)
    ...     optimizer.step()
    ...     print(w.item())
    7.0
    7.0
    6.0
    6.0
    >>> optimizer = Lookahead(torch.optim.RMSprop([w], lr=1e-3), k=10)  # around one that exists
    """

    evaluate_on = "slow_weights"
    default_base = AdamW
    prefix = "lookahead_"
    counters = frozenset({"lookahead_step"})
    rules = {
        "k": Rule(lambda x: _is_whole(x) and x >= 1, "an integer >= 1"),
        "alpha": FRACTION,
        "pullback_momentum": one_of("none", "reset", "pullback"),
        "momentum_keys": Rule(
            lambda x: isinstance(x, tuple) and len(x) > 0 and all(isinstance(key, str) for key in x),
            "a tuple of one or more names of state tensors",
        ),
        "step": Rule(lambda x: _is_whole(x) and x >= 0, "an integer >= 0"),
    }

    def __init__(
        self,
        params: ParamsT | torch.optim.Optimizer,
        base: Base | str | None = None,
        k: int = 5,
        alpha: float = 0.5,
        *,
        pullback_momentum: str = "none",
        momentum_keys: tuple[str, ...] = ("momentum_buffer", "exp_avg"),
        **base_options: Any,
    ) -> None:
        options = dict(k=k, alpha=alpha, pullback_momentum=pullback_momentum, momentum_keys=momentum_keys, step=0)
        super().__init__(params, base, base_options, **options)

    _idle: set[Tensor] | None = None
    """What has had no gradient since the last sync; None where that is not known, before the first and in copies."""

    # The step

    def before_step(self, aside: Mapping[Tensor, Mapping[str, Any]]) -> list[_Beginning]:
        """The slow weights to begin with. They are no state yet: the base would not make its own beside them."""
        if self._idle:
            self._idle = {p for p in self._idle if p.grad is None}
        return [
            (group, p, _start(p))
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and "lookahead_slow" not in aside.get(p, self.state.get(p, {}))
        ]

    def after_step(self, before: list[_Beginning]) -> None:
        for group, p, slow in before:
            self._begin(group, p, slow)
        self._warn_of_reset(before)
        for group in self.param_groups:
            group["lookahead_step"] += 1
            if group["lookahead_step"] >= group["lookahead_k"]:
                self._sync(group)

    @torch.no_grad()
    def sync_now(self) -> None:
        """Sync all groups now and count the k steps from here: before the weights are used for something else."""
        self.check("sync_now()")
        for group in self.param_groups:
            self._sync(group)

    @torch.no_grad()
    def reset(self) -> None:
        """Start anew from the parameters as they are, as if a sync had just ended there: when they have been loaded.

        The slow weights become the parameters, with ``"pullback"`` the slow momentum the base's momentum, and the k
        steps count from here. The base keeps its state; DoG's has a ``reset()`` of its own.
        """
        self.check("reset()")
        for group in self.param_groups:
            for fast, slow in self._pairs(group["params"], group):
                slow.copy_(fast)
            self._end_cycle(group)

    def _end_cycle(self, group: dict[str, Any]) -> None:
        group["lookahead_step"] = 0
        known = {p for each in self.param_groups for p in each["params"]}  # frameworks may replace parameters
        self._idle = (known & (self._idle or set())).union(group["params"])

    def _rests(self, p: Tensor) -> bool:
        """Whether nothing has moved ``p`` since the last sync, or nothing is to move it any more."""
        return (self._idle is not None and p in self._idle) or (p.grad is None and not p.requires_grad)

    def _sync(self, group: dict[str, Any]) -> None:
        alpha, together = group["lookahead_alpha"], []
        resting = {p for p in group["params"] if self._rests(p)}
        for fast, slow in self._pairs(resting, group):  # where nothing was written to ``fast``, as in any other sync
            slow.copy_(torch.where(slow.to(fast.dtype) == fast, slow.lerp(fast.to(slow.dtype), alpha), fast))
        moving = [p for p in group["params"] if p not in resting]
        for pair in self._pairs(moving, group):
            size = int(default_piece(pair[0].device))
            parts = (pair[0].numel() > size and cut(pair, size)) or [pair]
            if len(parts) == 1 and pair[0].dtype == pair[1].dtype:
                together.append(pair)
                continue
            for fast, slow in parts:  # small enough for ``slow`` to be in the cache still when it is copied
                slow.lerp_(fast.to(slow.dtype), alpha)
                fast.copy_(slow)
        if together:
            all_fast, all_slow = map(list, zip(*together, strict=True))
            torch._foreach_lerp_(all_slow, all_fast, alpha)
            torch._foreach_copy_(all_fast, all_slow)
        if group["lookahead_pullback_momentum"] == "reset":
            for p in moving:
                for _, buffer in self._momenta(group, p):
                    buffer.zero_()
        self._end_cycle(group)

    def _pairs(self, params: Iterable[Tensor], group: Mapping[str, Any]) -> Iterator[tuple[Tensor, ...]]:
        """What a sync brings together of some parameters: fast and slow tensors, as plain real ones."""
        for p in params:
            state = self.state.get(p, {})
            if "lookahead_slow" not in state:
                continue
            yield local((p, state["lookahead_slow"]))
            if group["lookahead_pullback_momentum"] == "pullback":
                for key, buffer in self._momenta(group, p):
                    yield local((buffer, self._slow_momentum(p, key, buffer)))

    def _momenta(self, group: Mapping[str, Any], p: Tensor) -> list[tuple[str, Tensor]]:
        state = self.state.get(p, {})
        found = [(key, state.get(key)) for key in group["lookahead_momentum_keys"]]
        return [(key, buffer) for key, buffer in found if isinstance(buffer, Tensor) and buffer.shape == p.shape]

    # State

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in :class:`~optzoo.optimizers.core.wrapper.OptimizerWrapper`."""
        super().load_state_dict(state_dict)
        self._idle = None  # of another cycle

    def _begin(self, group: Mapping[str, Any], p: Tensor, slow: Tensor) -> None:
        """All state of a parameter at once: distributed checkpoints lose what comes later."""
        self.state[p]["lookahead_slow"] = slow
        if group["lookahead_pullback_momentum"] == "pullback":
            for key, buffer in self._momenta(group, p):
                self._slow_momentum(p, key, buffer)

    def _slow_momentum(self, p: Tensor, key: str, buffer: Tensor) -> Tensor:
        """Made where it is missing: the option may be switched on in a run."""
        name = f"lookahead_slow_{key}"
        if name not in self.state[p]:
            self.state[p][name] = torch.zeros_like(buffer, dtype=working_dtype(buffer.dtype))
        slow: Tensor = self.state[p][name]
        return slow

    def init_state(self) -> None:
        """Make the state of every trainable parameter now, without a step: call it before a distributed checkpoint of
        a fresh optimizer is read or loaded, and at no other time, for slow weights start where the parameters are now.

        Raises:
            TypeError: the base has no ``init_state``; those of torch make their state at their first step only.
        """
        super().init_state()
        for group in self.param_groups:
            for p in group["params"]:
                if self.state.get(p) and "lookahead_slow" not in self.state[p]:
                    self._begin(group, p, _start(p))

    def _warn_of_reset(self, begun: list[_Beginning]) -> None:
        if any(
            group["lookahead_pullback_momentum"] == "reset"
            and "exp_avg_sq" in self.state[p]
            and "exp_avg" in dict(self._momenta(group, p))
            for group, p, _ in begun
        ):
            warnings.warn(
                f"pullback_momentum='reset' zeroes exp_avg of {type(self.base_optimizer).__name__}, whose bias "
                "correction goes on counting: steps after a sync are short. 'none' and 'pullback' are not so",
                stacklevel=2,
            )

    # Evaluation

    def evaluated(self) -> Iterator[tuple[Tensor, Tensor]]:
        for group in self.param_groups:
            for p in group["params"]:
                if "lookahead_slow" in self.state.get(p, {}):
                    yield p, self.state[p]["lookahead_slow"].to(p.dtype)

    def slow_weights(self) -> AbstractContextManager[None]:
        """The older name of ``evaluation_weights()``: the slow weights are in the parameters for a while.

        On leaving, all is as before bit for bit. Parameters and slow weights are exchanged tensor by tensor; only
        parameters in bfloat16 and float16 are copied. Within, the optimizer does not step, sync, save or load.
        """
        return self.evaluation_weights()


def slow_weights(optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
    """:meth:`Lookahead.slow_weights` of what a framework made of an optimizer: ``with slow_weights(prepared): ...``.

    For what ``accelerator.prepare(lookahead)``, Lightning's ``self.optimizers()`` and ``fabric.setup`` return, which do
    not hand the method on; a :class:`Lookahead` itself does too.

    Raises:
        TypeError: there is no Lookahead in it.

    >>> w = torch.nn.Parameter(torch.tensor([8.0]))
    >>> optimizer = Lookahead([w], torch.optim.SGD, lr=1.0, k=2)
    >>> w.grad = torch.ones(1)
    >>> optimizer.step()
    >>> with slow_weights(optimizer):
    ...     w.item()
    8.0
    """
    inner = unwrapped(optimizer)
    if not isinstance(inner, Lookahead):
        raise TypeError(
            f"slow_weights takes a Lookahead, as it is or prepared by a framework; got {type(inner).__name__}"
        )
    return inner.slow_weights()


def _start(p: Tensor) -> Tensor:
    """Slow weights that are the parameter as it is."""
    return p.detach().to(working_dtype(p.dtype), copy=True)
