"""The monitor of update norms, for Lightning's Trainer."""

from __future__ import annotations

from lightning.pytorch import Callback


class UpdateNormMonitor(Callback):
    """Log how far each optimizer step moves the parameters."""
