"""The bundled problems, by name."""

from .digits import DigitsMLP
from .errors import require, unknown_name
from .problem import Problem, Target
from .surfaces import Rosenbrock

__all__ = ["PROBLEMS", "DigitsMLP", "Problem", "Rosenbrock", "Target", "get_problem"]

PROBLEMS: dict[str, type[Problem]] = {problem.name: problem for problem in (DigitsMLP, Rosenbrock)}


def get_problem(name: str) -> type[Problem]:
    """The problem of that name. Raises UsageError for an unknown name or a missing optional dependency."""
    if name not in PROBLEMS:
        raise unknown_name("problem", name, PROBLEMS)
    for module, package in PROBLEMS[name].requires:
        require(module, package)
    return PROBLEMS[name]
