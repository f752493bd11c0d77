"""DoG and L-DoG: SGD whose step size is the distance travelled over the root of the squared gradients' sum."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from .core import Optimizer, Options
from .core.buckets import Bucket, local, sharding
from .core.options import POSITIVE, describe, named, one_of, optional
from .core.reductions import over_shards
from .core.reports import Reported
from .core.scalars import precise

Block: TypeAlias = list[tuple[dict[str, Any], Tensor]]
"""Parameters that share a step size, with their groups."""


class DoG(Optimizer):
    """DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule (Ivgi et al., 2023, arXiv:2302.12022).

        θ ← θ - lr · η g,    η = r̄ / √G      r̄ = max(r_ε, max over steps of ‖θ - θ_0‖),    G = eps + Σ ‖g‖²

    ‖·‖ is over a block: all parameters together (``scope="all"``, the paper's), one group (``"group"``, the authors'
    code; the same where there is one group) or one tensor (``"param"``, :class:`LDoG`). r_ε = reps_rel (1 + ‖θ_0‖)
    starts it off. The distance is the one before the step, and all parameters that can be trained enter it, with a
    gradient or not. θ_0 is where a block is at its first step, later members join where they are. Norms and sums are
    float32 or better: the authors' G in bfloat16 stops growing at 256.

    When: no learning rate is to be tuned. Evaluate on the average of the iterates
        (:func:`optzoo.optimizers.polynomial_decay_avg_fn`, :class:`optzoo.optimizers.PolynomialDecayAverager`), which
        the paper's results are of, and keep lr constant. A block that is all bfloat16 does not move: its first step is
        1e-6 of its size, less than its precision. A warning says so when it is made. Call :meth:`reset` when
        parameters are loaded or made anew.

    State: 4 bytes per parameter (``x0``), 8 per tensor (``max_distance`` r̄ and ``grad_sq_sum`` G of its block) and 8
        per tensor (``step``).

    Args:
        params: tensors, (name, tensor) pairs or group dicts, as in torch.optim.
        lr: factor c of the step size, >= 0, a number or a Tensor of one element. Default 1, the paper's; a schedule
            multiplies a step size that falls by itself.
        reps_rel: size of the first step relative to 1 + ‖θ_0‖, > 0. Default 1e-6, the paper's (1e-4 with batch norm).
        eps: G before the first step, > 0. Default 1e-8, the authors' code's.
        weight_decay: λ >= 0. Default 0.
        init_eta: the first step size η itself, > 0, instead of the one reps_rel gives. Default None.
        scope: ``"all"`` (default), ``"group"`` or ``"param"``: what a block is.
        decoupled_weight_decay: False (default, the authors' code): g ← g + λθ, which enters G too; True:
            θ ← (1 - lr η λ) θ.
        **options: shared by all optimizers, see :class:`optzoo.optimizers.Options`.

    Raises:
        ValueError: an option out of its range, named with its value.
        TypeError: an unknown option, with the nearest one there is.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0]))
    >>> optimizer = DoG([w])
    >>> for _ in range(200):
    ...     w.grad = w.detach() - 1  # of (w - 1)²/2
    ...     optimizer.step()
    >>> round(w.item(), 2), round(optimizer.effective_lr()[0].item(), 2)
    (1.0, 0.12)
    """

    own_schedule = True  # a decaying lr multiplies a step size that falls by itself
    evaluate_on = "average"
    buffers = ("x0",)
    scalar_buffers = ("max_distance", "grad_sq_sum")
    variants = Optimizer.variants | {"scope"}
    rules = {
        "reps_rel": POSITIVE,
        "eps": POSITIVE,
        "init_eta": optional(POSITIVE),
        "scope": one_of("all", "group", "param"),
    }
    _starting: frozenset[Tensor] = frozenset()
    """Parameters whose blocks have made no step."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        reps_rel: float = 1e-6,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        init_eta: float | None = None,
        scope: str = "all",
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        own = dict(lr=lr, reps_rel=reps_rel, eps=eps, weight_decay=weight_decay, init_eta=init_eta, scope=scope)
        super().__init__(params, {**own, "decoupled_weight_decay": decoupled_weight_decay}, options)
        if not isinstance(lr, Tensor) and lr != 1:
            text = f"{type(self).__name__}: lr={lr} multiplies a step size that needs no tuning, 1 is the paper's"
            warnings.warn(text, stacklevel=2 if type(self) is DoG else 3)

    @staticmethod
    def measure(p: Any, g: Any, s: Any, h: Any) -> tuple[Any, ...]:
        return g, p - s.x0

    @staticmethod
    def update(p: Any, g: Any, s: Any, h: Any) -> Any:
        return g

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        """r̄ ← max(r̄, ‖θ - θ_0‖),  G ← G + ‖g‖²,  η = r̄ / √G for every block."""
        blocks = self._blocks()
        members = [p for block in blocks for _, p in block]
        if not members:
            return
        numbers = [number for number, block in enumerate(blocks) for _ in block]
        block_of = dict(zip(members, numbers, strict=True))
        squares = self._square_sums_of(members, buckets)
        index = torch.tensor(numbers).to(squares.device, non_blocking=True)
        sums = squares.new_zeros(len(blocks), 2).index_add_(0, index, squares)
        distance = torch.maximum(self._largest("max_distance", members, index, sums), sums[:, 1].sqrt())
        total = self._largest("grad_sq_sum", members, index, sums) + sums[:, 0]
        for name, values in (("max_distance", distance), ("grad_sq_sum", total)):
            torch._foreach_copy_([self.state[p][name] for p in members], list(values[index].unbind()))
        for bucket in buckets:
            of_rows = [block_of[p] for p in bucket.params]
            rows = of_rows[0] if len(set(of_rows)) == 1 else of_rows
            bucket.h.gain = _step_size(distance[rows], total[rows], bucket.group).to(bucket.device)
            if bucket.h.decays and bucket.h.decoupled_weight_decay:
                bucket.h.weight_decay = bucket.h.weight_decay * bucket.h.gain

    def descend(self, buckets: Sequence[Bucket]) -> None:
        super().descend(buckets)
        if torch.compiler.is_compiling() or not self._starting or all(group["lr"] == 0 for group in self.param_groups):
            return
        lost = [block for block in self._lost_in_rounding(buckets) if any(p in self._starting for _, p in block)]
        self._starting = frozenset()
        if lost:
            group = lost[0][0][0]
            option = "init_eta" if group["init_eta"] else "reps_rel"
            warnings.warn(
                f"{type(self).__name__}: {self._names(lost)} did not move in the first step, which "
                f"{option}={group[option]:g} makes smaller than their precision, and steps grow only by moving. Keep "
                f"them in float32 (torch.autocast computes in bfloat16 all the same), or raise {option}",
                stacklevel=2,
            )

    def _lost_in_rounding(self, buckets: Sequence[Bucket]) -> list[Block]:
        """The blocks whose first step, just made, came to less than a tenth of its length."""
        blocks = self._blocks()
        members = [member for block in blocks for member in block]
        squares = self._square_sums_of([p for _, p in members], buckets)
        steps = [
            group["lr"] * _step_size(self.state[p]["max_distance"], self.state[p]["grad_sq_sum"], group)
            for group, p in members
        ]
        squares[:, 0] *= torch.stack([step.to(squares) for step in steps]).square()
        of_blocks = torch.stack([part.sum(0) for part in torch.split(squares, [len(block) for block in blocks])])
        return [block for block, (meant, made) in zip(blocks, of_blocks.tolist(), strict=True) if made < 0.01 * meant]

    def _names(self, blocks: Sequence[Block]) -> str:
        """What an error message calls blocks."""
        dtypes = ", ".join(sorted({str(p.dtype) for block in blocks for _, p in block}))
        scope = blocks[0][0][0]["scope"]
        places = {
            p: (number, i) for number, group in enumerate(self.param_groups) for i, p in enumerate(group["params"])
        }
        firsts = [(group, *places[p]) for (group, p), *_ in blocks]
        if scope == "param":
            return f"{named([describe(group, i) for group, _, i in firsts])} ({dtypes})"
        return f"all parameters{'' if scope == 'all' else named([f' of group {n}' for _, n, _ in firsts])} ({dtypes})"

    def _square_sums_of(self, members: Sequence[Tensor], buckets: Sequence[Bucket]) -> Tensor:
        """‖g‖² and ‖θ - θ_0‖² of each member: (members, 2). Who has no gradient adds to the distance alone.

        All ranks sum up the same members in the same order, whichever of them have gradients.
        """
        position = {p: i for i, p in enumerate(members)}
        sums = {}
        for p in members:
            if (p.device, sharding(p)) not in sums:
                sums[p.device, sharding(p)] = precise(torch.zeros(len(members), 2, device=p.device))
        for bucket in [*buckets, *self._idle()]:
            squares = self.square_sums(bucket)
            if bucket.params[0].grad is None:
                squares[:, 0] = 0
            index = torch.tensor([position[p] for p in bucket.params]).to(bucket.device, non_blocking=True)
            sums[bucket.device, bucket.sharding].index_add_(0, index, squares)
        first, *others = over_shards(list(sums.values()), [lies for _, lies in sums])
        for other in others:
            first = first + other.to(first.device)
        return first

    def _idle(self) -> Iterator[Bucket]:
        """Members of blocks that have no gradient in this step, one by one."""
        for block in self._blocks():
            for group, p in block:
                if p.grad is None:
                    bucket = Bucket(group, self.buffers, sharding(p), None)
                    bucket.add(p, p, self.state[p])
                    bucket.h = self.numbers(bucket)
                    yield bucket

    def _largest(self, name: str, members: Sequence[Tensor], index: Tensor, like: Tensor) -> Tensor:
        """What the members of each block know of its number: those that came later know less, and it only grows."""
        known = torch.stack([self.state[p][name].to(like.device) for p in members]).to(like.dtype)
        return like.new_zeros(len(like)).scatter_reduce_(0, index, known, "amax")

    def _blocks(self) -> list[Block]:
        """The parameters that share a step size, with their groups: all that are trained, or once were."""
        blocks: dict[Any, Block] = {}
        for number, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p.requires_grad or p.grad is not None or self.has_state(p):
                    key = {"all": None, "group": number, "param": (number, i)}[group["scope"]]
                    blocks.setdefault(key, []).append((group, p))
        return list(blocks.values())

    def make_state(self, params: Sequence[tuple[Mapping[str, Any], Tensor]]) -> None:
        """Also that of parameters that wait for their first gradient: they are part of their block from its start."""
        blocks = self._blocks()
        new = [block for block in blocks if not any(self.has_state(p) for _, p in block)]
        super().make_state([member for block in blocks for member in block])
        if new:
            self._start(new)

    def _start(self, blocks: Sequence[Block]) -> None:
        """r̄ ← reps_rel (1 + ‖θ_0‖), or 0 where init_eta has the first step size, and G ← eps."""
        starts = [local((p, p, self.state[p]["x0"]))[-1] for block in blocks for _, p in block]
        squares = iter(
            over_shards(
                [precise(torch.linalg.vector_norm(x0)).square() for x0 in starts],
                [sharding(p) for block in blocks for _, p in block],
            )
        )
        for block in blocks:
            home = block[0][1].device
            norm = torch.stack([next(squares).to(home) for _ in block]).sum().sqrt()
            for group, p in block:
                distance = 0 * norm if group["init_eta"] else group["reps_rel"] * (1 + norm)
                self.state[p]["max_distance"].copy_(distance)
                self.state[p]["grad_sq_sum"].fill_(group["eps"])
        if not torch.compiler.is_compiling():
            self._starting = self._starting.union(p for block in blocks for _, p in block)

    def new_buffer(self, name: str, param: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
        buffer = super().new_buffer(name, param, state, group)
        return buffer.copy_(param) if name == "x0" else buffer

    def reset(self) -> None:
        """Start anew from the parameters as they are: when they have been loaded, or a run begins on other data."""
        for p in [p for group in self.param_groups for p in group["params"] if self.has_state(p)]:
            for name in ("step", *self.buffers, *self.scalar_buffers):  # not what others keep there
                del self.state[p][name]

    def effective_lr(self) -> list[Tensor]:
        """The step size lr · η of the last step, for logging: per group one number, or of ``scope="param"`` a vector.

        nan where no step has been made. The tensors are on the parameters' device, reading them waits for it.
        """
        return [self._effective_lr(group) for group in self.param_groups]

    def report(self) -> dict[str, Reported]:
        """The step size ``eta`` and the ``distance`` it is made of: one number, or of smaller blocks one per parameter.

        ``lr`` is their effective one, lr · η.
        """
        known = [(group, p) for group in self.param_groups for p in group["params"] if self.has_state(p)]
        distance: dict[Tensor, Tensor] = {p: self.state[p]["max_distance"] for _, p in known}
        eta = {p: _step_size(distance[p], self.state[p]["grad_sq_sum"], group) for group, p in known}
        report: dict[str, Reported] = {"lr": {p: group["lr"] * eta[p] for group, p in known}}
        together = known and all(group["scope"] == "all" for group, _ in known)
        for name, values in (("eta", eta), ("distance", distance)):
            report[name] = values[known[0][1]] if together else values
        return {**super().report(), **report}

    def _effective_lr(self, group: Mapping[str, Any]) -> Tensor:
        sizes = [
            group["lr"] * _step_size(state["max_distance"], state["grad_sq_sum"], group)
            for state in (self.state[p] for p in group["params"] if self.has_state(p))
        ]
        if not sizes:
            return torch.tensor(torch.nan)
        return torch.stack(sizes) if group["scope"] == "param" else sizes[0]


def _step_size(distance: Tensor, total: Tensor, group: Mapping[str, Any]) -> Tensor:
    """η = r̄ / √G, or init_eta as long as nothing has moved."""
    step_size = distance / total.sqrt()
    return step_size if group["init_eta"] is None else step_size.where(distance > 0, group["init_eta"])


class LDoG(DoG):
    """L-DoG, layer-wise DoG (Ivgi et al., 2023, arXiv:2302.12022): every tensor has a step size of its own.

        θ ← θ - lr · η g,    η = r̄ / √G      r̄ = max(r_ε, max over steps of ‖θ - θ_0‖),    G = eps + Σ ‖g‖²

    :class:`DoG` with ``scope="param"``: norms are those of one tensor. In the paper it is better than DoG on
    transformers, less stable elsewhere.

    When: transformers, with the averaging that DoG needs; use reps_rel=1e-8 for T5, as the paper does.

    State: 4 bytes per parameter (``x0``), 8 per tensor (``max_distance`` r̄ and ``grad_sq_sum`` G) and 8 per tensor
        (``step``).

    Arguments, defaults and errors are :class:`DoG`'s, but for ``scope``.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = LDoG(model.parameters())
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> [len(step_sizes) for step_sizes in optimizer.effective_lr()]
    [2]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        reps_rel: float = 1e-6,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        init_eta: float | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            reps_rel,
            eps,
            weight_decay,
            init_eta=init_eta,
            scope="param",
            decoupled_weight_decay=decoupled_weight_decay,
            **options,
        )
