"""What PSGD and its Newton form share: factors as state, when and how they are fitted, and the direction P(m)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import rule
from ..core.buckets import Bucket, real_shape
from ..core.eager import eager
from ..core.fused import SMALLEST
from ..core.options import DECAY, FRACTION, NON_NEGATIVE, POSITIVE, Rule, one_of, optional
from ..core.reports import Reported
from ..core.scalars import precise
from ..matrices import MatrixOptimizer
from . import fused, kron
from .batch import KronBatch, factor_dtype
from .factors import layout, squared
from .geometries import GEOMETRIES
from .noise import seeds
from .norms import NORMS, largest
from .schedule import updates_at, updates_until

BALANCED_EVERY = 100
"""Updates between balancings of the factors, which change nothing but keep their entries of one size."""


class KronOptimizer(MatrixOptimizer):
    """θ ← θ - lr P(m) with P = QᵀQ, Q = Q_1 ⊗ ... ⊗ Q_d; a subclass says what the factors are fitted to."""

    vector_rule = "diagonal factors"  # a comparison marks it
    batch = KronBatch
    scalar_buffers = ("skipped",)
    optional_buffers = frozenset({"L", "exp_avg", *(f"Q{i}" for i in range(16))})
    recoverable = frozenset(f"P{i}" for i in range(16))  # which are made of Q
    rules = {
        "momentum": DECAY,
        "geometry": one_of(*GEOMETRIES),
        "lr_preconditioner": POSITIVE,
        "precond_update_probability": Rule(
            lambda x: x is None or callable(x) or FRACTION.holds(x),
            "None, a number in (0, 1] or a function of the step",
        ),
        "beta_L": DECAY,
        "damping": NON_NEGATIVE,
        "init_scale": optional(POSITIVE),
        "max_size": POSITIVE,
        "max_skew": Rule(lambda x: NON_NEGATIVE.holds(x) or x == math.inf, "a number >= 0 or infinity"),
        "merge_dims": one_of(None, "spatial", "matrix"),
        "norm": one_of(*NORMS),
        "cache_preconditioner": one_of(None, True, False),
        "precond_dtype": one_of(None, "float64", "float32", "bfloat16"),
        "seed": Rule(lambda x: type(x) is int, "an integer"),
        "clip": optional(
            Rule(
                lambda x: isinstance(x, tuple) and len(x) == 2 and all(map(POSITIVE.holds, x)),
                "2 positive numbers: the largest RMS and the largest entry",
            )
        ),
    }

    def is_matrix(self, group: Mapping[str, Any], param: Tensor) -> bool:
        return not group.get("adamw")

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        if group["capturable"]:
            raise ValueError(
                f"{type(self).__name__}: capturable=True is not possible, whether a step updates the preconditioner is "
                "decided on the host; leave it False"
            )

    # State

    def matrix_buffers(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        axes = range(len(layout(real_shape(param), group).shape))
        cached = tuple(f"P{i}" for i in axes) if caches(group) else ()
        return (*(f"Q{i}" for i in axes), *cached, "L", "exp_avg")

    def buffer_kind(self, name: str, param: Tensor, group: Mapping[str, Any]) -> tuple[Sequence[int], torch.dtype]:
        seen = layout(real_shape(param), group)
        if name == "L":
            return (len(seen.shape),), rule.real_dtype(param.dtype)
        if name[0] in "QP":
            axis = int(name[1:])
            n = seen.shape[axis]
            return ((n, n) if seen.dense[axis] else (n,)), factor_dtype(param, group)
        return super().buffer_kind(name, param, group)

    def new_buffer(self, name: str, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
        """Q = init_scale · I, with the same scale for every axis, and P_i = Q_iᵀQ_i: whole on every rank."""
        if name[0] not in "QPL":
            return super().new_buffer(name, param, state, group)
        (n, *square), dtype = self.buffer_kind(name, param, group)
        if name == "L":
            return torch.zeros(n, dtype=dtype, device=param.device)
        if name[0] == "P":
            return squared(state[f"Q{name[1:]}"][None])[0]
        power = 2 if GEOMETRIES[group["geometry"]].factor_is_p else 1
        scale = (group["init_scale"] or 1.0) ** (power / len(layout(real_shape(param), group).shape))
        ones = torch.full((n,), scale, dtype=dtype, device=param.device)
        return ones.diag() if square else ones

    # The step

    @eager  # branches on the step
    def direct(self, bucket: Bucket, batches: Sequence[range]) -> None:
        """Fit the factors and find the directions."""
        if bucket.size(0) == 0:
            bucket.hand_out(direction=[g for _, g, *_ in bucket.rows])
            return
        position = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        step = host_count(bucket)
        found, finite = zip(
            *[self._direct_batch(self.batch(bucket, rows), step, position) for rows in batches], strict=True
        )
        bucket.hand_out(direction=[u for directions in found for u in directions])
        if bucket.h.decays and bucket.h.decoupled_weight_decay:
            bucket.h.weight_decay = precise(torch.cat(finite).float()) * bucket.h.weight_decay

    def _direct_batch(self, batch: KronBatch, step: int, position: Mapping[Tensor, int]) -> tuple[list[Tensor], Tensor]:
        """The directions, and whose gradients were finite: the others stay."""
        h, cached = batch.bucket.h, caches(batch.bucket.group)
        means = batch.means(step)
        x = batch.seen(means)
        run = fused if batch.bucket.group["fused"] and x.numel() >= SMALLEST else kron
        finite = largest(x).isfinite()

        def update() -> None:
            signal, v = self.signal(batch, x)
            products = batch.stacked("P") if cached else None
            seeded = seeds(h.seed, [position[p] for p in batch.params], step)
            numbers = h.lr_preconditioner, h.beta_L, h.damping
            learned = batch.stacked("Q"), batch.stacked_bounds()
            how = {"geometry": h.geometry, "norm": h.norm, "auto_scale": h.init_scale is None}
            factors, bounds = run.fit(*learned, signal, v, products, seeded, *numbers, **how)
            if updates_until(step, h.precond_update_probability) % BALANCED_EVERY == 0:
                factors = kron.balanced(factors)
            batch.store(factors, bounds)

        due, first = self.is_due(batch.bucket, step), self.updates_first(h)
        if due and first:
            update()
        u = run.direct(batch.stacked("P" if cached else "Q"), x, h.clip, geometry=h.geometry, products=cached)
        if due and not first:
            update()
        return batch.put(u, means, finite), finite

    def is_due(self, bucket: Bucket, step: int) -> bool:
        """Whether this step updates the factors."""
        return updates_at(step, bucket.group["precond_update_probability"])

    def updates_first(self, h: Any) -> bool:
        """Whether it does so before it uses them."""
        first: bool = h.update_first
        return first

    def signal(self, batch: KronBatch, mean: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the factors are fitted to: a gradient and None, or Hv and v. ``mean``: what will be preconditioned."""
        raise NotImplementedError(f"{type(self).__name__} says with signal(batch, mean) what its factors are fitted to")

    def report(self) -> dict[str, Reported]:
        """The norm ‖Q_i‖ of every factor, ``Q0_norm`` and so on."""
        params = [p for group in self.param_groups for p in group["params"] if self.has_state(p)]
        factors = [
            (f"{name}_norm", p, self.state[p][name])
            for p in params
            for name in sorted(self.optional_buffers & self.state[p].keys())
            if name[0] == "Q"
        ]
        norms = torch._foreach_norm([t for _, _, t in factors]) if factors else ()
        report: dict[str, dict[Tensor, float | Tensor]] = {}
        for (name, p, _), norm in zip(factors, norms, strict=True):
            report.setdefault(name, {})[p] = norm
        return {**super().report(), **report}


def host_count(bucket: Bucket) -> int:
    """The number of this step; a compiled step has it on the device."""
    return int(bucket.states[0]["step"].item() if bucket.count is None else bucket.count)


def caches(group: Mapping[str, Any]) -> bool:
    """Whether P_i = Q_iᵀQ_i is kept beside Q_i, and a step multiplies by one matrix per axis instead of two."""
    rare = group["precond_update_probability"]
    wanted = group["cache_preconditioner"]
    if wanted is None:
        wanted = isinstance(rare, float) and rare < 0.5
    return bool(wanted) and not GEOMETRIES[group["geometry"]].factor_is_p
