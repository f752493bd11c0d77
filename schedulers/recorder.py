"""A recorder of the gradient norms that an optimizer sees."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from optzoo.unwrapping import unwrapped

from . import recording
from .recording import NORMS, Recording

_Item = TypeVar("_Item")
_FLUSH = 64  # so many records wait on the device: reading them stops the host until the device is done


class GradNormRecorder:
    """Record the norms of the gradients an optimizer steps with, for :func:`optzoo.schedulers.refine`.

    It is a hook of the optimizer's step, so gradients are accumulated, unscaled, all-reduced and clipped as the
    optimizer sees them; of a closure, its first evaluation counts. Works with every torch optimizer, those around
    others (:class:`optzoo.optimizers.Lookahead`), prepared by Lightning or Accelerate, GradScaler also with fused
    steps, DDP and DTensors (FSDP2), where a step costs one all-reduce of a few numbers on all ranks. Shards that are
    plain tensors, as those of the older ``FullyShardedDataParallel``, look like whole parameters and are not summed.

    Norms are over all parameters. A step where they are not finite is left out: nan in the arrays, null in the file.

    Args:
        optimizer: whose steps are recorded; its parameters, groups and lr are read at each step.
        norms: which: ``"l1"`` Σ|g|, ``"l2"`` √Σg², ``"update"`` ⟨g, θ_t - θ_{t+1}⟩ / lr without decoupled weight decay,
            which takes a copy of the parameters. Each is a pass over the gradients; ``every`` makes them rare. Default
            ``("l1", "l2")``.
        every: record each so many steps, >= 1. Default 1.
        max_points: beyond so many records every other one is dropped and ``every`` doubles, >= 8. Default 20000.

    Raises:
        TypeError: what is given is not an optimizer.
        ValueError: an unknown norm, or a number out of its range.

    >>> w = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
    >>> optimizer = torch.optim.SGD([w], lr=0.1)
    >>> recorder = GradNormRecorder(optimizer)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     (w**2).sum().div(2).backward()
    ...     optimizer.step()
    >>> recorder.recording.norms["l2"].round(4).tolist(), recorder.recording.norms["l1"].round(4).tolist()
    ([5.0, 4.5, 4.05], [7.0, 6.3, 5.67])
    >>> recorder.remove()
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        norms: Sequence[str] = ("l1", "l2"),
        every: int = 1,
        max_points: int = 20_000,
    ) -> None:
        owner = type(self).__name__
        stepping = unwrapped(optimizer)
        if not hasattr(stepping, "_optimizer_step_post_hooks"):
            raise TypeError(f"{owner}: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        names = (norms,) if isinstance(norms, str) else tuple(norms)
        if not names or not set(names) <= set(NORMS):
            raise ValueError(f"{owner}: norms must be some of {', '.join(map(repr, NORMS))}, got {norms!r}")
        for name, value, least in (("every", every, 1), ("max_points", max_points, 8)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{owner}: {name} must be a whole number >= {least}, got {value!r}")
        self.optimizer, self.max_points = stepping, max_points
        self._names = tuple(name for name in NORMS if name in names)
        self._orders = [order for name, order in (("l1", 1), ("l2", 2)) if name in names]
        self._recording = Recording(
            0, every, {name: np.empty(0) for name in self._names}, optimizer=type(stepping).__name__
        )
        self._current: tuple[list[Tensor], Any, list[_Move]] | None = None
        self._pending: list[tuple[Tensor | None, Any]] = []
        self._handles = [
            stepping.register_step_pre_hook(partial(_eagerly, self._pre_step)),
            stepping.register_step_post_hook(partial(_eagerly, self._post_step)),
        ]

    @property
    def recording(self) -> Recording:
        """What has been recorded: ``norms`` by name, ``lrs``, ``every`` and ``total``, the number of steps."""
        self._flush()
        return self._recording

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what has been recorded to a ``.json`` or ``.npz`` file; one that exists is replaced.

        Every rank has the same numbers and may call it alone. Warns where the gradients were clipped in most steps:
        their l2 norms are then flat, and refining gives linear decay.
        """
        found = self.recording
        recording.save(found, path)
        if found.clipped > 0.5:
            warnings.warn(
                f"the l2 norm is at its largest value in {found.clipped:.0%} of the steps, as clipping makes it: a "
                "schedule refined from it will be near linear decay. Record with a higher limit",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """What has been recorded, as plain numbers: for checkpoints, and the content of the file."""
        return self.recording.state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with what another recorder of the same norms has recorded."""
        loaded = Recording.from_state(state_dict)
        if set(loaded.norms) != set(self._names):
            raise ValueError(
                f"the state has the norms {', '.join(loaded.norms)}, this recorder {', '.join(self._names)}; "
                f"make it with norms={tuple(loaded.norms)!r}"
            )
        self._pending.clear()
        self._recording = loaded

    def remove(self) -> None:
        """Stop recording; what has been recorded stays."""
        for handle in self._handles:
            handle.remove()
        self._current = None

    # The step

    def _pre_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._current = None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._look(optimizer)
            return None

        def looked_at() -> Any:
            loss = closure()  # which makes the gradients
            if self._current is None:
                self._look(optimizer)
            return loss

        if len(args) > 1:
            return (args[0], looked_at, *args[2:]), kwargs
        return args, {**kwargs, "closure": looked_at}

    @torch.no_grad()
    def _look(self, optimizer: Any) -> None:
        """Before the parameters move."""
        groups = optimizer.param_groups
        if self._recording.total % self._recording.every:
            return
        found = [(group, p, _placed_as(p.grad, p)) for group in groups for p in group["params"] if p.grad is not None]
        scale = getattr(optimizer, "grad_scale", None)  # a fused step under GradScaler unscales by itself
        sums = []
        if found and self._orders:
            sums.append(_over_shards([(g, g) for _, _, g in found], partial(_power_sums, self._orders)))
            if scale is not None:
                sums[0] /= torch.stack([scale**order for order in self._orders]).to(sums[0])
        moves: list[_Move] = []
        if "update" in self._names:  # a fused step may unscale gradients in place
            moves = [(group, p, _local(p).clone(), g if scale is None else g / scale) for group, p, g in found]
        self._current = sums, _unaliased(groups[0]["lr"]), moves

    @torch.no_grad()
    def _post_step(self, *_: Any) -> None:
        """After they have moved."""
        self._recording.total += 1
        if self._current is None:
            return
        sums, lr, moves = self._current
        self._current = None
        if moves:
            sums.append(_over_shards([(move[-1], move) for move in moves], _along_gradient))
        self._pending.append((torch.cat([part.to(sums[0].device) for part in sums]) if sums else None, lr))
        if len(self._pending) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        sums, lrs = zip(*self._pending, strict=True)
        self._pending.clear()
        table = np.full((len(sums), len(self._names)), np.nan)
        known = [i for i, row in enumerate(sums) if row is not None]  # those with gradients
        if known:
            table[known] = torch.stack([sums[i] for i in known]).cpu().double().numpy()
        table[~np.isfinite(table).all(1)] = np.nan
        found = self._recording
        for name, column in zip(self._names, table.T, strict=True):
            found.norms[name] = np.append(found.norms[name], np.sqrt(column) if name == "l2" else column)
        found.lrs = np.append(found.lrs, [np.nan if lr is None else float(lr) for lr in lrs])
        while len(found.lrs) > self.max_points:
            found.norms = {name: values[::2] for name, values in found.norms.items()}
            found.lrs, found.every = found.lrs[::2], 2 * found.every


def _eagerly(hook: Callable[..., Any], *args: Any) -> Any:
    """Out of the graph of a compiled step, which would else be made anew at every step."""
    if torch.compiler.is_compiling():
        disable: Any = torch.compiler.disable
        hook = disable(hook)
    return hook(*args)


_Move: TypeAlias = "tuple[dict[str, Any], Tensor, Tensor, Tensor]"
"""Group, parameter, what it was, gradient."""


def _over_shards(items: Sequence[tuple[Tensor, _Item]], sums: Callable[[list[_Item]], Tensor]) -> Tensor:
    """The sums over all items; each comes with the tensor that knows how it is sharded."""
    together: dict[Any, list[_Item]] = {}
    for tensor, item in items:
        together.setdefault(_sharded_over(tensor), []).append(item)
    parts = []
    for sharding, members in together.items():
        part = sums(members)
        if sharding is not None:
            mesh, dims = sharding
            for dim in dims:
                torch.distributed.all_reduce(part, group=mesh.get_group(dim))
        parts.append(part)
    return torch.stack([part.to(parts[0].device) for part in parts]).sum(0)


def _power_sums(orders: Sequence[int], grads: list[Tensor]) -> Tensor:
    """Σ|g|^order for each order."""
    alike: dict[Any, list[Tensor]] = {}
    for grad in map(_local, grads):
        alike.setdefault((grad.device, grad.dtype), []).append(grad)
    parts = []
    for tensors in alike.values():
        norms = [torch.stack(torch._foreach_norm(tensors, order, dtype=_summing(tensors[0]))) for order in orders]
        parts.append(torch.stack([norm.pow(order).sum() for norm, order in zip(norms, orders, strict=True)]))
    return torch.stack([part.to(parts[0]) for part in parts]).sum(0)


def _along_gradient(moves: list[_Move]) -> Tensor:
    """Σ ⟨g, θ_t - θ_{t+1}⟩ / lr without decoupled weight decay."""
    terms = []
    for group, param, before, grad in moves:
        lr, dtype = group["lr"], _summing(before)
        step = before.to(dtype) - _local(param).to(dtype)
        if group.get("decoupled_weight_decay") and group.get("weight_decay"):
            step = step - lr * group["weight_decay"] * before.to(dtype)
        along = (_local(grad).to(dtype) * step).sum() / lr  # not finite where lr is 0
        terms.append(-along if group.get("maximize") else along)
    return torch.stack([term.to(terms[0]) for term in terms]).sum(0, keepdim=True)


def _summing(tensor: Tensor) -> torch.dtype:
    """Float32, or float64 where the tensor has it."""
    return torch.float64 if tensor.dtype in (torch.float64, torch.complex128) else torch.float32


# DTensors; torch.distributed need not be there


def _local(tensor: Tensor) -> Tensor:
    """This rank's part, dense and real."""
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _placed_as(grad: Any, param: Any) -> Tensor:
    """The gradient in its parameter's shards; it may come whole, or as a sum that is still to be made."""
    if not hasattr(grad, "placements") or grad.placements == param.placements:
        return grad  # type: ignore[no-any-return]
    return grad.redistribute(placements=param.placements)  # type: ignore[no-any-return]


def _sharded_over(tensor: Tensor) -> tuple[Any, tuple[int, ...]] | None:
    """The mesh and its dimensions over which parts of the tensor lie."""
    if not hasattr(tensor, "placements"):
        return None
    dims = tuple(dim for dim, placement in enumerate(tensor.placements) if not placement.is_replicate())
    return (tensor.device_mesh, dims) if dims else None  # type: ignore[attr-defined]


def _unaliased(lr: Any) -> Any:
    """A schedule changes an lr that is a Tensor in place."""
    return lr.detach().clone() if isinstance(lr, Tensor) else lr
