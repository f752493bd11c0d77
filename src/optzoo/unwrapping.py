"""The optimizer within what a training framework hands back."""

from __future__ import annotations

from typing import Any

_WRAPPERS = {
    "AcceleratedOptimizer": ("accelerate",),
    "LightningOptimizer": ("lightning", "pytorch_lightning"),
    "_FabricOptimizer": ("lightning", "lightning_fabric"),
}
"""Classes of frameworks that hold an optimizer and pass its step on, and the packages they come from."""


def unwrapped(optimizer: Any) -> Any:
    """The optimizer itself, out of ``accelerator.prepare(...)``, ``self.optimizers()`` or ``fabric.setup(...)``.

    Wrappers that do work of their own, Lookahead and Cautious among them, are optimizers themselves and stay.
    """
    while any(cls.__module__.partition(".")[0] in _WRAPPERS.get(cls.__name__, ()) for cls in type(optimizer).__mro__):
        optimizer = optimizer.optimizer
    return optimizer
