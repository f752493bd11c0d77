"""Steps that take a closure, and the products of the Hessian with random vectors that come of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import Optimizer
from ..core.buckets import Bucket, as_real, is_dtensor
from ..core.closures import Closure, Evaluations, evaluated, is_still, set_gradients
from ..core.first_step import flat_pieces
from ..core.options import one_of
from ..core.rule import working_dtype
from .noise import Noise
from .schedule import updates_at

_PROBES = 1
"""The stream of v, which is independent of the noise in the damping."""

Draw = Callable[[Sequence[Tensor]], "list[Tensor]"]


class Evaluation(NamedTuple):
    """What the closure came to at θ: gradients of all parameters that have one, v and Hv of those that are probed."""

    loss: Any
    gradients: dict[Tensor, Tensor]
    vectors: dict[Tensor, Tensor]
    products: dict[Tensor, Tensor]


class Newton(Optimizer):
    """Base of optimizers whose preconditioner is fitted to Hv, v ~ N(0, I); option ``hessian`` says how it comes.

    ``"exact"``: the closure returns the loss, without backward(). ``"finite_difference"``: an ordinary closure, which
    is evaluated twice. None: no Hv, and a closure is needed no more than by other optimizers. In steps that do not
    update the preconditioner a closure is evaluated once, and no second graph is built. After a step ``p.grad`` is the
    gradient at the point stepped from.

    ``prepare`` finds v and Hv among the operands of a bucket whose parameters are probed, as "vector" and "product".
    """

    rules = {"hessian": one_of("exact", "finite_difference")}

    @property
    def own_options(self) -> frozenset[str]:
        """Also ``hessian``: it is to fit the closure of the program that loads, not of the one that saved."""
        return super().own_options | {"hessian"}

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        name = type(self).__name__
        if group["capturable"]:
            raise ValueError(f"{name}: capturable=True is not possible: the host decides when Q is updated")
        for other in self.param_groups:
            if other["hessian"] != group["hessian"]:
                raise ValueError(
                    f"{name}: hessian must be the same in all groups, got {other['hessian']!r} and {group['hessian']!r}"
                )

    @property
    def closure_calls_backward(self) -> bool | None:
        """What closure a step needs: one that calls ``loss.backward()``, one that does not, or, None, no closure."""
        method = self.param_groups[0]["hessian"]
        return None if method is None else bool(method == "finite_difference")

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Update every parameter that has a gradient.

        closure: returns the loss; whether it calls backward is up to the option ``hessian``. Its value is returned.
        """
        method = self.param_groups[0]["hessian"]
        if method is None or (closure is None and is_still(self)):
            loss = None if closure is None else evaluated(closure)
            self.descend(self.buckets(lambda p: p.grad))
            return loss
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        refuse_sharded(type(self).__name__, params)
        evaluation = hessian_vector_products(
            type(self).__name__, closure, params, self._probed(), self._probes, method=method
        )
        buckets = self.buckets(evaluation.gradients.get)
        for bucket in buckets:
            _add_products(bucket, evaluation)
        self.descend(buckets)
        return evaluation.loss

    def coming_steps(self, group: Mapping[str, Any]) -> list[int]:
        """Of each parameter of a group, the step that decides whether its preconditioner is updated in this one."""
        return [self._coming_step(p) for p in group["params"]]

    def _coming_step(self, p: Tensor) -> int:
        return 1 + (int(self.state[p]["step"]) if self.has_state(p) else 0)

    def _probed(self) -> set[Tensor]:
        """The parameters whose preconditioner this step updates."""
        return {
            p
            for group in self.param_groups
            for p, step in zip(group["params"], self.coming_steps(group), strict=True)
            if updates_at(step, group["precond_update_probability"])
        }

    def _probes(self, params: Sequence[Tensor]) -> list[Tensor]:
        """v ~ N(0, I) for each of these parameters; of a complex one both parts."""
        position = positions(self.param_groups)
        seeds = {p: group["seed"] for group in self.param_groups for p in group["params"]}
        vectors = []
        for p in params:
            real = torch.view_as_real(p) if p.is_complex() else p
            noise = Noise.at(seeds[p], [position[p]], self._coming_step(p), _PROBES)
            v = noise.normal(1, *real.shape, like=real)[0]
            vectors.append(torch.view_as_complex(v) if p.is_complex() else v)
        return vectors


def positions(groups: Iterable[Mapping[str, Any]]) -> dict[Tensor, int]:
    """The number of every parameter, as in the checkpoint."""
    return {p: i for i, p in enumerate(p for group in groups for p in group["params"])}


def refuse_sharded(name: str, params: Iterable[Tensor]) -> None:
    """Raise for shards, DTensors or FSDP1's, which these optimizers do not take."""
    params = list(params)
    if any(map(is_dtensor, params)) or flat_pieces(params):
        raise NotImplementedError(
            f"{name} does not take sharded parameters (FullyShardedDataParallel, DTensor as of fully_shard); use PSGD "
            "after fully_shard, or DistributedDataParallel, with hessian='finite_difference' where Hv is wanted"
        )


def _add_products(bucket: Bucket, evaluation: Evaluation) -> None:
    if bucket.params[0] in evaluation.products:
        added = {"vector": evaluation.vectors, "product": evaluation.products}
        columns = {name: [as_real(found[p].resolve_conj()) for p in bucket.params] for name, found in added.items()}
        bucket.hand_out(**columns, **{name: bucket.column(name) for name in bucket.buffers})


