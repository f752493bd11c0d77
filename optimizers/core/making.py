"""What makes the optimizer inside a wrapper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch

from optzoo.unwrapping import unwrapped

from .optimizer import Optimizer
from .options import missing_arguments

Base: TypeAlias = Callable[[Iterable[Any]], Optimizer] | Callable[[Iterable[Any]], torch.optim.Optimizer]
"""What makes an optimizer of parameters. Command lines look short names up in this order: AdamW is that of optzoo."""


def made(owner: str, base: Base | str, params: Any, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """What ``base``, or the optimizer registered under that name, makes of the parameters; ``owner`` asks for it."""
    make: Any = base
    wanted = f"{owner}: base must be what makes an optimizer of parameters, such as torch.optim.SGD, got "
    if isinstance(base, str):
        from ..registry import optimizer_info  # which knows the wrappers

        try:
            make = optimizer_info(base).optimizer_class
        except ValueError as error:
            raise TypeError(f"{wanted}{base!r}, and {error}") from error
    if isinstance(base, torch.optim.Optimizer):
        raise TypeError(f"{wanted}a {type(base).__name__}; to wrap it, {owner}(optimizer)")
    if not callable(make):
        raise TypeError(f"{wanted}{base!r}")
    called = getattr(make, "__name__", None) or getattr(getattr(make, "func", make), "__name__", repr(make))
    if missing := missing_arguments(make, options):
        raise TypeError(
            f"{owner}: base {called} needs {', '.join(missing)}, which it has no default for; pass it here, "
            f"{owner}(params, {called}, {missing[0]}=...), or bind it with functools.partial"
        )
    optimizer = make(params, **options)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"{owner}: base must make a torch.optim.Optimizer, {called} made {type(optimizer).__name__}")
    return optimizer


def check_made(
    owner: str, optimizer: torch.optim.Optimizer, base: Base | str | None, options: Mapping[str, Any]
) -> None:
    """TypeError if ``optimizer`` is prepared by a framework, or if there is also what only makes one."""
    name = type(optimizer).__name__
    if unwrapped(optimizer) is not optimizer:
        raise TypeError(
            f"{owner} around {name}: make it of the optimizer itself, {owner}(optimizer), and let the framework "
            "prepare that"
        )
    for extra in ["base"] * (base is not None) + sorted(options):
        raise TypeError(
            f"{owner}: {extra} is for making an optimizer of parameters, and {name} is made already; give the "
            f"parameters instead of it, or leave {extra} out"
        )
