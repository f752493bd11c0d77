"""What an integration says where its framework is not installed."""

from __future__ import annotations

import importlib


def require(framework: str, extra: str, user: str) -> None:
    """Import ``framework``, or raise an ImportError that names the extra of this library that installs it."""
    try:
        importlib.import_module(framework)
    except ModuleNotFoundError as error:
        if error.name != framework:  # it is installed, and lacks something itself
            raise
        message = f"{user} needs {framework}, which is not installed: pip install 'optzoo[{extra}]'"
        raise ModuleNotFoundError(message, name=framework) from None