# Products of the Hessian with vectors


def hessian_vector_products(
    name: str, closure: Closure | None, params: Sequence[Tensor], probed: Collection[Tensor], draw: Draw, *, method: str
) -> Evaluation:
    """Loss, gradients and, of the ``probed`` parameters that have a gradient, v and Hv; ``p.grad`` is the gradient.

    v is 0 for the others. Parameters the gradient does not depend on have Hv = 0.

    Args:
        name: of the optimizer, for error messages.
        closure: what the optimizer's step was given.
        params: all parameters that are trained.
        probed: those of them that Hv is wanted of; empty where a single gradient is all that is needed.
        draw: makes the v of given parameters.
        method: ``"exact"`` or ``"finite_difference"``.

    Raises:
        TypeError: there is no closure, or it returned no loss.
        RuntimeError: the closure is one for the other method, or its loss is not one number.
    """
    if closure is None:
        raise TypeError(
            f"{name}: hessian={method!r} needs step(closure), and there is no closure. A GradScaler calls step() "
            "without one: drop the scaler and use torch.autocast with bfloat16, which needs none"
        )
    evaluate = _exact if method == "exact" else _finite_difference
    return evaluate(name, closure, params, set(probed), draw)


def _exact(name: str, closure: Closure, params: Sequence[Tensor], probed: set[Tensor], draw: Draw) -> Evaluation:
    """Hv as the gradient of gᵀv."""
    set_gradients(params, {})
    with _refusing_data_parallel(name, params):
        loss = evaluated(closure)
    _check_loss(name, loss, params)
    found = torch.autograd.grad(loss, params, create_graph=len(probed) > 0, allow_unused=True)
    gradients = {p: g for p, g in zip(params, found, strict=True) if g is not None}
    among = [p for p in gradients if p in probed]
    vectors = dict(zip(among, draw(among), strict=True))
    products = {p: torch.zeros_like(p) for p in among}
    curved = [p for p in among if gradients[p].requires_grad]
    if curved:
        found = torch.autograd.grad(
            [gradients[p] for p in curved],
            among,
            [vectors[p] for p in curved],
            allow_unused=True,
            materialize_grads=True,
        )
        products.update(zip(among, found, strict=True))
    gradients = {p: g.detach() for p, g in gradients.items()}
    set_gradients(params, gradients)
    return Evaluation(loss, gradients, vectors, products)


def _finite_difference(
    name: str, closure: Closure, params: Sequence[Tensor], probed: set[Tensor], draw: Draw
) -> Evaluation:
    """Hv = (g(θ + δv) - g(θ)) / δ with δ = √eps, both on the same random numbers of torch."""
    evaluations = Evaluations(closure, params)
    loss = evaluations.first(
        name,
        "With hessian='finite_difference' it calls loss.backward(); for one that only returns the loss there is "
        "hessian='exact'",
    )
    given = {p: p.grad for p in params if p.grad is not None}
    among = [p for p in given if p in probed]
    if not among:
        return Evaluation(loss, given, {}, {})
    vectors = dict(zip(among, draw(among), strict=True))
    delta = max(torch.finfo(p.dtype).eps for p in among) ** 0.5
    with evaluations.again(among, keep_gradients=True) as gradients:
        for p in among:
            p.add_(vectors[p], alpha=delta)
        evaluated(closure)
        products = {p: _difference(p.grad, gradients[p], delta) for p in among}
    return Evaluation(loss, gradients, vectors, products)


def _difference(moved: Tensor | None, g: Tensor, delta: float) -> Tensor:
    if moved is None:
        return torch.zeros_like(g)
    dtype = working_dtype(g.dtype)
    return (moved.to(dtype) - g.to(dtype)) / delta


@contextmanager
def _refusing_data_parallel(name: str, params: Sequence[Tensor]) -> Iterator[None]:
    """Raise where a DistributedDataParallel of ``params`` is called: only backward() averages over its ranks."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        yield
        return
    from torch.nn.parallel import DistributedDataParallel

    ours = set(params)

    def check(module: torch.nn.Module, _: Any) -> None:
        module = getattr(module, "_orig_mod", module)  # of torch.compile
        if isinstance(module, DistributedDataParallel) and not ours.isdisjoint(module.parameters()):
            raise RuntimeError(
                f"{name}: with hessian='exact' gradients and Hv are each rank's own, for DistributedDataParallel "
                "averages in backward() only, and the replicas would drift apart. Use hessian='finite_difference', "
                "with a closure that calls backward()"
            )

    handle = torch.nn.modules.module.register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _check_loss(name: str, loss: Any, params: Sequence[Tensor]) -> None:
    """Raise where there is nothing to differentiate twice."""
    contract = "With hessian='exact' the closure returns the loss, without calling backward()"
    if not isinstance(loss, Tensor):
        raise TypeError(f"{name}: the closure returned {loss!r:.50}. {contract}")
    if any(p.grad is not None for p in params):
        raise RuntimeError(
            f"{name}: the closure has called backward(). {contract}; for one that does there is "
            "hessian='finite_difference'"
        )
    if loss.numel() != 1:
        raise RuntimeError(f"{name}: the closure returned a loss of shape {tuple(loss.shape)}, reduce it: loss.mean()")
    if not loss.requires_grad:
        raise RuntimeError(f"{name}: the closure's loss has no graph. {contract}, detach() or no_grad()")
