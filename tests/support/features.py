"""Features that not every supported version of torch has: their tests are skipped there, and say so."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch


def needs(feature: str, there: bool) -> None:
    """Skip the test that runs unless torch has the feature."""
    if not there:
        pytest.skip(f"torch {torch.__version__} has no {feature}")


def needs_option(function: Any, *names: str) -> None:
    """Skip the test that runs unless a function or class of torch takes these arguments."""
    known = inspect.signature(function).parameters
    for name in names:
        needs(f"{function.__qualname__}({name}=)", name in known)
