"""Step hooks of an optimizer within another: each is called once, whatever calls whose ``step``."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

from .eager import EagerFrame, eager


class _Steps(threading.local):
    """The steps under way in this thread."""

    def __init__(self) -> None:
        self.hooked: list[Any] = []
        """Optimizers whose hooks are being called around what runs now."""
        self.within: list[Any] = []
        """Optimizers that step as part of another's step, around which the global hooks are called."""


_steps = _Steps()


def hooked(step: Callable[..., Any]) -> Any:
    """The method ``step`` of a wrapper with hooks around it, in torch.optim's order.

    A ``step`` that a subclass overrides is within hooks already when it calls this one. torch.optim leaves alone what
    is marked as hooked: it would call the global hooks around a base, too, before its wrapper has done its work.
    """
    plain, takes_closure = EagerFrame(step), "closure" in inspect.signature(step).parameters

    def with_hooks(self: Any, *args: Any, **kwargs: Any) -> Any:
        own_step, hooks = _enter(self, plain)
        if hooks is None:
            return own_step(*args, **kwargs)
        pre_hooks, post_hooks = hooks
        if takes_closure and args:  # by name, so that a hook may replace it
            closure, *rest = args
            args, kwargs = tuple(rest), {"closure": closure, **kwargs}
        if kwargs.get("closure", self) is None:
            del kwargs["closure"]
        given: tuple[Any, ...] = (self, *args)
        try:
            for pre_hook in pre_hooks():
                changed = pre_hook(self, given, kwargs)
                if changed is not None:
                    given, kwargs = _checked(self, changed)
            value = own_step(*given[1:], **kwargs)
            for post_hook in post_hooks():
                post_hook(self, given, kwargs)
        finally:
            _leave(self)
        return value

    with_hooks.__doc__, with_hooks.__name__ = step.__doc__, step.__name__
    with_hooks.__wrapped__ = step  # type: ignore[attr-defined]  # its signature
    with_hooks.hooked = True  # type: ignore[attr-defined]
    return EagerFrame(with_hooks)


@eager
def _enter(optimizer: Any, step: EagerFrame) -> tuple[Any, tuple[Callable[[], Any], Callable[[], Any]] | None]:
    """The method ``step``, and what gives the hooks before and after it; None if they are being called already."""
    own_step = step.__get__(optimizer, type(optimizer))
    if _holds(_steps.hooked, optimizer):
        return own_step, None
    before, after = ({}, {}) if _holds(_steps.within, optimizer) else _global_hooks()
    own_before, own_after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    _steps.hooked.append(optimizer)
    return own_step, (
        eager(lambda: [*before.values(), *own_before.values()]),
        eager(lambda: [*own_after.values(), *after.values()]),  # read after the step
    )


@eager
def _leave(optimizer: Any) -> None:
    _steps.hooked.pop()


@eager
def _checked(optimizer: Any, changed: Any) -> Any:
    if isinstance(changed, tuple) and len(changed) == 2:
        return changed
    name = type(optimizer).__name__
    raise RuntimeError(f"{name}: a step pre hook must return None or (new_args, new_kwargs), got {changed!r}")


class Within:
    """A block in which ``optimizer`` steps as part of another's step: with its own hooks, without the global ones."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    @eager
    def __enter__(self) -> None:
        for hooks in _global_hooks():
            for key, hook in hooks.items():
                if not isinstance(hook, _Outermost):
                    hooks[key] = _Outermost(hook)
        _steps.within.append(self._optimizer)

    @eager
    def __exit__(self, *_: Any) -> None:
        _steps.within.pop()


class _Outermost:
    """A global hook that is not called for an optimizer within another; torch has no other way to leave one out."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    @eager
    def __call__(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        return None if _holds(_steps.within, optimizer) else self.hook(optimizer, args, kwargs)


def _holds(optimizers: list[Any], optimizer: Any) -> bool:
    return any(each is optimizer for each in optimizers)


def _global_hooks() -> tuple[dict[int, Any], dict[int, Any]]:
    untyped: Any = torch_optimizer
    return untyped._global_optimizer_pre_hooks, untyped._global_optimizer_post_hooks
