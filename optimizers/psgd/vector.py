"""Preconditioners of a whole group: its parameters, one after the other, are one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.buckets import Bucket
from ..core.options import DECAY, FRACTION, NON_NEGATIVE, POSITIVE, Rule, optional
from ..core.rule import operands, working_dtype
from ..core.scalars import precise
from .kron import damped, first_scale
from .newton import Newton, positions, refuse_sharded
from .noise import Noise
from .norms import TINY
from .schedule import updates_at


class Pair(NamedTuple):
    """What an update of the preconditioner is made of."""

    v: Tensor
    h: Tensor
    """Hv, or what is to be whitened, with its damping."""
    fits: Tensor
    """False where there is nothing to learn: gradients that are not finite, or whitening of zeros."""


class Block:
    """The parameters of one group that have a gradient, in the group's order."""

    def __init__(self, buckets: Sequence[Bucket], position: Mapping[Tensor, int]) -> None:
        members = [(position[p], bucket, i) for bucket in buckets for i, p in enumerate(bucket.params)]
        members.sort(key=lambda member: member[0])
        self.group: dict[str, Any] = buckets[0].group
        self.indices = [index for index, _, _ in members]
        self.buckets = [bucket for _, bucket, _ in members]
        self.rows = [i for _, _, i in members]
        self.operands = [
            dict(zip(("p", "g", *bucket.buffers), bucket.rows[i], strict=True)) for _, bucket, i in members
        ]
        self.sizes = [own["p"].numel() for own in self.operands]
        self.counts = [int(bucket.count or 0) for bucket in self.buckets]

    @property
    def clock(self) -> int:
        """The step of the group: that of its member with the most."""
        return max(self.counts)

    @property
    def device(self) -> torch.device:
        return self.operands[0]["p"].device

    def vector(self, name: str) -> Tensor:
        """An operand of all members, in the widest of their working precisions."""
        return torch.cat([own[name].reshape(-1).to(working_dtype(own[name].dtype)) for own in self.operands])

    def matrix(self, name: str) -> Tensor:
        """A buffer that has one more dimension than its parameter."""
        return torch.cat([own[name].reshape(-1, own[name].shape[-1]) for own in self.operands])

    def store(self, name: str, value: Tensor) -> None:
        """Bring a buffer of all members up to date."""
        for own, part in zip(self.operands, torch.split(value, self.sizes), strict=True):
            own[name].copy_(part.view(own[name].shape))

    def followed(self, p: str = "p", g: str = "g") -> Tensor:
        """The gradient that is followed; of v and Hv the product with its derivative."""
        parts = [operands(own[p], own[g], b.h)[1] for own, b in zip(self.operands, self.buckets, strict=True)]
        return torch.cat([part.reshape(-1) for part in parts])

    def noise(self, like: Tensor) -> Tensor:
        """ν ~ N(0, I), of each parameter from its own index and step."""
        seed = self.group["seed"]
        return torch.cat(
            [
                Noise.at(seed, [index], count).normal(1, size, like=like)[0]
                for index, count, size in zip(self.indices, self.counts, self.sizes, strict=True)
            ]
        )

    def hand_out(self, u: Tensor) -> None:
        """Make its part of the direction each parameter's only operand."""
        parts = torch.split(u, self.sizes)
        made = [
            t.view(own["p"].shape).to(working_dtype(own["p"].dtype))
            for t, own in zip(parts, self.operands, strict=True)
        ]
        for bucket in {id(bucket): bucket for bucket in self.buckets}.values():  # members are in the order of its rows
            bucket.hand_out(direction=[t for t, its in zip(made, self.buckets, strict=True) if its is bucket])


