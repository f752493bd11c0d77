"""One key-frame schedule for code, YAML and checkpoints, and what theory says about it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .batch_scaling import batch_scaling
from .refine import Refined, refine
from .resolved import Resolved, shared_prefix
from .schedule import Schedule
from .sources import read_schedule
from .theory import best_lr, bound, compare, plan_extension, transfer_lr

if TYPE_CHECKING:
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
    from .scheduler import Scheduler
    from .tracks import Track

_LAZY = {  # these import torch, which a preview can do without
    "GradNormRecorder": "recorder",
    "Scheduler": "scheduler",
    "Track": "tracks",
    **dict.fromkeys(
        [
            "ConstantWarmup",
            "Linear",
            "Cosine",
            "WSD",
            "InverseSqrt",
            "Polynomial",
            "Exponential",
            "CosineRestarts",
            "OneCycle",
            "Power",
        ],
        "presets",
    ),
}

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


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
