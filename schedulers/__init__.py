"""One key-frame schedule for code, YAML and checkpoints, and what theory says about it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .resolved import Resolved, shared_prefix
from .schedule import Schedule
from .sources import read_schedule

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
    from .scheduler import Scheduler
    from .tracks import Track

_LAZY = {  # these import torch, which a preview can do without
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
    "InverseSqrt",
    "Linear",
    "OneCycle",
    "Polynomial",
    "Power",
    "Resolved",
    "Schedule",
    "Scheduler",
    "Track",
    "read_schedule",
    "shared_prefix",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
