"""What stays outside the graphs of torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def eager(function: _Function, recursive: bool = True) -> _Function:
    """``function`` outside the graphs of ``torch.compile``; with ``recursive=False`` what it calls may be compiled."""
    disable: Any = torch.compiler.disable
    result: _Function = disable(function, recursive=recursive)
    return result
