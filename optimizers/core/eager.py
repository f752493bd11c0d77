"""What stays outside the graphs of torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def eager(function: _Function, recursive: bool = True) -> _Function:
    """``function`` outside the graphs of ``torch.compile``; with ``recursive=False`` what it calls may be compiled.

    ``torch.compiler.disable``, but as torch.optim does it: importing the compiler, which takes a second, is left to the
    first call.
    """
    untyped: Any = torch
    result: _Function = untyped._disable_dynamo(function, recursive=recursive)
    return result