class VectorPSGD(Newton):
    """Base of PSGD over vectors; a subclass keeps a preconditioner in its buffers and writes ``preconditioned``."""

    recoverable = frozenset({"exp_avg"})
    rules = {
        **Newton.rules,
        "momentum": DECAY,
        "lr_preconditioner": POSITIVE,
        "precond_update_probability": Rule(
            lambda x: x is None or callable(x) or FRACTION.holds(x),
            "None, a number in (0, 1] or a function of the step",
        ),
        "beta_L": DECAY,
        "damping": NON_NEGATIVE,
        "init_scale": optional(POSITIVE),
        "grad_clip_max_norm": optional(POSITIVE),
        "seed": Rule(lambda x: type(x) is int, "an integer"),
    }

    def preconditioned(self, block: Block, x: Tensor, pair: Pair | None) -> Tensor:
        """P x, once the preconditioner has been updated with ``pair``, if this is a step to update it."""
        raise NotImplementedError("a preconditioner of vectors defines preconditioned(block, x, pair)")

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        return s.direction

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        """Find the direction of every group."""
        position = positions(self.param_groups)
        for group in self.param_groups:
            own = [bucket for bucket in buckets if bucket.group is group]
            if own:
                self._direct(Block(own, position))

    def _direct(self, block: Block) -> None:
        g = block.followed()
        if g.numel() == 0:
            return block.hand_out(g)
        finite = g.isfinite().all()
        x = _averaged(block, g, finite) if block.group["momentum"] else g
        u = self.preconditioned(block, x, self._pair(block, g, x, finite))
        for bucket in block.buckets:
            if bucket.h.decays and bucket.h.decoupled_weight_decay:
                bucket.h.weight_decay = precise(finite) * block.group["weight_decay"]
        return block.hand_out(_clipped(u, block.group).where(finite, 0.0))

    def _pair(self, block: Block, g: Tensor, m: Tensor, finite: Tensor) -> Pair | None:
        group = block.group
        if group["hessian"] is not None:
            if "product" not in block.operands[0]:
                return None
            v, h = block.vector("vector"), block.followed("vector", "product")
            return Pair(v, damped(h, group["damping"], block.noise(h)), finite & h.isfinite().all())
        if not updates_at(block.clock, group["precond_update_probability"]):
            return None
        w = g if group["whiten"] == "grad" else m
        v = block.noise(w)
        return Pair(v, damped(w, group["damping"], v), finite & w.any())

    def coming_steps(self, group: Mapping[str, Any]) -> list[int]:
        """All parameters of a group are probed together."""
        steps = super().coming_steps(group)
        return [max(steps, default=1)] * len(steps)

    def start(self, block: Block, pair: Pair) -> Tensor:
        """What Q = I is scaled by before its first update, where init_scale is None; else, and later, 1."""
        one = pair.h.new_ones(())
        if block.group["init_scale"] is not None:
            return one
        scale = first_scale(pair.h[None], pair.v[None], block.group["damping"])[0]
        return scale.where(self.bounds(block.group, self.scalar_buffers[-1]) == 0, one)

    # State

    def takes_whole_parameters(self, group: Mapping[str, Any]) -> bool:
        return False  # a piece is refused

    def make_state(self, params: Sequence[tuple[Mapping[str, Any], Tensor]]) -> None:
        name = type(self).__name__
        refuse_sharded(name, [p for _, p in params])
        for group in self.param_groups:
            devices = sorted({str(p.device) for p in group["params"]})
            if len(devices) > 1:
                raise ValueError(f"{name}: a group is on {' and '.join(devices)}; give each device a group of its own")
        super().make_state(params)

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        return (*self.buffers, "exp_avg") if group["momentum"] else self.buffers

    def bounds(self, group: Mapping[str, Any], name: str) -> Tensor:
        """L, which all parameters of the group know; 0 is what those know that join."""
        return torch.stack([self.state[p][name] for p in group["params"] if self.has_state(p)]).amax()

    def store_bound(self, group: Mapping[str, Any], name: str, value: Tensor) -> None:
        """Tell all parameters of the group a new L, also those without a gradient in this step."""
        for p in group["params"]:
            if self.has_state(p):
                self.state[p][name].copy_(value)


def group_size(group: Mapping[str, Any]) -> int:
    """Real numbers in all parameters of a group."""
    return sum(map(real_numel, group["params"]))


def real_numel(param: Tensor) -> int:
    return param.numel() * (2 if param.is_complex() else 1)


def bounded(L: Tensor, seen: Tensor, beta: float) -> Tensor:
    """max(β L + (1-β) ℓ, ℓ): what the curvature is believed to be at most."""
    return torch.maximum(beta * L + (1 - beta) * seen, seen)


def _averaged(block: Block, g: Tensor, finite: Tensor) -> Tensor:
    """The mean of the gradients at first, then their exponential average; as it was where g is not finite."""
    momentum = block.group["momentum"]
    for own, count, part in zip(block.operands, block.counts, torch.split(g, block.sizes), strict=True):
        m = own["exp_avg"]
        beta = min((count - 1) / count, momentum)
        m.copy_(m.lerp(part.view(m.shape).to(m.dtype), 1 - beta).where(finite, m))
    return block.vector("exp_avg")


def _clipped(u: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Of Newton's direction the norm, of a whitened one the root mean square and then the entries."""
    if group["hessian"] is not None:
        longest = group["grad_clip_max_norm"]
        return u if longest is None else u * _at_most_1(longest / (u.norm() + TINY))
    if group["clip"] is None:
        return u
    rms, largest = group["clip"]
    return (u * _at_most_1(rms / (u.square().mean().sqrt() + TINY))).clamp(-largest, largest)


def _at_most_1(factor: Tensor) -> Tensor:
    return factor.clamp(max=1.0)
