"""Make `reference` and `support` importable, and say which tests need more than Python.

pytest's importlib mode puts no test folder on `sys.path`.
"""

import os
import shutil
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one test per core, each with one thread; before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

sys.path.insert(0, str(Path(__file__).parent))

BROWSER = "chromium"
COMPILERS = (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a C++ compiler or a browser some things cannot be tested; CI must have them, and fails without."""
    if item.get_closest_marker("compiled") and not os.environ.get("CI") and not any(map(shutil.which, COMPILERS)):
        pytest.skip("needs a C++ compiler, and there is none on PATH")
    if item.get_closest_marker("browser") and not os.environ.get("CI") and not shutil.which(BROWSER):
        pytest.skip("needs Debian's package chromium, and there is none on PATH")
