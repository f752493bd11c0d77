"""Adafactor: second moments of matrices kept as a row and a column."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .core import Optimizer, Options
from .core.buckets import Bucket, cut_rows, default_piece, measured_piece, pieces
from .core.options import DECAY, NON_NEGATIVE, POSITIVE, RULES, Rule, one_of, optional
from .core.reductions import over_shards, stacked
from .core.rule import working_dtype
from .core.scalars import maximum, minimum, wrapped

_DTYPES = ("float64", "float32", "bfloat16", "float16")


class Adafactor(Optimizer):
    """Adafactor: Adaptive Learning Rates with Sublinear Memory Cost (Shazeer & Stern, 2018, arXiv:1804.04235).

        θ ← θ - α U,    U = Û / max(1, RMS(Û)/d),    Û = g / √V̂      α = ρ max(eps2, RMS(θ)),    ρ = min(1e-2, 1/√t)
        R ← β2 R + (1-β2) mean_b(g² + eps1),    C ← β2 C + (1-β2) mean_a(g² + eps1),    V̂ = R C / mean_a(R)

    a and b are the two largest dimensions of a tensor, if both have ``min_dim_size_to_factor`` elements; its other
    dimensions are a batch. Smaller tensors keep the whole V ← β2 V + (1-β2)(g² + eps1). β2 = 1 - t^-decay_rate is 0 at
    the first step, so there is no bias correction. This is T5X's and optax's Adafactor. torch.optim's is another one:
    its lr only caps the relative step 1/√t, eps1 is a bound on V (steps shrink where gradients are below 1e-7), it has
    no momentum, statistics have the gradient's dtype, and it factors the last two dimensions, however small: a 1 × 1
    convolution takes more memory than unfactored. Statistics here are float32 or better.

    When: memory is short: state of matrices is next to nothing; or for models of the T5 family, at their settings.

    State: 4 (a + b) bytes per factored matrix of a × b (``row_var``, ``col_var``; times the batch of other dimensions),
        else 4 bytes per parameter (``variance``); with beta1 4 bytes per parameter more (``exp_avg``; 2 in bfloat16); 8
        per tensor (``step``).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: ρ, >= 0, a number or a Tensor of one element. Default None: the paper's relative step, which is a schedule
            of its own. The group's ``lr`` is then 1, a factor of that step, which schedulers set as any other.
        beta1: decay of the momentum per step, in [0, 1), without bias correction. Default None: no momentum, as T5.
        decay_rate: c > 0 in β2 = 1 - t^-c. Default 0.8, the paper's.
        decay_offset: steps taken off t in β2, >= 0, to start it afresh in fine-tuning. Default 0.
        beta2_cap: largest β2, in [0, 1). Default None: it rises to 1.
        eps: (eps1, eps2), both >= 0: what is added to g², and the least RMS(θ) a step is relative to. Default
            (1e-30, 1e-3), the paper's.
        clip_threshold: d > 0, or None not to clip. Default 1, the paper's.
        scale_parameter: whether α is relative to RMS(θ). Default True, the paper's; False: α = ρ.
        relative_step: True: ρ = lr · min(1e-2, 1/√t), with lr None as 1. False: ρ = lr. None (default): True where lr
            is None, else False; in the groups it is one of these two.
        warmup_init: min(1e-6 t, 1/√t) instead, the paper's warm-up; needs the relative step. Default False.
        weight_decay: λ >= 0, θ ← (1 - ρ λ) θ. Default 0. T5X and optax have (1 - λ) θ: 1e-4 there, at ρ = 1e-2, is
            1e-2 here.
        min_dim_size_to_factor: least size of both dimensions of a matrix to be factored, >= 1. Default 128, T5X's.
        factored: False keeps the whole V of every tensor, from its first step on. Default True.
        momentum_of: ``"step"`` (default, T5X, optax): the average of α U; ``"update"`` (big_vision): that of U, which
            a change of lr scales at once.
        momentum_dtype: "bfloat16", "float32", ... or a torch.dtype; the momentum is kept in it. Default None: the
            parameter's, float32 at least.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`. ``fused`` compiles unfactored
            tensors only.

    Raises:
        ValueError: an option out of its range, or options that contradict each other, named with their values.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.ones(200, 300))
    >>> optimizer = Adafactor([w], lr=0.1)
    >>> w.grad = torch.full_like(w, 1e-5)
    >>> optimizer.step(); w[0, 0].item(), optimizer.state[w]["row_var"].shape
    (0.899..., torch.Size([200, 1]))
    """

    vector_rule = "whole second moments, as of matrices below 128 × 128"  # a comparison marks it
    optional_buffers = frozenset({"row_var", "col_var", "variance"})
    recoverable = frozenset({"exp_avg"})
    rules = {
        "lr": optional(RULES["lr"]),
        "beta1": optional(DECAY),
        "decay_rate": POSITIVE,
        "decay_offset": NON_NEGATIVE,
        "beta2_cap": optional(DECAY),
        "eps": Rule(
            lambda x: isinstance(x, tuple) and len(x) == 2 and all(map(NON_NEGATIVE.holds, x)), "2 finite numbers >= 0"
        ),
        "clip_threshold": optional(POSITIVE),
        "scale_parameter": one_of(True, False),
        "relative_step": one_of(None, True, False),
        "warmup_init": one_of(True, False),
        "min_dim_size_to_factor": Rule(lambda x: type(x) is int and x >= 1, "an integer >= 1"),
        "factored": one_of(True, False),
        "momentum_of": one_of("step", "update"),
        "momentum_dtype": one_of(None, *_DTYPES),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        beta1: float | None = None,
        decay_rate: float = 0.8,
        decay_offset: int = 0,
        beta2_cap: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float | None = 1.0,
        scale_parameter: bool = True,
        relative_step: bool | None = None,
        warmup_init: bool = False,
        weight_decay: float = 0.0,
        min_dim_size_to_factor: int = 128,
        factored: bool = True,
        momentum_of: str = "step",
        momentum_dtype: str | torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        own = dict(
            lr=lr,
            beta1=beta1,
            decay_rate=decay_rate,
            decay_offset=decay_offset,
            beta2_cap=beta2_cap,
            eps=eps,
            clip_threshold=clip_threshold,
            scale_parameter=scale_parameter,
            relative_step=relative_step,
            warmup_init=warmup_init,
            weight_decay=weight_decay,
            min_dim_size_to_factor=min_dim_size_to_factor,
            factored=factored,
            momentum_of=momentum_of,
            momentum_dtype=momentum_dtype,
        )
        super().__init__(params, own, options)

    @classmethod
    def big_vision(
        cls,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
        *,
        beta1: float = 0.9,
        momentum_dtype: str | torch.dtype = "bfloat16",
        **options: Any,
    ) -> Adafactor:
        """The Adafactor that trains big_vision's ViTs (Zhai et al., 2022, arXiv:2106.04560), without its schedule.

        Momentum of the update in bfloat16, β2 at most 0.999, no clipping, steps not relative to RMS(θ), dimensions of
        32 are factored. weight_decay is times lr here, where big_vision's is not: its 1e-4 at lr=1e-3 is 0.1.

        >>> import torch
        >>> Adafactor.big_vision(torch.nn.Linear(64, 64).parameters(), lr=1e-3).defaults["beta2_cap"]
        0.999
        """
        preset: dict[str, Any] = dict(
            beta2_cap=0.999,
            clip_threshold=None,
            scale_parameter=False,
            min_dim_size_to_factor=32,
            momentum_of="update",
        )
        own = dict(weight_decay=weight_decay, beta1=beta1, momentum_dtype=momentum_dtype)
        return cls(params, lr, **{**preset, **own, **options})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in the base. ``lr`` and ``relative_step`` of a group are read as those of the constructor."""
        said = {**self.defaults, **param_group}
        super().add_param_group({**param_group, **_step_size(said)})
        *others, added = self.param_groups
        if said["relative_step"] is None and not added["relative_step"] and any(g["relative_step"] for g in others):
            warnings.warn(
                f"Adafactor: lr={added['lr']} of an added group is absolute, beside groups where lr is a factor of the "
                "relative step; say relative_step=True or False in the group",
                stacklevel=2,
            )

    def check_group(self, group: Mapping[str, Any]) -> None:
        lr, relative = group["lr"], group["relative_step"]
        if lr is None:
            raise ValueError("Adafactor: relative_step=False needs an lr, got None")
        if group["warmup_init"] and not relative:
            raise ValueError(
                f"Adafactor: warmup_init=True warms up the relative step, which lr={lr} replaces; drop one, or say "
                "relative_step=True, where lr is a factor"
            )
        if group["beta1"] is None and (group["momentum_dtype"], group["momentum_of"]) != (None, "step"):
            raise ValueError("Adafactor: momentum_dtype and momentum_of need a momentum, set beta1 (0.9, say)")

    # State

    def saved_options(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of older versions lr is None for the relative step; of torch.optim, which has no such option, ρ.

        torch's default eps1 is None, for a bound on V that there is none of here: eps1 is the paper's then.
        """
        if isinstance(saved.get("eps"), tuple | list) and saved["eps"][0] is None:
            saved = {**saved, "eps": (1e-30, *saved["eps"][1:])}
        return {**saved, **_step_size({"relative_step": None, **saved})} if "lr" in saved else saved

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of an older version's pickle
            group.update(_step_size(group))

    def buffer_names(self, group: Mapping[str, Any], param: Tensor) -> tuple[str, ...]:
        moments = ("row_var", "col_var") if factored_axes(param.shape, group) else ("variance",)
        return moments if group["beta1"] is None else (*moments, "exp_avg")

    def buffer_kind(self, name: str, param: Tensor, group: Mapping[str, Any]) -> tuple[Sequence[int], torch.dtype]:
        shape, dtype = super().buffer_kind(name, param, group)
        if name == "exp_avg" and group["momentum_dtype"] and not param.is_complex():
            dtype = getattr(torch, group["momentum_dtype"])
        axes = factored_axes(param.shape, group)
        if axes and name in ("row_var", "col_var"):
            averaged = axes[1] if name == "row_var" else axes[0]
            shape = [1 if axis == averaged else size for axis, size in enumerate(shape)]
        return shape, dtype

    # The step

    @staticmethod
    def scalars(h: Any) -> None:
        if h.relative_step or h.lr is None:  # which a user may set in a run
            h.lr = (1.0 if h.lr is None else h.lr) * minimum(h.step**-0.5, 1e-6 * h.step if h.warmup_init else 1e-2)
        h.beta2 = 1 - maximum(h.step - h.decay_offset, 1) ** -h.decay_rate
        if h.beta2_cap is not None:
            h.beta2 = minimum(h.beta2, h.beta2_cap)

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        """Bring the second moments up to date, and find the size of the step: RMS(Û) and RMS(θ)."""
        for bucket in buckets:
            bucket.h.is_factored = "row_var" in bucket.buffers
        _factor([bucket for bucket in buckets if bucket.h.is_factored])
        for bucket in buckets:
            if not bucket.h.is_factored:
                _average_squares(bucket)
        measured = [b for b in buckets if b.h.scale_parameter or b.h.clip_threshold is not None]
        squares = over_shards([self.square_sums(b) for b in measured], [b.sharding for b in measured])
        for bucket in buckets:
            bucket.h.clip = bucket.h.alpha = 1.0
        for bucket, sums in zip(measured, squares, strict=True):
            _scale(bucket, sums)
        for bucket in buckets:
            h = bucket.h
            if self.recording:
                self.note("lr", bucket.params, h.lr * h.gain)
                self.note("clip_factor", bucket.params, h.clip)
            if h.beta1 is not None and h.momentum_of == "step":
                h.alpha, h.weight_decay = h.lr * h.gain * h.clip, h.lr * h.weight_decay
                h.lr = h.gain = 1.0
            elif h.beta1 is not None:
                h.alpha = h.clip
            else:
                h.gain = h.gain * h.clip

    @staticmethod
    def measure(p: Any, g: Any, s: Any, h: Any) -> tuple[Any, ...]:
        return Adafactor._whitened(g, s, h), p

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        u = Adafactor._whitened(g, s, h)
        if h.beta1 is None:
            return u
        m = s.exp_avg.to(u.dtype).lerp_(u.mul_(h.alpha), 1 - h.beta1)
        s.exp_avg.copy_(m)
        return m.clone()

    @staticmethod
    def _whitened(g: Any, s: Any, h: Any) -> Any:
        """Û = g / √V̂."""
        return g.mul(s.row_factor).mul_(s.col_factor) if h.is_factored else g.div(s.variance.sqrt())


def _step_size(options: Mapping[str, Any]) -> dict[str, Any]:
    """``lr`` as a number and ``relative_step`` as True or False, of what a user or a checkpoint may say."""
    lr, relative = options["lr"], options["relative_step"]
    relative = lr is None if relative is None else relative
    return {"lr": 1.0 if lr is None and relative else lr, "relative_step": relative}


def factored_axes(shape: Sequence[int], group: Mapping[str, Any]) -> tuple[int, int] | None:
    """The two largest dimensions of a shape in their order, or None where it is not to be factored."""
    if not group["factored"] or len(shape) < 2:
        return None
    *_, second, first = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return (min(first, second), max(first, second)) if shape[second] >= group["min_dim_size_to_factor"] else None


def _factor(buckets: Sequence[Bucket]) -> None:
    """Update R and C, and hand the update R̂^-½ and C^-½ in their place, with R̂ = R / mean(R)."""
    stacks = [(bucket, rows) for bucket in buckets for rows in _of_one_shape(bucket)]
    sharding = [bucket.sharding for bucket, _ in stacks]
    axes = [factored_axes(bucket.params[rows[0]].shape, bucket.group) or (0, 0) for bucket, rows in stacks]
    sums = [_sums_of_squares(*stack, axis) for stack, axis in zip(stacks, axes, strict=True)]
    summed = [(b,) for _, b in axes] + [(a,) for a, _ in axes]
    totals = over_shards([r for r, _ in sums] + [c for _, c in sums], sharding * 2, summed)
    by_row = [_average(*stack, "row_var", r, b) for stack, r, (_, b) in zip(stacks, totals, axes, strict=False)]
    by_column = [
        _average(*stack, "col_var", c, a) for stack, c, (a, _) in zip(stacks, totals[len(stacks) :], axes, strict=True)
    ]
    means = over_shards(
        [r.sum(a + 1, keepdim=True) for r, (a, _) in zip(by_row, axes, strict=True)], sharding, [(a,) for a, _ in axes]
    )
    made: dict[int, dict[str, dict[int, Tensor]]] = {id(b): {"row_factor": {}, "col_factor": {}} for b in buckets}
    for (bucket, rows), (a, _), r, c, mean in zip(stacks, axes, by_row, by_column, means, strict=True):
        size = bucket.params[rows[0]].shape[a]
        made[id(bucket)]["row_factor"].update(zip(rows, r.div(mean.div_(size)).rsqrt_().unbind(), strict=True))
        made[id(bucket)]["col_factor"].update(zip(rows, c.rsqrt().unbind(), strict=True))
    for bucket in buckets:
        factors = {name: [of[i] for i in range(len(bucket.rows))] for name, of in made[id(bucket)].items()}
        bucket.hand_out(**factors, **{name: bucket.column(name) for name in bucket.buffers[2:]})


def _of_one_shape(bucket: Bucket) -> Iterator[list[int]]:
    """Rows whose tensors have one shape, as many as a piece holds."""
    alike: dict[Any, list[int]] = {}
    for i, p in enumerate(bucket.params):
        alike.setdefault(p.shape, []).append(i)
    for rows in alike.values():
        numel = max(bucket.rows[rows[0]][0].numel(), 1)
        most = max(1, int(min(len(rows), measured_piece(bucket.device) / numel)))
        yield from (rows[i : i + most] for i in range(0, len(rows), most))


def _sums_of_squares(bucket: Bucket, rows: Sequence[int], axes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sums of g² along the second and along the first of two axes, over the local shards of some rows, stacked."""
    (a, b), g = axes, stacked([bucket.rows[i][1] for i in rows])
    if len(rows) > 1:
        squares = g.to(working_dtype(g.dtype)).square()
        return squares.sum(b + 1, keepdim=True), squares.sum(a + 1, keepdim=True)
    by_row, by_column = (torch.zeros_like(bucket.column(name)[rows[0]]) for name in ("row_var", "col_var"))
    size = min(measured_piece(g.device), max(g.numel(), 1))
    for part, r, c in cut_rows((g[0], by_row, by_column), int(size)):
        squares = part.to(working_dtype(part.dtype)).square()
        r.add_(squares.sum(b, keepdim=True))
        c.add_(squares.sum(a, keepdim=True))
    return by_row[None], by_column[None]


def _average(bucket: Bucket, rows: Sequence[int], name: str, total: Tensor, axis: int) -> Tensor:
    """The moments ``name`` of some rows, stacked, after β2 V + (1-β2)(mean of g² over an axis + eps1)."""
    column, beta2 = bucket.column(name), bucket.h.beta2
    own = [column[i] for i in rows]
    moment, rest = stacked(own), 1 - beta2
    if isinstance(beta2, Tensor) and beta2.ndim:
        like = (-1, *[1] * (moment.ndim - 1))
        beta2, rest = (t[list(rows)].to(moment.dtype).view(like) for t in (beta2, rest))
    total.div_(bucket.params[rows[0]].shape[axis]).add_(bucket.h.eps[0]).mul_(rest)
    moment.mul_(beta2).add_(total)
    torch._foreach_copy_(own, list(moment.unbind()))
    return moment


def _average_squares(bucket: Bucket) -> None:
    """V ← β2 V + (1-β2)(g² + eps1)"""
    for piece in pieces(bucket, range(len(bucket.rows)), default_piece(bucket.device), pack=True, wrap=True):
        h, v = wrapped(bucket.h, piece.rows), piece.s.variance
        g = piece.g.to(v.dtype)
        v.lerp_(g.mul(g).add_(h.eps[0]), 1 - h.beta2)


def _scale(bucket: Bucket, sums: Tensor) -> None:
    """Clip by RMS(Û), and make the step relative to RMS(θ)."""
    h = bucket.h
    sizes = torch.tensor([[max(bucket.size(i), 1)] for i in range(len(bucket.rows))], dtype=sums.dtype)
    update, parameter = (sums / sizes.to(sums.device, non_blocking=True)).sqrt().unbind(1)
    if h.clip_threshold is not None:
        h.clip = (h.clip_threshold / update).clamp(max=1.0)
    if h.scale_parameter:
        h.gain = parameter.clamp(min=h.eps[1])
