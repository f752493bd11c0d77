"""What the documentation shows runs, and what a user should find is there."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import optzoo
from optzoo.optimizers import list_optimizers, optimizer_info

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = [module.name for module in pkgutil.walk_packages(optzoo.__path__, "optzoo.")]


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", list_optimizers())
def test_docstring_says_what_one_must_know(name: str) -> None:
    info = optimizer_info(name)
    text = inspect.getdoc(info.optimizer_class) or ""
    for part in (f"arXiv:{info.arxiv}", "θ ← ", "When:", "State:", f"{info.state_bytes} bytes per parameter", ">>> "):
        assert part in text, f"{info.optimizer_class.__name__}: no {part!r}"
    if "Args:" in text:
        assert "Raises:" in text
        for argument in inspect.signature(info.optimizer_class.__init__).parameters:
            assert argument == "self" or re.search(rf"\n    (\*\*)?{argument}: ", text), argument


def test_readme_table_is_the_registry() -> None:
    for name in list_optimizers():
        info = optimizer_info(name)
        row = re.search(rf"^\| `{info.optimizer_class.__name__}` .*$", README, re.M)
        assert row, f"{name} is not in the README's table"
        assert f"https://arxiv.org/abs/{info.arxiv}" in row.group()
        assert f"| {info.state_bytes} |" in row.group()


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(script: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
