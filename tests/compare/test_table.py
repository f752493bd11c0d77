"""The tables at the widths of terminals."""

from __future__ import annotations

import io
from typing import Any

import pytest

NAMES = ("cadamw", "cautious", "ademamix", "lookahead", "psgd", "torch.optim:AdamW", "my_package.optimizers:Mine")
PROBLEMS = ("digits_mlp", "deep_linear", "logreg_raw")


def printed(comparison: Any, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    file = io.StringIO()
    comparison.table(file)
    return file.getvalue().splitlines()


@pytest.fixture
def comparison(make: Any) -> Any:
    slow = {name: [9, *[5] * index, 0.5, 0.5] for index, name in enumerate(NAMES)}
    studies = (make.study(slow[o], slow[o], [9, 9], problem=p, optimizer=o) for p in PROBLEMS for o in NAMES)
    return make.comparison(*studies)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_one_line_for_each_optimizer_and_no_name_is_broken(
    width: int, comparison: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(comparison, width, monkeypatch)
    assert max(map(len, lines)) <= width
    rows = [index for index, line in enumerate(lines) if "─" in line]  # each under the headings of a table
    headings = " ".join(" ".join(lines[row - 2 : row]) for row in rows)
    for name in NAMES:
        assert headings.split().count(name) == 1  # of the table of problems
    for row in rows:
        first = "problem" if lines[row - 1].split()[0] == "problem" else "optimizer"
        expected = [*PROBLEMS, *["lr"] * len(PROBLEMS)] if first == "problem" else NAMES
        assert sorted(line.split()[0] for line in lines[row + 1 : row + 1 + len(expected)]) == sorted(expected)
        assert not lines[row + 1 + len(expected)].strip()


def test_every_column_is_there_at_every_width(comparison: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = " ".join(printed(comparison, 250, monkeypatch)).split()
    for width in (60, 80, 120):
        words = " ".join(printed(comparison, width, monkeypatch)).split()
        for word in ("rank", "solved", "wins", "update", "state", "1.00×", "(2/3)"):
            assert words.count(word) == whole.count(word), (width, word)


def test_a_name_longer_than_the_screen_is_still_all_there(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a_company.research.optimizers.experimental.second_order:ShampooWithGrafting"
    lines = printed(make.comparison(make.study([9, 0.5, 0.5], optimizer=name)), 60, monkeypatch)
    assert max(map(len, lines)) <= 60
    assert name in "".join(line.split()[0] for line in lines[: len(lines) // 2] if line.strip())
