"""Cautious AdamW and Cautious Lion, whose ``cautious`` option is on by default, and Cautious around any optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .adam import AdamW
from .core import Optimizer
from .core.buckets import Bucket, Piece, default_piece, namespace, pieces, sharding
from .core.making import Base
from .core.options import RULES, describe
from .core.rule import needs_count, operands
from .core.scalars import Namespace
from .core.scaled import Scaled, reduce_counts
from .core.tensorlist import TensorList
from .core.transforms import cautious, kept
from .core.wrapper import OptimizerWrapper
from .lion import Lion


class CAdamW(AdamW):
    """C-AdamW: Cautious Optimizers: Improving Training with One Line of Code (Liang et al., 2024, arXiv:2411.16085).

        θ ← (1 - lr λ) θ - lr · s · φ·u,    u = m̂ / (√v̂ + eps),    φ = 1 where u·g > 0, else 0

    AdamW that leaves out the coordinates whose update disagrees with the gradient's sign and scales the rest up by
    s = 1 / max(n/d, 1e-3), n of a tensor's d coordinates being kept. The paper prints three different s; this is the
    one of the authors' code since January 2025 and of timm, ``cautious_scale="xi"`` is the one of its equation 1.
    Weight decay comes first and is neither masked nor scaled, as in the authors' code. The moments are AdamW's: it
    resumes AdamW runs.

    When: wherever AdamW works; try it at AdamW's settings. Leave it off (per group, ``cautious=False``) for embeddings
        with rare rows: coordinates without gradient count as disagreeing, so the few that have one are scaled up.

    State: 8 bytes per parameter (``exp_avg``, ``exp_avg_sq``) and 8 per tensor (``step``).

    Arguments, defaults and errors are :class:`AdamW`'s, but for ``cautious=True``.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = CAdamW(model.parameters(), lr=1e-3)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    presets = {"cautious": True}


