"""SAM: the gradient of the worst point nearby, for any optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .adam import AdamW
from .core.buckets import local, sharding
from .core.closures import Closure, Evaluations, Points, evaluated, is_still
from .core.making import Base
from .core.options import NON_NEGATIVE, Rule, describe, one_of
from .core.reductions import over_shards
from .core.rule import real_dtype
from .core.scalars import precise
from .core.wrapper import OptimizerWrapper

_CONTRACT = "It clears the gradients, computes the loss, calls loss.backward() and returns the loss"


class SAM(OptimizerWrapper):
    """Sharpness-Aware Minimization for Efficiently Improving Generalization (Foret et al., 2021, arXiv:2010.01412).

        ε = ρ g(θ) / (‖g(θ)‖ + 1e-12),    θ ← A(θ, g(θ + ε))          A: any optimizer, the base

    The norm is over all parameters of all groups, and over their shards (DTensor, FSDP2). With ``adaptive=True`` it is
    ASAM (Kwon et al., 2021, arXiv:2102.11600), which does not change as weights are rescaled:

        ε = ρ T² g / (‖T g‖ + 1e-12),    T = |θ| + η of each coordinate

    ``step`` takes torch's ordinary closure: it clears the gradients, computes the loss, calls backward() and returns
    the loss. It is called twice, at θ and at θ + ε, and its first value is returned. Both calls see the same random
    numbers of torch, so that dropout has one mask, and must see the same batch; averages a forward pass keeps, as in
    batch norm, see the first alone. Parameters come back by copy, also when the closure raises. Where ρ is 0 everywhere
    the step is the base's, and the closure is called once. Where the norm is not finite nothing is displaced, the base
    steps with the first gradients, and ``sam_skipped`` of the groups counts it: the host waits for the norm.

    Where a closure cannot be: after the first backward(), gradients of all micro-batches and unscaled, :meth:`ascend`;
    clear the gradients, and once more backward(); :meth:`descend`; ``step()``. Random numbers and averages of modules
    are the user's then. With a GradScaler, ``scaler.unscale_(optimizer)`` and ``scaler.update()`` stand around
    ``ascend()``, and ``scaler.step(optimizer)`` is the step; a closure that adds up gradients of earlier micro-batches,
    as of Lightning's ``accumulate_grad_batches``, has those of the last alone.

    When: generalization matters more than the time of a step, which doubles: image classification above all, and
        fine-tuning. Displacements below the precision of bfloat16 parameters are lost; keep those in float32.

    State: none on top of the base's (8 bytes per parameter with AdamW). A step takes a copy of the parameters and of
        the gradients, which no checkpoint has.

    Args:
        params: parameters as in torch.optim (tensors, (name, tensor) pairs, group dicts), or an optimizer that exists.
            A group may have its own ``sam_rho``, ``sam_adaptive`` and ``sam_eta``, read at every step.
        base: what makes the base of the parameters, called as ``base(params, **base_options)``: a class, a
            ``functools.partial``, a function; or a name of :func:`optzoo.optimizers.list_optimizers`. Default None:
            :class:`AdamW`. Not with an optimizer that exists.
        rho: ρ, how far to look, >= 0. Default 0.05, the paper's; ASAM takes about ten times as much (0.5 to 2).
        adaptive: True for ASAM. Its authors have T = 1 for all but tensors that are called weight: give a group of
            others ``sam_adaptive=False``. Default False.
        eta: η of ASAM, >= 0. Default 0.01, its authors'.
        **base_options: options of the base, such as ``lr``.

    Raises:
        ValueError: an option out of its range, named with its value; a SAM around a SAM; a base whose closure does not
            call backward().
        TypeError: a base that makes no optimizer, or needs arguments it did not get; base or its options together with
            an optimizer that exists; ``step`` without a closure, unless ascend() and descend() went before.
        RuntimeError: a closure after which no parameter has a gradient; a sparse gradient; a step, a checkpoint or a
            copy between ascend() and descend().

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0]))
    >>> optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.5)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = w.square().sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item(), round(w.item(), 4)
    (9.0, 2.3)
    """

    default_base = AdamW
    prefix = "sam_"
    counters = frozenset({"sam_skipped"})
    rules = {
        "rho": NON_NEGATIVE,
        "adaptive": one_of(False, True),
        "eta": NON_NEGATIVE,
        "skipped": Rule(lambda x: type(x) is int and x >= 0, "an integer >= 0"),
    }
    closure_calls_backward = True

    def __init__(
        self,
        params: ParamsT | torch.optim.Optimizer,
        base: Base | str | None = None,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.01,
        **base_options: Any,
    ) -> None:
        super().__init__(params, base, base_options, rho=rho, adaptive=adaptive, eta=eta, skipped=0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._explicit = _Explicit(None, False)

    def takes_whole_parameters(self, group: Mapping[str, Any]) -> bool:
        return bool(group["sam_rho"])

    # The step

    def step(self, closure: Closure | None = None) -> Any:
        """A step of the base with the gradients at θ + ε.

        closure: clears the gradients, computes the loss, calls backward() and returns the loss; called twice. None only
        after :meth:`ascend` and :meth:`descend`; a closure that is given then, as Lightning does, is called once.
        """
        if closure is None and not self._explicit.descended and not is_still(self):
            self.check("step()")
            raise TypeError(
                f"SAM needs step(closure), and there is no closure. {_CONTRACT}; where that cannot be, as with a "
                "GradScaler, call ascend(), once more backward(), and descend() before step()"
            )
        value = super().step(closure)
        self._explicit.descended = False
        return value

    def evaluate(self, closure: Closure) -> Any:
        """The first value, with the gradients at θ + ε, unless :meth:`descend` has left those already."""
        if self._explicit.descended or not any(group["sam_rho"] for group in self.param_groups):
            return closure()
        with torch.no_grad():
            evaluations = Evaluations(closure, [p for group in self.param_groups for p in group["params"]])
            value = evaluations.first("SAM", _CONTRACT)
            moves = self._moves()
            if moves:
                with evaluations.again([move.p for move in moves], keep_gradients=False):
                    _displace(moves)
                    evaluated(closure)
        return value

    @torch.no_grad()
    def ascend(self) -> None:
        """Go to θ + ε, by the gradients that are there now; they must be whole and not scaled."""
        self.check("ascend()")
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            raise RuntimeError(
                "SAM: ascend() needs the gradients at θ, and no parameter has one; call backward() first"
            )
        moves = self._moves()
        self._explicit.points, self._explicit.descended = Points([move.p for move in moves]), False
        _displace(moves)

    def descend(self) -> None:
        """Come back to θ; ``step()`` then goes on with the gradients that have been made at θ + ε."""
        if self._explicit.points is None:
            raise RuntimeError("SAM: descend() comes back from where ascend() has been to; call that first")
        self._explicit.points.restore()
        self._explicit.points, self._explicit.descended = None, True

    def check(self, action: str) -> None:
        if self._explicit.points is not None:
            raise RuntimeError(f"SAM: {action} between ascend() and descend(), where the parameters are not θ")

    def _moves(self) -> list[_Move]:
        """ε of every parameter that has a gradient; of none where ρ is 0 or the norm is not finite."""
        members = [
            (group, i, p) for group in self.param_groups for i, p in enumerate(group["params"]) if p.grad is not None
        ]
        found, squares = [], []
        for group, i, p in members:
            if p.grad.layout is not torch.strided:
                raise RuntimeError(
                    f"SAM takes dense gradients only; that of {describe(group, i)} is {p.grad.layout}. Make the layer "
                    "with sparse=False"
                )
            theta, g = local((p, p.grad))
            t = theta.abs().to(real_dtype(theta.dtype)).add_(group["sam_eta"]) if group["sam_adaptive"] else None
            tg = g if t is None else g * t
            squares.append(precise(torch.linalg.vector_norm(tg, dtype=real_dtype(tg.dtype))).square())
            rho = -group["sam_rho"] if group.get("maximize") else group["sam_rho"]
            found.append(_Move(p, theta, tg if t is None else tg * t, rho))
        squares = over_shards(squares, [sharding(p) for *_, p in members])
        norm = torch.stack([square.to(squares[0].device) for square in squares]).sum().sqrt().item()
        if not math.isfinite(norm):
            for group in self.param_groups:
                group["sam_skipped"] += 1
            return []
        return [move._replace(scale=move.scale / (norm + 1e-12)) for move in found if move.scale]


class _Move(NamedTuple):
    """A parameter, as it is and as a plain local tensor, and its ε: direction and scale."""

    p: Tensor
    theta: Tensor
    direction: Tensor
    scale: float


class _Explicit:
    """Where ascend() came from, and whether descend() has been back; one object, for frameworks copy attributes."""

    def __init__(self, points: Points | None, descended: bool) -> None:
        self.points, self.descended = points, descended


def _displace(moves: list[_Move]) -> None:
    for move in moves:
        move.theta.add_(move.direction, alpha=move.scale)
