"""The monitor of update norms, for Hugging Face's Trainer."""

from __future__ import annotations

from transformers import TrainerCallback


class UpdateNormCallback(TrainerCallback):
    """Log how far each optimizer step moves the parameters."""
