"""What the documentation shows runs, and what a user should find is there."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import optzoo
from optzoo.optimizers import list_optimizers, optimizer_info, registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = [module.name for module in pkgutil.walk_packages(optzoo.__path__, "optzoo.")]


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module: str) -> None:
    tested, registered = importlib.import_module(module), dict(registry._REGISTRY)
    result = doctest.testmod(tested, optionflags=doctest.ELLIPSIS)
    registry._REGISTRY.clear()
    registry._REGISTRY.update(registered)
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


def broken_lines(text: str) -> Iterator[str]:
    """Lines of a docstring that end far from the margin in the middle of a sentence, or leave an item in it."""
    indent = min((len(line) - len(line.lstrip()) for line in text.splitlines()[1:] if line.strip()), default=0)
    lines = [line[indent:] if i else line for i, line in enumerate(text.splitlines())]
    for line, following in pairwise(lines):
        if not line.strip() or not following.strip() or re.match(r"\s*(>>>|\.\.\.)", line):
            continue
        if "  " in line.strip() + following.strip():  # of a formula or a table
            continue
        word = following.split()[0]
        goes_on = re.search(r"[\w,]$", line) and re.match(r"[a-zα-ω(]", word) and not re.search("[←=]", line)
        if goes_on and indent + len(line) + 1 + len(word) <= 100:
            yield f"{line.strip()} / {following.strip()}"
        closer = len(following) - len(following.lstrip()) < len(line) - len(line.lstrip())
        if closer and not line.endswith(".") and not re.match(r"\s*(- |>>>|[^.;]*:( |$))", following):
            yield f"{line.strip()} / {following.strip()}"


@pytest.mark.parametrize("folder", ["optimizers", "schedulers", "integrations", "compare"])
def test_paragraphs_of_docstrings_are_whole(folder: str) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    broken = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, documented)
        for problem in broken_lines(ast.get_docstring(node, clean=False) or "")
    ]
    assert broken == []


def test_broken_paragraphs_are_found() -> None:
    for text in (
        "When: large batches, and a weight decay as\n        much\n    above, and so on.",
        "When: rare large gradients matter. A spike stays in the\n        maximum:\n    ``reset_max()`` forgets it.",
        "A sentence that is broken\n    in its middle.",
    ):
        assert list(broken_lines(f"A class.\n\n    {text}")), text
    assert not list(
        broken_lines("A class.\n\n    Args:\n        lr: a number: if none is given\n            0.\n        k: 1.")
    )


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
