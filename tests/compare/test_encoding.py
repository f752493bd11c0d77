"""Output where not every character can be shown: Windows consoles, LC_ALL=C, pipes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from optzoo.compare.cli import main
from optzoo.compare.encoding import encodable

ENCODINGS = ("ascii", "cp1252")
SCHEDULE = ["schedule", "preview", "wsd,warmup=0.1", "--total", "100"]
MADE = ["compare", "run", "--ruleset", "default", "--no-timing", "--jobs", "1", "--seeds", "1", "-o", "adamw,psgd"]
COMMANDS = [  # FOLDER is a results folder
    SCHEDULE,
    ["compare", "run", "--help"],
    ["compare", "list", "--tags"],
    ["compare", "show", "FOLDER"],
    ["compare", "report", "FOLDER"],
    ["compare", "plot", "FOLDER", "curves"],
    ["compare", "tensorboard", "FOLDER"],
    ["compare", "race", "bowl", "-o", "adamw", "--output", "FOLDER/race.html"],
    ["compare", "sweep", "torch.optim:SGD", "bowl"],
    ["compare", "invariances", "-o", "adamw"],
    ["compare", "timing", "-o", "adamw", "--shape", "mlp"],
    ["compare", "diff", "FOLDER", "FOLDER"],
    ["compare", "claims", "-o", "cautious"],
]
ERRORS = [
    ["compare", "show", "größe"],
    ["compare", "race", "λ"],
    ["compare", "run", "--quick", "-o", "café"],
    ["compare", "sweep", "adamw", "→"],
    ["schedule", "preview", "β"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "größe"
    assert main([*MADE, "-p", "bowl,logreg_raw", "--out", str(out)]) == 0
    return out


class Terminal:
    """Standard output and error in an encoding; what they were given, as text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        self.encoding = encoding
        self._bytes = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, buffer in self._bytes.items():
            monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding))

    def __getattr__(self, name: str) -> str:
        getattr(sys, name).flush()
        return self._bytes[name].getvalue().decode(self.encoding)


PAIRS = [(command, "ascii") for command in COMMANDS] + [(command, "cp1252") for command in COMMANDS[:5]]


@pytest.mark.parametrize(("command", "encoding"), PAIRS, ids=lambda part: part if isinstance(part, str) else part[1])
def test_every_command_prints(command: list[str], encoding: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, encoding)
    try:
        status = main([argument.replace("FOLDER", str(folder)) for argument in command])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    assert status == 0
    assert terminal.stdout.strip()
    assert "?" not in terminal.stdout
    assert sys.stdout.errors == sys.stderr.errors == "strict"  # as they were


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", ERRORS, ids=lambda command: command[1])
def test_every_error_is_said(command: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, encoding)
    assert main(command) == 2
    assert terminal.stderr.startswith("optzoo: error: ")
    assert terminal.stdout == ""


def test_a_picture_of_a_schedule_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, "ascii")
    assert main(SCHEDULE) == 0
    first, *_, last, axis = terminal.stdout.splitlines()[2:]
    assert first.startswith("1 |")
    assert "########" in first
    assert last.startswith("0 |-")
    assert len(last.rstrip()) == len(axis) == 3 + 64


def test_a_table_from_python(make: Any, folder: Path) -> None:
    """`result.table()`, also where the user's own script prints."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    make.comparison(make.study([9, 0.5, 0.5, 0.4])).table(file)
    file.seek(0)
    text = file.read()
    assert "1.00x (1)" in text
    assert "-" * 20 in text
    assert file.errors == "strict"


@pytest.mark.parametrize("encoding", ["utf-8", *ENCODINGS])
def test_a_name_that_is_no_text(encoding: str) -> None:
    """A file's name may be any bytes; they come out as they are."""
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    with encodable(file):
        file.write(os.fsdecode(b"written: no\xffname"))
    file.flush()
    assert buffer.getvalue() == b"written: no\xffname"


@pytest.mark.slow
def test_files_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    """Under LC_ALL=C the default encoding of files is ASCII, too."""
    script = tmp_path / "commands.py"
    script.write_text(
        "import sys\n"
        "from optzoo.compare.cli import main\n"
        f"made = {MADE} + ['-p', 'bowl,logreg_raw', '--out', 'r', '--json', 'r.json']\n"
        f"for command in (made, ['compare', 'show', 'r'], ['compare', 'report', 'r'], {SCHEDULE},\n"
        "                ['compare', 'plot', 'r', 'profile'], ['compare', 'race', 'bowl', '-o', 'adamw']):\n"
        "    assert main(command) == 0, command\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.isascii()
    assert "≤" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
