"""PyTorch optimizers that equal their papers, with schedules, framework integrations and a comparison.

The parts are imported when they are first asked for: ``optzoo.optimizers.AdamW`` works after ``import optzoo``, which
does not import torch by itself.

>>> import optzoo
>>> optzoo.optimizers.list_optimizers("adam*")
['adam', 'adamw']
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from . import compare, integrations, optimizers, schedulers

__version__ = version("optzoo")
__all__ = ["__version__", "compare", "integrations", "optimizers", "schedulers"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'optzoo' has no attribute {name!r}; it has {', '.join(__all__)}")
    return importlib.import_module(f"optzoo.{name}")


def __dir__() -> list[str]:
    return __all__
