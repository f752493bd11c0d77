"""What PSGD and its Newton form share: factors as state, when and how they are fitted, and the direction P(m)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import Optimizer, rule
from ..core.buckets import Bucket
from ..core.eager import eager
from ..core.options import DECAY, FRACTION, NON_NEGATIVE, POSITIVE, Rule, one_of, optional
from ..core.reductions import gathered, own_part
from ..core.reports import Reported
from ..core.scalars import precise
from . import kron
from .factors import Layout, apply_merged, layout, per_entry, squared, stacked
from .geometries import GEOMETRIES, Geometry
from .noise import Noise
from .norms import NORMS
from .schedule import updates_at, updates_until

BALANCED_EVERY = 100
"""Updates between balancings of the factors, which change nothing but keep their entries of one size."""
CPU_BATCH, DEVICE_BATCH = 2**18, 2**22
"""Elements of the tensors that are preconditioned in one call, on CPU such that they stay in its cache."""


class KronOptimizer(Optimizer):
    """θ ← θ - lr P(m) with P = QᵀQ, Q = Q_1 ⊗ ... ⊗ Q_d; a subclass says what the factors are fitted to."""

    scalar_buffers = ("skipped",)
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
        "init_scale": POSITIVE,
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

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        if group["capturable"]:
            raise ValueError(
                f"{type(self).__name__}: capturable=True is not possible, whether a step updates the preconditioner is "
                "decided on the host; leave it False"
            )

    # State

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
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
        scale = group["init_scale"] ** (power / len(layout(real_shape(param), group).shape))
        ones = torch.full((n,), scale, dtype=dtype, device=param.device)
        return ones.diag() if square else ones

    def kind(self, group: Mapping[str, Any], param: Tensor) -> Any:
        return param.shape

    # The step

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        return s.direction

    @eager  # random generators, and branches on the step
    def prepare_bucket(self, bucket: Bucket) -> None:
        """Fit the factors and find the directions, for as many tensors of one shape at once as fit."""
        index = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        seen = layout(real_shape(bucket.params[0]), bucket.group)
        if seen.numel == 0:
            bucket.rows, bucket.buffers = [(p, g, g) for p, g, *_ in bucket.rows], ("direction",)
            return
        size = max(1, (CPU_BATCH if bucket.device.type == "cpu" else DEVICE_BATCH) // seen.numel)
        step = host_count(bucket)
        finite = []
        for start in range(0, len(bucket.rows), size):
            rows = range(start, min(start + size, len(bucket.rows)))
            noise = Noise(bucket.group["seed"], [index[bucket.params[i]] for i in rows], step, bucket.device)
            finite.append(self._prepare_rows(bucket, rows, seen, step, noise))
        bucket.buffers = ("direction",)
        if bucket.h.decays and bucket.h.decoupled_weight_decay:
            bucket.h.weight_decay = precise(torch.cat(finite).float()) * bucket.h.weight_decay

    def _prepare_rows(self, bucket: Bucket, rows: Sequence[int], seen: Layout, step: int, noise: Noise) -> Tensor:
        """Put the direction in the place of a row's buffers; tells whose gradients were finite, the others stay."""
        h, states = bucket.h, [bucket.states[i] for i in rows]
        geometry = GEOMETRIES[h.geometry]
        axes, cached = range(len(seen.shape)), caches(bucket.group)
        gradients = [rule.operands(bucket.rows[i][0], bucket.rows[i][1], h)[1] for i in rows]
        averages = [bucket.rows[i][-1] for i in rows]
        taken = step - torch.stack([state["skipped"] for state in states])
        weights = taken.reciprocal().clamp(min=1 - h.momentum)  # a running mean, until it is as long as the average
        means = [a.lerp(g, w.to(a.dtype)) for a, g, w in zip(averages, gradients, weights, strict=True)]
        dtype = states[0]["Q0"].dtype
        x = self._seen(bucket, rows, means, seen, dtype)
        finite = x.flatten(1).abs().amax(1).isfinite()

        def fit() -> None:
            signal, v = self.signal(bucket, rows, x, lambda t: self._seen(bucket, rows, t, seen, dtype), gradients)
            factors = [stacked([state[f"Q{i}"] for state in states]) for i in axes]
            bounds = stacked([state["L"] for state in states])
            products = [stacked([state[f"P{i}"] for state in states]) for i in axes] if cached else None
            factors, bounds = self._fitted(factors, bounds, signal, v, geometry, h, step, noise, products)
            made = {"L": bounds, **{f"Q{i}": q for i, q in enumerate(factors)}}
            if "P0" in states[0]:  # also if it is not used just now
                made |= {f"P{i}": squared(q) for i, q in enumerate(factors)}
            for name, stack in made.items():
                torch._foreach_copy_([state[name] for state in states], list(stack.unbind()))

        due, first = self.is_due(bucket, step), self.updates_first(h)
        if due and first:
            fit()
        applied = [stacked([state[f"{'P' if cached else 'Q'}{i}"] for state in states]) for i in axes]
        u = apply_merged(applied, x) if cached else kron.precondition(applied, x, geometry)
        if due and not first:
            fit()
        u = chosen(finite, clipped(u, h.clip), 0.0)
        torch._foreach_add_([state["skipped"] for state in states], list((~finite).float().unbind()))
        for k, i in enumerate(rows):
            p, g, *_ = bucket.rows[i]
            averages[k].copy_(chosen(finite[k], means[k], averages[k]))
            direction = own_part(u[k].reshape(real_shape(bucket.params[i])), bucket.sharding)
            bucket.rows[i] = (p, g, direction.to(means[k].dtype))
        return finite

    def _fitted(
        self,
        factors: list[Tensor],
        bounds: Tensor,
        signal: Tensor,
        v: Tensor | None,
        geometry: Geometry,
        h: Any,
        step: int,
        noise: Noise,
        products: Sequence[Tensor] | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """One update of the factors; none for a signal that is zero, under which they would grow, or not finite."""
        nu = noise.normal(*signal.shape, like=signal)
        largest = signal.flatten(1).abs().amax(1)
        usable = (largest > 0) & (largest < torch.inf)
        fitted, seen = kron.update(
            kron.balanced(factors) if geometry.balanced_every_update else factors,
            bounds,
            kron.damped(chosen(usable, signal, 0.0), h.damping, nu),
            nu if v is None else v,
            geometry,
            newton=v is not None,
            products=products,
            step_size=h.lr_preconditioner,
            beta=h.beta_L,
            norm=NORMS[h.norm],
            noise=noise,
        )
        if updates_until(step, h.precond_update_probability) % BALANCED_EVERY == 0:
            fitted = kron.balanced(fitted)
        kept = [chosen(usable, new, old) for new, old in zip(fitted, factors, strict=True)]
        return kept, seen.where(usable[:, None], bounds)

    def is_due(self, bucket: Bucket, step: int) -> bool:
        """Whether this step updates the factors."""
        return updates_at(step, bucket.group["precond_update_probability"])

    def updates_first(self, h: Any) -> bool:
        """Whether it does so before it uses them."""
        first: bool = h.update_first
        return first

    def signal(
        self,
        bucket: Bucket,
        rows: Sequence[int],
        mean: Tensor,
        seen: Callable[[Sequence[Tensor]], Tensor],
        gradients: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """What the factors are fitted to: h, and v where h = Hv. ``seen`` makes a batch of local tensors."""
        raise NotImplementedError

    def report(self) -> dict[str, Reported]:
        """The norm ‖Q_i‖ of every factor, ``Q0_norm`` and so on."""
        factors = [
            (f"{name}_norm", p, t) for p, state in self.state.items() for name, t in state.items() if name[0] == "Q"
        ]
        norms = torch._foreach_norm([t for _, _, t in factors]) if factors else ()
        report: dict[str, dict[Tensor, float | Tensor]] = {}
        for (name, p, _), norm in zip(factors, norms, strict=True):
            report.setdefault(name, {})[p] = norm
        return {**super().report(), **report}

    def _seen(
        self, bucket: Bucket, rows: Sequence[int], local: Sequence[Tensor], seen: Layout, dtype: torch.dtype
    ) -> Tensor:
        """Local tensors as one batch of whole ones, in the shape and the precision of their factors."""
        whole = [gathered(t, bucket.sharding, real_shape(bucket.params[i])) for i, t in zip(rows, local, strict=True)]
        return stacked(whole).reshape(len(rows), *seen.shape).to(dtype)


def chosen(flags: Tensor, new: Tensor, old: Tensor | float) -> Tensor:
    """``new`` where its batch entry's flag is set; without a pass over it where the host knows that all are."""
    if flags.device.type == "cpu" and bool(flags.all()):
        return new
    return new.where(per_entry(flags, new) if flags.ndim else flags, old)


def clipped(u: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """Each of a batch scaled down to an RMS, and its entries then cut off."""
    if clip is None:
        return u
    norm: Tensor = torch.linalg.vector_norm(u.flatten(1), dim=1, dtype=torch.promote_types(u.dtype, torch.float32))
    factor = (clip[0] * u[0].numel() ** 0.5 / norm).clamp(max=1.0)
    return (u * per_entry(factor, u).to(u.dtype)).clamp_(-clip[1], clip[1])


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


def real_shape(param: Tensor) -> tuple[int, ...]:
    """The shape of a parameter as real numbers: complex ones have an axis of two more."""
    return (*param.shape, 2) if param.is_complex() else tuple(param.shape)


def factor_dtype(param: Tensor, group: Mapping[str, Any]) -> torch.dtype:
    if group["precond_dtype"] is None:
        return rule.real_dtype(param.dtype)
    dtype: torch.dtype = getattr(torch, group["precond_dtype"])
    return dtype
