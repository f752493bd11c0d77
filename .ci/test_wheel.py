"""The built wheel, installed into an empty environment and imported from outside the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import optzoo
names = [module.name for module in pkgutil.walk_packages(optzoo.__path__, "optzoo.")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name in {"lightning", "transformers"} and "pip install 'optzoo[" in str(error), error
assert not {"sklearn", "rich", "lightning", "transformers"} & sys.modules.keys()
print(*names)
"""


def run(*command: str | Path, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=1200).stdout


def test_wheel_imports_with_nothing_but_torch_and_numpy(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("optzoo-*.whl")
    run(sys.executable, "-m", "venv", "empty", cwd=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "--constraint", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    names = run(python, "-c", IMPORT_EVERYTHING, cwd=tmp_path).split()
    assert {"optzoo.optimizers.adam", "optzoo.optimizers.core.optimizer", "optzoo.compare.cli"} <= set(names)
    assert {"optzoo.schedulers", "optzoo.integrations", "optzoo.__main__"} <= set(names)
    (installed,) = (tmp_path / "empty" / "lib").rglob("site-packages/optzoo")
    packages = [init.parent for init in installed.rglob("__init__.py")]
    assert [package for package in packages if not (package / "py.typed").is_file()] == []
    data = ("compare/data/sonnets.txt.gz", "compare/report/report.html.jinja", "compare/report/report.js")
    assert [name for name in data if not (installed / name).is_file()] == []
    assert not (installed.parent / "optimizers").exists(), "a bare top-level folder would shadow users' own"
    assert "usage: optzoo" in run(tmp_path / "empty" / "bin" / "optzoo", "--help", cwd=tmp_path)
