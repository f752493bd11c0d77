"""One key-frame schedule for code, YAML and checkpoints, and what theory says about it.

What needs torch or NumPy is imported when it is first used: a preview of a schedule needs neither.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .resolved import Resolved, shared_prefix
from .schedule import Schedule
from .sources import read_schedule

if TYPE_CHECKING:
    from .batch_scaling import batch_scaling
    from .presets import (
        WSD,
        ConstantWarmup,
        Cosine,
        CosineRestarts,
        Exponential,
        InverseSqrt,
        Linear,
        OneCycle,
        Polynomial,
        Power,
    )
    from .recorder import GradNormRecorder
    from .refine import Refined, refine
    from .scheduler import Scheduler
    from .theory import best_lr, bound, compare, plan_extension, transfer_lr
    from .tracks import Track

__all__ = [
    "WSD",
    "ConstantWarmup",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "GradNormRecorder",
    "InverseSqrt",
    "Linear",
    "OneCycle",
    "Polynomial",
    "Power",
    "Refined",
    "Resolved",
    "Schedule",
    "Scheduler",
    "Track",
    "batch_scaling",
    "best_lr",
    "bound",
    "compare",
    "plan_extension",
    "read_schedule",
    "refine",
    "shared_prefix",
    "transfer_lr",
]

_ELSEWHERE = {
    "GradNormRecorder": "recorder",
    "Refined": "refine",
    "Scheduler": "scheduler",
    "Track": "tracks",
    "batch_scaling": "batch_scaling",
    "refine": "refine",
    **dict.fromkeys(["best_lr", "bound", "compare", "plan_extension", "transfer_lr"], "theory"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ELSEWHERE.get(name, 'presets')}", __name__), name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Importing a submodule makes it an attribute of its package; ``refine`` is to stay the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _ELSEWHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
