"""How a scheduler hears of its optimizer's steps."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

if TYPE_CHECKING:
    from .scheduler import Scheduler


class Listener:
    """A post hook of an optimizer's step, for a scheduler, which it does not keep alive."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = weakref.ref(scheduler)

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        scheduler = self._scheduler()
        if scheduler is None:
            return
        if not torch.compiler.is_compiling():
            scheduler.optimizer_stepped(optimizer)
        elif scheduler.clock == "optimizer":  # out of the graph, which would else be made anew for every value
            disable: Any = torch.compiler.disable
            disable(scheduler.optimizer_stepped)(optimizer)
