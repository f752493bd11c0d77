"""One key-frame schedule for code, YAML and checkpoints, and what theory says about it."""

from .resolved import Resolved, shared_prefix
from .schedule import Schedule

__all__ = ["Resolved", "Schedule", "shared_prefix"]
