"""Every block of the README runs as it stands: Python as scripts, commands in a folder with the files it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.S | re.M)
PYTHON = [text for language, text in BLOCKS if language == "python"]
FILES = {match[1]: text for _, text in BLOCKS if (match := re.match(r"# (\w+\.\w+)\n", text))}
SHELL = "".join(text for language, text in BLOCKS if language == "sh")
COMMANDS = [
    line.partition("  #")[0].strip()
    for line in [*SHELL.splitlines(), *re.findall(r"^    (?:\$ )?((?:optzoo|python) .*)$", README, re.M)]
]
COMPARE = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("optzoo compare ")]
COMPARE.append(["compare", "run", "--config", "compare.yaml"])  # of the text above that file
QUICKER = ["--ruleset", "default", "--seeds", "1", "--jobs", "1", "--no-timing"]

SCRIPTS = """
import os, runpy, sys
for path in sys.argv[1:]:
    print(path, file=sys.stderr, flush=True)
    os.makedirs(path + ".d")
    os.chdir(path + ".d")
    runpy.run_path(path, run_name="__main__")
"""
RUN = """
import shutil, sys
from optzoo.compare.cli import main
for arguments in {}:
    print(arguments, file=sys.stderr, flush=True)
    assert main(arguments) == 0
    if "runs/mine" in arguments and arguments[1] == "run":
        shutil.copytree("runs/mine", "runs/old")
        shutil.copytree("runs/mine", "runs/new")
"""


def run(command: list[str], folder: Path, seconds: float) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=seconds
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With every file that the README shows."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_no_block_is_overlooked() -> None:
    assert set(FILES) == {
        "train.py",
        "config.yaml",
        "schedule.yaml",
        "compare.yaml",
        "my_optimizers.py",
        "my_problems.py",
    }
    assert {language for language, _ in BLOCKS} == {"sh", "python", "yaml", "text"}
    assert README.count("```") == 2 * (len(BLOCKS) + 1)  # one is part of a list
    assert not re.search(r"^    (from|import) ", re.sub(r"```.*?```", "", README, flags=re.S), re.M)
    assert len(COMMANDS) > 20


@pytest.mark.slow
def test_python_blocks_run(folder: Path) -> None:
    """Those that may share a process; it says which one it was at."""
    paths = [folder / f"block{number}.py" for number in range(len(PYTHON))]
    for path, text in zip(paths, PYTHON, strict=True):
        path.write_text(text, encoding="utf-8")
    shared = [str(path) for path, text in zip(paths, PYTHON, strict=True) if "__main__" not in text]
    assert len(shared) > 15
    run([sys.executable, "-c", SCRIPTS, *shared], folder, 900)


@pytest.mark.slow
def test_a_comparison_from_a_script(folder: Path) -> None:
    """Its worker processes import it again."""
    table = run([sys.executable, "my_optimizers.py"], folder, 900)
    for name in ("mine", "adamw", "function"):
        assert re.search(rf"^ {name} +[01]\.\d\d\d", table, re.M)


@pytest.mark.slow
def test_lightning_commands_run(folder: Path) -> None:
    commands = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("python train.py")]
    assert len(commands) == 3
    for arguments in commands:
        run([sys.executable, *arguments], folder, 900)
    runs = [folder / "lightning_logs" / f"version_{index}" / "config.yaml" for index in range(3)]
    configs = [path.read_text(encoding="utf-8") for path in runs]
    assert "lr: 0.003" in configs[1]  # what is typed comes first
    assert configs[2] == configs[0]  # the same run again


def test_the_preview_is_what_the_readme_shows(folder: Path) -> None:
    command, *shown = re.findall(r"^    \$ (optzoo schedule preview .*)\n((?:    .*\n)+)", README, re.M)[0]
    output = run([sys.executable, "-m", "optzoo.compare.cli", *shlex.split(command)[1:]], folder, 240)
    assert shown[0].replace("    ", "").removesuffix("...\n") == "".join(output.splitlines(keepends=True)[:2])


@pytest.mark.slow
def test_compare_commands_run(folder: Path) -> None:
    """All of them, on smaller problems where minutes would go by."""
    commands = []
    for arguments in COMPARE:
        if arguments in (["compare", "run", "--quick"], ["compare", "claims"]):
            continue  # minutes; tests/compare has them
        if arguments[1] in ("race", "sweep"):
            arguments = ["bowl" if argument in ("rosenbrock", "digits_mlp") else argument for argument in arguments]
        own = ",my_problems:sine" if "my_problems:sine" in " ".join(arguments) else ""
        commands.append([*arguments, "-p", f"bowl{own}", *QUICKER] if arguments[1] == "run" else arguments)
    assert {arguments[1] for arguments in commands} > {"run", "report", "plot", "race", "show", "sweep", "diff"}
    run([sys.executable, "-c", RUN.format(commands)], folder, 900)
    assert {path.name for path in folder.iterdir()} > {"profile.svg", "race.gif"}
    assert (folder / "runs" / "mine" / "report.html").exists()


def test_other_commands_name_what_there_is() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    for line in COMMANDS:
        if line.startswith("make "):
            assert line.split()[1] in targets
        elif extra := re.match(r"pip install '?(?:\.|optzoo)\[(\w+)\]", line):
            assert extra[1] in extras
        elif line.startswith("python "):
            assert line.split()[1] in FILES or (ROOT / line.split()[1]).exists()
