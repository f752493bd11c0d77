"""How a scheduler hears of its optimizer's steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from optzoo.unwrapping import unwrapped

if TYPE_CHECKING:
    from .scheduler import Scheduler


class Listener:
    """A post hook of an optimizer's step, for a scheduler.

    One that counts by it lives as long as the optimizer, for a user has nothing left to call. Others are not kept
    alive, and their hooks leave with them.
    """

    def __init__(self, scheduler: Scheduler, optimizer: Any) -> None:
        self._kept = scheduler if scheduler.clock == "optimizer" else None
        self.handle: RemovableHandle = optimizer.register_step_post_hook(self)
        leave = self.handle.remove  # which holds neither the scheduler nor the optimizer
        self.scheduler: Callable[[], Scheduler | None] = weakref.ref(scheduler, lambda _: leave())

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        scheduler = self.scheduler()
        if scheduler is None:
            return
        if not torch.compiler.is_compiling():
            scheduler.optimizer_stepped(optimizer)
        elif scheduler.clock == "optimizer":  # out of the graph, which would else be made anew for every value
            disable: Any = torch.compiler.disable
            disable(scheduler.optimizer_stepped)(optimizer)


def self_counting(optimizer: Any) -> list[Scheduler]:
    """The schedulers that count by this optimizer's steps."""
    hooks = getattr(unwrapped(optimizer), "_optimizer_step_post_hooks", {}).values()
    kept = [hook._kept for hook in hooks if isinstance(hook, Listener)]
    return [scheduler for scheduler in kept if scheduler is not None]
