"""What stays outside the graphs of torch.compile, decided without importing the compiler, which takes a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def eager(function: _Function) -> _Function:
    """``function`` and all it calls outside the graphs: ``torch.compiler.disable`` at the first call."""
    untyped: Any = torch
    result: _Function = untyped._disable_dynamo(function)
    return result


class EagerFrame:
    """A method that stays outside the graphs while what it calls may be compiled.

    ``torch.compiler.disable(method, recursive=False)`` when the method is first looked up. ``torch._disable_dynamo``
    would leave a frame of torch's own around it, which ``torch.compile(..., fullgraph=True)`` refuses.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self._disabled: Any = None

    def __get__(self, instance: Any, owner: type) -> Any:
        if self._disabled is None:
            disable: Any = torch.compiler.disable
            self._disabled = disable(self._method, recursive=False)
        return self._disabled.__get__(instance, owner)
