"""Closures that one step evaluates more than once, each time as if it were the first."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .joining import overlaps

Closure: TypeAlias = Callable[[], Any]


def evaluated(closure: Closure) -> Any:
    """The closure's value, with gradients enabled."""
    with torch.enable_grad():
        return closure()


def calls_backward(optimizer: torch.optim.Optimizer) -> bool | None:
    """Whether the closure that ``step`` needs calls backward(), or only returns the loss; None where it needs none.

    An optimizer says so by an attribute ``closure_calls_backward``, which its options may decide; of one that does not,
    a closure without default is an ordinary one.
    """
    said: bool | None = getattr(optimizer, "closure_calls_backward", None)
    if said is not None:
        return said
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return True if closure is not None and closure.default is closure.empty else None


def is_still(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every lr is 0: such a step makes state and moves nothing, so it needs no closure.

    torch.distributed.checkpoint makes one, without a closure, when it reads a fresh optimizer.
    """
    return all(group.get("lr") is not None and not group["lr"] for group in optimizer.param_groups)


def step_on(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Any:
    """A step on a loss: by the closure that the optimizer needs or, where it needs none, after backward()."""
    kind = calls_backward(optimizer)
    step: Callable[..., Any] = optimizer.step

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        if kind is not False:
            torch.autograd.backward(value)
        return value

    if kind is None:
        closure()
        return step()
    return step(closure)


def step_on_gradients(optimizer: torch.optim.Optimizer, curvature: float = 0.0) -> Any:
    """A step on the gradients that are there, for measurements of steps whatever closure they need.

    curvature: of the loss that has these gradients here, in all directions; what makes a second evaluation differ.
    """
    kind = calls_backward(optimizer)
    if kind is None:
        return optimizer.step()
    given = [(p, p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    starts = [p.detach().clone() for p, _ in given] if curvature else []

    def ordinary() -> None:
        for i, (p, g) in enumerate(given):
            p.grad = g.add(p.detach() - starts[i], alpha=curvature) if curvature else g

    def plain() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for i, (p, g) in enumerate(given):
            p.grad = None
            p, g, start = [_real(t) for t in (p, g, starts[i] if curvature else p.detach())]
            total = total + ((p * g).sum() + (p - start).square().sum() * (curvature / 2)).to(total)
        return total

    step: Callable[..., Any] = optimizer.step
    return step(ordinary if kind else plain)


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def set_gradients(params: Sequence[Tensor], gradients: Mapping[Tensor, Tensor]) -> None:
    """Give ``params`` these gradients, and none where there is none."""
    for p in params:
        p.grad = gradients.get(p)


class Evaluations:
    """The evaluations of one closure in one step: the first, and others at points of their own.

    All see the same random numbers of torch, and what the first leaves behind is what one leaves behind: the others
    change neither generators nor buffers, so averages that modules keep, as in batch norm, see the first alone. Each
    begins without gradients.

    >>> w = nn.Parameter(torch.tensor([1.0]))
    >>> def closure():
    ...     loss = (w * torch.rand(1)).sum()
    ...     loss.backward()
    ...     return loss
    >>> evaluations = Evaluations(closure, [w])
    >>> with torch.no_grad():
    ...     loss = evaluations.first("Example", "it calls backward()")
    ...     with evaluations.again([w], keep_gradients=True) as gradients:
    ...         _ = w.mul_(2)
    ...         again = evaluated(closure)
    >>> torch.equal(again, 2 * loss), w.item()
    (True, 1.0)
    """

    def __init__(self, closure: Closure, params: Sequence[Tensor]) -> None:
        """params: those whose gradients the closure makes."""
        self.closure, self.params = closure, params
        self._devices = self._devices_of(params)
        self._at_first = self._states()

    def first(self, name: str, contract: str) -> Any:
        """The closure's value where the parameters are.

        Raises RuntimeError where it makes no gradient, by the optimizer's ``name`` and with what its closure must do.
        """
        set_gradients(self.params, {})
        value = evaluated(self.closure)
        if all(p.grad is None for p in self.params):
            raise RuntimeError(f"{name}: no parameter has a gradient after the closure. {contract}")
        return value

    @contextmanager
    def again(self, moved: Sequence[Tensor], *, keep_gradients: bool) -> Iterator[dict[Tensor, Tensor]]:
        """A block in which ``moved`` may be displaced and the closure evaluated; it is given the first gradients.

        Afterwards parameters, buffers and generators are as they were, to the bit, and so are the gradients if they are
        kept or the block raises.
        """
        given = {p: p.grad for p in self.params if p.grad is not None}
        # DistributedDataParallel writes the next ones into the same memory.
        kept = {p: g.clone() for p, g in given.items()} if keep_gradients else given
        points, after_first, done = Points(moved), self._states(), False
        try:
            self._restore(self._at_first)
            set_gradients(self.params, {})
            torch.clear_autocast_cache()  # which has the weights before they are moved
            with buffers_kept():
                yield kept
            done = True
        finally:
            points.restore()
            torch.clear_autocast_cache()
            if keep_gradients or not done:
                set_gradients(self.params, {p: g.copy_(kept[p]) for p, g in given.items()})
            self._restore(after_first)

    # The global random number generators a closure may draw from: that of the CPU and those of the devices

    @staticmethod
    def _devices_of(params: Sequence[Tensor]) -> list[torch.device]:
        return sorted({p.device for p in params if p.device.type not in ("cpu", "meta")}, key=str)

    def _states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *[torch.get_device_module(d).get_rng_state(d) for d in self._devices]]

    def _restore(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for device, state in zip(self._devices, states[1:], strict=True):
            torch.get_device_module(device).set_rng_state(state, device)


class Points:
    """Where some parameters are now, to bring them back to: subtracting a displacement would leave rounding errors."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._points = [(p, p.detach().clone()) for p in params]

    @torch.no_grad()
    def restore(self) -> None:
        for p, point in self._points:
            p.copy_(point)


@contextmanager
def buffers_kept() -> Iterator[None]:
    """A block after which the buffers of all modules that run in it are as they were.

    They are found by what is called. Of a compiled module the outermost call is enough; modules within a function that
    is compiled as a whole are not seen. A buffer whose elements share memory cannot have been written to.
    """
    seen: set[int] = set()
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, _: Any) -> None:
        if id(module) in seen:
            return
        for part in module.modules():
            if id(part) not in seen:
                seen.add(id(part))
                own = [b for _, b in part.named_buffers(recurse=False) if b.layout is torch.strided and not overlaps(b)]
                kept.extend((b, b.detach().clone()) for b in own)

    handle = nn.modules.module.register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        with torch.no_grad():
            for buffer, before in kept:  # whether it has changed its version does not tell: batch norm's does not count
                buffer.copy_(before)
