"""The bundled problems, by name and by selection; and a user's own, by import path."""

import importlib
import logging
from collections.abc import Iterable

from ..errors import UsageError, require, unknown_name
from ..problem import Problem, Target
from .convex import CONVEX
from .digits import DIGITS, DigitsMLP
from .matrix import MATRIX
from .names import NamesLM
from .real import REAL
from .surfaces import SURFACES, Rosenbrock
from .traps import TRAPS

__all__ = ["PROBLEMS", "SELECTIONS", "DigitsMLP", "Problem", "Rosenbrock", "Target", "get_problem", "select_problems"]

PROBLEMS: dict[str, type[Problem]] = {
    problem.name: problem for problem in (*SURFACES, *CONVEX, *MATRIX, *DIGITS, *REAL, NamesLM, *TRAPS)
}
"""Every bundled problem."""

SELECTIONS = ("core", "quick", "full")
"""Tags that select problems without an "@" before them."""

logger = logging.getLogger(__name__)


def select_problems(items: Iterable[str | type[Problem]]) -> list[type[Problem]]:
    """The problems of names, import paths, classes and selections, each once, in order.

    A selection has the problems that can run here: one whose optional dependency is missing is left out, and a warning
    is logged (unless logging is configured otherwise, a line on standard error) that says which, and what to install.

    Args:
        items: Each "core", "quick" or "full"; "@" and a family or tag, such as "@convex"; or what `get_problem` takes.

    Raises:
        UsageError: Nothing has that name; the message offers the nearest. Or as `get_problem` does.

    Example::

        >>> from optzoo.compare.problems import select_problems
        >>> [problem.name for problem in select_problems(["rosenbrock", "rosenbrock"])]
        ['rosenbrock']
    """
    selected: dict[type[Problem], None] = {}
    for item in items:
        if isinstance(item, str) and (item in SELECTIONS or item.startswith("@")):
            selected.update(dict.fromkeys(_tagged(item.removeprefix("@"))))
        else:
            selected[get_problem(item)] = None
    return list(selected)


def get_problem(item: str | type[Problem]) -> type[Problem]:
    """The problem of a name, of an import path "module:Class", or the class itself.

    Raises UsageError for an unknown name, a class that is no complete problem, or a missing optional dependency.
    """
    if isinstance(item, str) and ":" not in item:
        if item not in PROBLEMS:
            raise unknown_name("problem", item, PROBLEMS)
        problem = PROBLEMS[item]
    else:
        problem = _checked(_import(item) if isinstance(item, str) else item)
    for dependency in problem.requires:
        require(*dependency)
    return problem


def _tagged(tag: str) -> list[type[Problem]]:
    found = [problem for problem in PROBLEMS.values() if tag in {problem.family, *problem.tags}]
    if not found:
        raise unknown_name("selection of problems", tag, {p.family for p in PROBLEMS.values()}.union(*_tags()))
    runnable, left_out = [], dict[str, list[str]]()
    for problem in found:
        try:
            runnable.append(get_problem(problem.name))
        except UsageError as missing:
            left_out.setdefault(str(missing), []).append(problem.name)
    for reason, names in left_out.items():
        logger.warning("optzoo: %s without %s: %s", tag, ", ".join(names), reason)
    return runnable


def _tags() -> list[frozenset[str]]:
    return [problem.tags for problem in PROBLEMS.values()]


def _import(path: str) -> object:
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:  # ValueError: an empty or relative module name
        raise UsageError(f"problem {path!r}: cannot import {module_name!r} ({error})") from error
    if not hasattr(module, attribute):
        valid = [name for name, item in vars(module).items() if isinstance(item, type) and issubclass(item, Problem)]
        raise unknown_name(f"problem of {module_name}", attribute, valid)
    return getattr(module, attribute)


def _checked(problem: object) -> type[Problem]:
    """That class, complete: found out before the work, not in a worker process."""
    if not (isinstance(problem, type) and issubclass(problem, Problem)):
        raise UsageError(f"{problem!r} is no problem: it must be a subclass of optzoo.compare.problem.Problem")
    lacking = [name for name in ("name", "budget", "target") if not hasattr(problem, name)]
    lacking += [f"{name}()" for name in sorted(problem.__abstractmethods__)]
    if lacking:
        raise UsageError(f"problem {problem.__name__} lacks {', '.join(lacking)}")
    for name in ("budget", "eval_every"):
        if not (isinstance(value := getattr(problem, name), int) and value > 0):
            raise UsageError(f"problem {problem.__name__}: {name} must be a positive number of steps, not {value!r}")
    return problem
