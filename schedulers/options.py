"""Unknown keyword arguments: errors that name what was called, and the nearest option it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import update_wrapper
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

from .shapes import nearest

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


def check_options(owner: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raise TypeError for the first option that is none of the valid ones."""
    valid = list(dict.fromkeys(valid))
    for name in given:
        if name not in valid:
            raise TypeError(f"{owner} has no option {name!r}; {nearest(name, valid) if valid else 'it takes none'}")


def options_of(function: Callable[..., Any], further: Iterable[str]) -> list[str]:
    """What a function takes by name; ``further`` is what its ``**`` takes, if it has one."""
    found: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind == parameter.VAR_KEYWORD:
            found += further
        elif parameter.kind != parameter.VAR_POSITIONAL and name not in ("self", "cls"):
            found.append(name)
    return found


def named(function: Callable[_P, _R], further: Iterable[str] = ()) -> Callable[_P, _R]:
    """The function, with such an error for an unknown keyword."""
    owner = function.__qualname__.removesuffix(".__init__")
    valid, known, check = options_of(function, further), frozenset(options_of(function, further)), check_options

    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not kwargs.keys() <= known:
            check(owner, kwargs, valid)
        return function(*args, **kwargs)

    # Made with the globals of the function, by which doctest tells the functions that are a module's own.
    own = FunctionType(checked.__code__, function.__globals__, closure=checked.__closure__)
    return update_wrapper(own, function)


def with_named_options(cls: type[_T]) -> type[_T]:
    """The class, with such errors of its constructor and its public methods; not of those that pass ``**`` on."""
    for name, member in list(vars(cls).items()):
        function = member.__func__ if isinstance(member, classmethod) else member
        if not isinstance(function, FunctionType) or (name.startswith("_") and name != "__init__"):
            continue
        if not function.__code__.co_flags & inspect.CO_VARKEYWORDS:
            checked = named(function)
            setattr(cls, name, classmethod(checked) if isinstance(member, classmethod) else checked)
    return cls