class CLion(Lion):
    """C-Lion: Cautious Optimizers: Improving Training with One Line of Code (Liang et al., 2024, arXiv:2411.16085).

        θ ← (1 - lr λ) θ - lr · s · φ·u,    u = sign(β1 m + (1-β1) g),    φ = 1 where u·g > 0, else 0

    :class:`Lion` with the mask and scale of :class:`CAdamW`: s = 1 / max(n/d, 1e-3), n of a tensor's d coordinates
    being kept. The authors' c_lion.py uses ``cautious_scale="xi"``, d/(n+1), which halves the step of a scalar
    parameter.

    When: wherever Lion works. State: 4 bytes per parameter (``exp_avg``) and 8 per tensor (``step``).

    Arguments, defaults and errors are :class:`Lion`'s, but for ``cautious=True``.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = CLion(model.parameters(), lr=1e-4)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    presets = {"cautious": True}


class Cautious(OptimizerWrapper):
    """Cautious Optimizers: Improving Training with One Line of Code (Liang et al., 2024, arXiv:2411.16085).

        θ ← θ_d - s · φ·u,    u = θ_d - A(θ, g),    φ = 1 where u·g > 0, else 0

    Any optimizer A, the base, without the coordinates of its step that disagree with the gradient's sign; the others
    are scaled up by s = 1 / max(n/d, 1e-3), n of a tensor's d coordinates being kept. Around an optimizer of this
    library it switches on the option ``cautious``, and is :class:`CAdamW` around AdamW. Around any other, u is the
    displacement of the parameters by one step: same mask, floor and scale.

    Weight decay is neither masked nor scaled: θ_d = (1 - lr λ) θ where the base decouples it (groups with
    ``decoupled_weight_decay`` or ``weight_decouple``; torch's AdamW, Adafactor and Muon), else θ_d = θ. Where it is
    coupled (those keys being False; torch's other optimizers with ``weight_decay``) the mask compares with g + λθ. Of
    any other base all of the step is compared with g, decay included. What a step moves by less than the precision of
    the parameter counts as disagreeing; the option does not lose it.

    When: wherever the base works, at its settings. A group with ``cautious=False`` is left alone: embeddings with rare
        rows should be, see :class:`CAdamW`. To have Lookahead too, put Cautious inside: ``Lookahead(Cautious(...))``.

    State: none on top of the base's (8 bytes per parameter with AdamW). Around an optimizer of another library a step
        takes a copy of the parameters, in their precision.

    Args:
        params: parameters as in torch.optim (tensors, (name, tensor) pairs, group dicts), or an optimizer that exists.
            A group may have its own ``cautious``, ``cautious_scale`` and ``cautious_floor``, read at every step; one
            of this library that exists is made cautious in all its groups.
        base: what makes the base of the parameters, called as ``base(params, **base_options)``: a class, a
            ``functools.partial``, a function; or a name of :func:`optzoo.optimizers.list_optimizers`. Default None:
            :class:`AdamW`. Not with an optimizer that exists.
        cautious: False switches it off, for a comparison or in a group. Default True.
        cautious_scale: ``"floor"`` (default, the authors' code and timm), ``"xi"`` for s = d/(n+1), None for s = 1.
        cautious_floor: bound of n/d from below for ``"floor"``, in (0, 1]. Default 1e-3, as there.
        **base_options: options of the base, such as ``lr``.

    Raises:
        ValueError: an option out of its range, named with its value; a Cautious around another wrapper.
        TypeError: a base that makes no optimizer, or needs arguments it did not get; base or its options together with
            an optimizer that exists.
        RuntimeError: in ``step``, for a sparse gradient.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = Cautious(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> optimizer = Cautious(torch.optim.NAdam(model.parameters()))  # around one that exists
    """

    default_base = AdamW
    rules = {name: RULES[name] for name in ("cautious", "cautious_scale", "cautious_floor")}

    def __init__(
        self,
        params: ParamsT | torch.optim.Optimizer,
        base: Base | str | None = None,
        *,
        cautious: bool = True,
        cautious_scale: str | None = "floor",
        cautious_floor: float = 1e-3,
        **base_options: Any,
    ) -> None:
        options = dict(cautious=cautious, cautious_scale=cautious_scale, cautious_floor=cautious_floor)
        super().__init__(params, base, base_options, **options)

    def is_native(self, optimizer: torch.optim.Optimizer) -> bool:
        return isinstance(optimizer, Optimizer) and "cautious" in optimizer.defaults

    def check_base(self, optimizer: torch.optim.Optimizer) -> None:
        if isinstance(optimizer, OptimizerWrapper) and not isinstance(optimizer, Cautious):
            outer, inner = type(self).__name__, type(optimizer).__name__
            raise ValueError(
                f"{outer} around {inner} would see {inner}'s steps instead of the optimizer's; put {outer} inside: "
                f"{inner}({outer}(...))"
            )
        super().check_base(optimizer)

    def takes_whole_parameters(self, group: Mapping[str, Any]) -> bool:
        return bool(group["cautious"] and group["cautious_scale"] is not None)

    def explicit(self, optimizer: torch.optim.Optimizer, given: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        """Optimizers of the library have the options in every group: what users have set shows in ``given`` only."""
        if not self.is_native(optimizer):
            return optimizer.param_groups
        groups = [group for group in given if isinstance(group, Mapping)]
        return groups if len(groups) == len(optimizer.param_groups) else [{}] * len(optimizer.param_groups)

    def load_options(self, group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
        """As in the base, but for ``cautious``, as CAdamW: a checkpoint of AdamW does not switch it off."""
        return {**super().load_options(group, saved), "cautious": group["cautious"]}

    def before_step(self, aside: Mapping[Tensor, Mapping[str, Any]]) -> list[_Start]:
        """Copies of the parameters about to move, unless the base masks its steps itself."""
        starts: list[_Start] = []
        for group in [] if self.is_native(self.base_optimizer) else self.param_groups:
            for i, p in enumerate(group["params"] if group["cautious"] else []):
                if p.grad is None or p.numel() == 0:
                    continue
                if p.grad.layout is not torch.strided:
                    raise RuntimeError(
                        f"Cautious takes dense gradients only; that of {describe(group, i)} is {p.grad.layout}. Make "
                        "the layer with sparse=False, or put it in a group with cautious=False"
                    )
                starts.append((group, p, p.grad, p.detach().clone()))
        return starts

    def after_step(self, before: list[_Start]) -> None:
        buckets: dict[Any, Bucket] = {}
        for group, p, grad, start in before:
            key = (id(group), p.device, p.dtype, sharding(p))
            if key not in buckets:
                buckets[key] = Bucket(group, ("start",), sharding(p), None)
            buckets[key].add(p, grad, {"start": start})
        sharded = [scaled for bucket in buckets.values() for scaled in self._mask(bucket)]
        reduce_counts(sharded)
        for scaled in sharded:
            scaled.finish()

    def _mask(self, bucket: Bucket) -> list[Scaled]:
        """Mask and scale the steps of a bucket; sharded ones that need a scale are returned instead."""
        h = self._numbers(bucket.group)
        if h.decays and h.decoupled_weight_decay:  # rounded as the base does it: rounding would else pass for a step
            torch._foreach_mul_([start for _, _, start in bucket.rows], 1 - h.lr * h.weight_decay)
        step = _Displacement()
        scaled = Scaled(bucket, h, self) if needs_count(h, self.recording) else None
        for piece in pieces(bucket, range(len(bucket.rows)), default_piece(bucket.device), pack=True, wrap=True):
            if scaled is None:
                step.whole(piece, h)
                continue
            scaled.add(step, piece, h)
            if piece.complete and not bucket.sharding:
                scaled.finish()
        return [scaled] if scaled is not None and bucket.sharding else []

    def _numbers(self, group: Mapping[str, Any]) -> Any:
        h: Any = namespace(self.rules, [group[name] for name in self.rules])
        decouples = self._decouples(group)
        h.maximize = bool(group.get("maximize"))
        h.weight_decay = group.get("weight_decay") or 0
        h.decays = h.weight_decay != 0 and decouples is not None
        h.decoupled_weight_decay = decouples
        h.lr = group["lr"].reshape(()) if isinstance(group.get("lr"), Tensor) else group.get("lr")
        return h

    def _decouples(self, group: Mapping[str, Any]) -> bool | None:
        """Whether weight decay is θ ← (1 - lr λ) θ; False where it is g ← g + λθ, None where that is unknown."""
        for key in ("decoupled_weight_decay", "weight_decouple"):
            if key in group:
                return bool(group[key])
        if isinstance(self.base_optimizer, _DECOUPLED):
            return True
        return False if isinstance(self.base_optimizer, _COUPLED) else None


_Start: TypeAlias = tuple[dict[str, Any], Tensor, Tensor, Tensor]
"""A group, a parameter of it that is about to move, its gradient, and a copy of it."""

_DECOUPLED = tuple(vars(torch.optim)[name] for name in ("AdamW", "Adafactor", "Muon") if hasattr(torch.optim, name))
_COUPLED = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.ASGD,
)


class _Displacement:
    """The counterpart of :class:`.core.rule.Eager` for steps that are made: φ·u out of where they led."""

    def direction(self, piece: Piece, h: Namespace) -> Any:
        """φ·u: the step where it agrees with the gradient, else 0."""
        start, g = operands(piece.s.start, piece.g, h)
        return cautious(start.sub(piece.p.to(start.dtype)), g)

    def whole(self, piece: Piece, h: Namespace) -> None:
        self._apply(piece, self.direction(piece, h), None)

    def first(self, piece: Piece, h: Namespace) -> tuple[Any, list[Tensor]]:
        u = self.direction(piece, h)
        return u if piece.small else None, kept(u)

    def second(self, piece: Piece, u: Any, scale: list[Tensor] | None, h: Namespace) -> None:
        scales = None if scale is None else TensorList(scale)
        self._apply(piece, self.direction(piece, h) if u is None else u, scales)

    def _apply(self, piece: Piece, u: TensorList, scale: TensorList | None) -> None:
        """θ ← θ_d - s · φ·u, written so that what is masked, and where s = 1 what is kept, keeps its bits."""
        theta = piece.p.to(u.dtype)
        if scale is not None:
            theta = theta.sub(u.mul(scale.add(-1)))
        columns = zip(u.tensors, theta.tensors, piece.s.start.to(u.dtype).tensors, strict=True)
        piece.p.copy_(TensorList(torch.where(step != 0, kept, start) for step, kept, start in columns))
