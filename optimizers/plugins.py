"""Optimizers of other packages: by import path, and by the entry points that packages announce."""

from __future__ import annotations

import importlib
import operator
import re
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeGuard

from torch.optim import Optimizer

from .core.options import nearest

GROUP = "optzoo.optimizers"
"""The group of entry points that are optimizers; their names are what ``create_optimizer`` takes."""
_NAME = re.compile(r"[a-z0-9_-]+")


def is_path(name: str) -> bool:
    """Whether it is an import path rather than a registered name, which has neither dot nor colon."""
    return ":" in name or "." in name


def import_path(path: str) -> Callable[..., Any]:
    """The class or function under "module:Class" or "module.Class".

    Raises:
        ValueError: there is none; the message says what failed, with the nearest name of the module.
    """
    module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module does as it is imported
        raise ValueError(f"optimizer {path!r}: cannot import {module_name!r} ({_said(error)})") from error
    try:
        found = operator.attrgetter(attribute)(module)
    except AttributeError:
        found = None
    if not callable(found):
        known = [name for name, item in vars(module).items() if is_optimizer(item) and item is not Optimizer]
        hint = nearest(attribute, known, "valid names:") if known else "it has no optimizers"
        raise ValueError(f"unknown optimizer of {module_name} {attribute!r}; {hint}")
    factory: Callable[..., Any] = found
    return factory


def is_optimizer(thing: object) -> TypeGuard[type[Optimizer]]:
    """Whether it is a class of optimizers, torch's or made like them."""
    return isinstance(thing, type) and issubclass(thing, Optimizer)


def check_class(optimizer_class: Any) -> None:
    """Raise TypeError unless it is a class of optimizers."""
    if not is_optimizer(optimizer_class):
        raise TypeError(f"an optimizer must be a subclass of torch.optim.Optimizer, not {optimizer_class!r}")


def path_of(optimizer_class: type) -> str:
    """The import path of a class."""
    return f"{optimizer_class.__module__}:{optimizer_class.__qualname__}"


class Plugins:
    """What other packages add to a registry; what they announce is looked for once, when it is first needed."""

    def __init__(self, registry: dict[str, Any], info_class: type[Any]) -> None:
        self.failed: dict[str, str] = {}
        """Why those that cannot be used cannot."""
        self._registry, self._info_class = registry, info_class
        self._loaded = False

    def add(self, info: Any) -> None:
        """Add one, or raise and change nothing."""
        if type(info) is not self._info_class:
            raise TypeError(f"register_optimizer takes an OptimizerInfo(name, optimizer_class), not {info!r}")
        if not (isinstance(info.name, str) and _NAME.fullmatch(info.name)):
            raise ValueError(f"an optimizer's name is of lower-case letters, digits, _ and -, not {info.name!r}")
        check_class(info.optimizer_class)
        known = self._registry.get(info.name)
        if known and path_of(known.optimizer_class) != path_of(info.optimizer_class):
            raise ValueError(f"the name {info.name!r} is taken by {path_of(known.optimizer_class)}; choose another")
        self._registry[info.name] = info

    def load(self) -> None:
        """Add what installed packages announce. What fails is left out with a warning."""
        if self._loaded:
            return
        self._loaded = True  # at once: a plugin may ask for optimizers as it is imported
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
            try:
                thing = entry.load()
                info = self._info_class(entry.name, thing) if isinstance(thing, type) else thing
                if getattr(info, "name", entry.name) != entry.name:
                    raise ValueError(f"its OptimizerInfo has another name, {info.name!r}")
                self.add(info)
            except Exception as error:  # a package that is broken must not break the others
                package = f" of {entry.dist.name}" if entry.dist else ""
                self.failed[entry.name] = f"entry point {entry.value}{package}: {_said(error)}"
                warnings.warn(
                    f"optzoo: the optimizer {entry.name!r} is left out ({self.failed[entry.name]})", stacklevel=3
                )


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ImportError) and str(error) else f"{type(error).__name__}: {error}"
