"""What a user can get wrong, said in one sentence that names the way out."""

import difflib
import importlib.util
from collections.abc import Iterable


class UsageError(ValueError):
    """A request that cannot be run as asked; the command prints the message and exits with status 2."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `valid`: it offers the nearest ones, or all if none is near."""
    valid = sorted(set(valid))
    nearest = [repr(match) for match in nearest_names(name, valid)]
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"valid names: {', '.join(valid)}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")


def nearest_names(name: str, valid: Iterable[str]) -> list[str]:
    """Up to three of `valid` that may have been meant, whatever the case; the nearest first."""
    by_lower_case = {candidate.lower(): candidate for candidate in valid}
    return [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, n=3)]


def require(module: str, package: str, install: str = "optzoo[compare]") -> None:
    """Check, without paying for the import, that an optional dependency is installed."""
    if importlib.util.find_spec(module) is None:
        raise UsageError(f'{package} is not installed; run: pip install "{install}"')
