"""The import name `optzoo` itself, with each way to install it, from inside the checkout and from outside."""

from __future__ import annotations

import doctest
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

import optzoo

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "optimizers", "schedulers", "integrations", "compare")
WAYS = {
    "wheel": ["."],
    "editable": ["--editable", "."],
    "strict editable": ["--config-settings", "editable_mode=strict", "--editable", "."],
}
# Whether the file that is imported is the checkout's, and whether it lies there: strict mode links file by file.
FILES = {"wheel": (False, False), "editable": (True, True), "strict editable": (True, True)}
LOOK = """
import sys
import optzoo
assert not {"torch", "numpy"} & sys.modules.keys()
assert {"__version__", "compare", "integrations", "optimizers", "schedulers"} == set(dir(optzoo))
assert optzoo.optimizers.create_optimizer.__module__ == "optzoo.optimizers.registry"
from optzoo import schedulers
assert schedulers is optzoo.schedulers is sys.modules["optzoo.schedulers"]
assert optzoo.compare.compare and optzoo.integrations
print(optzoo.__version__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parts_and_version() -> None:
    assert optzoo.__version__ == version("optzoo")
    assert doctest.testmod(optzoo).failed == 0
    with pytest.raises(AttributeError, match=r"'optimisers'; it has __version__, compare, integrations, optimizers"):
        _ = optzoo.optimisers
    assert not hasattr(optzoo, "os")


def test_importing_it_imports_no_part_and_no_torch(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", LOOK, cwd=tmp_path) == f"{optzoo.__version__}\n"


def test_the_checkout_has_no_folder_that_hides_the_installed_package() -> None:
    assert not (ROOT / "optzoo").exists()


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["compare", "list", "optimizers"]])
def test_the_module_is_the_command(arguments: list[str], tmp_path: Path) -> None:
    command = Path(sysconfig.get_path("scripts")) / "optzoo"
    typed = run(command, *arguments, cwd=tmp_path)
    assert run(sys.executable, "-m", "optzoo", *arguments, cwd=tmp_path) == typed
    if arguments == ["--version"]:
        assert typed == f"optzoo {optzoo.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_install(way: str, tmp_path: Path) -> None:
    """In an environment that sees torch and the rest of this one, but not the optzoo that this one has."""
    checkout, environment, elsewhere = tmp_path / "checkout", tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    checkout.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, checkout / name)
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    seen = [path for path in sys.path if Path(path).name == "site-packages"]
    (site_packages / "zz_seen.pth").write_text("\n".join(seen))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--no-index", *WAYS[way], cwd=checkout)
    for folder in (checkout, elsewhere):
        assert run(python, "-c", LOOK, cwd=folder) == f"{optzoo.__version__}\n"
    for command in ([python, "-m", "optzoo"], [environment / "bin" / "optzoo"]):
        assert run(*command, "--version", cwd=checkout) == f"optzoo {optzoo.__version__}\n"
    where = "from importlib.util import find_spec; print(find_spec('optzoo.optimizers').origin)"
    used = Path(run(python, "-c", where, cwd=checkout).strip())
    assert (used.samefile(checkout / "optimizers" / "__init__.py"), checkout in used.parents) == FILES[way]
