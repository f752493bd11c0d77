"""Figures as files, and the race."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optzoo.compare.cli import main
from optzoo.compare.errors import UsageError
from optzoo.compare.plots import FIGURES, write_gif, write_plot
from optzoo.compare.race import run_race
from optzoo.compare.report import write_race
from optzoo.compare.results import Comparison


@pytest.fixture
def comparison(make: Any) -> Comparison:
    return make.comparison(  # type: ignore[no-any-return]
        make.study([9, 5, 1, 0.5], [9, 4, 0.4, float("inf")]),
        make.study([9, 9, 9, 9], optimizer="lion"),
        make.study([9, 0.5, 0.4, 0.3], problem="quad"),
    )


@pytest.mark.parametrize("figure", sorted(FIGURES.keys() - {"trajectories"}))
def test_figures_are_written(figure: str, comparison: Comparison, tmp_path: Path) -> None:
    write_plot(comparison, figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    for name in ("a.svg", "b.svg"):
        write_plot(comparison, figure, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    if figure != "cost":
        assert b"lion" in (tmp_path / "a.svg").read_bytes() or b"<path" in (tmp_path / "a.svg").read_bytes()


def test_bad_requests(comparison: Comparison, make: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no figure 'losses'; there are trajectories, curves"):
        write_plot(comparison, "losses", tmp_path / "a.svg")
    with pytest.raises(UsageError, match=r"\.svg or \.png, not 'a\.pdf'"):
        write_plot(comparison, "curves", tmp_path / "a.pdf")
    with pytest.raises(UsageError, match="no folder"):
        write_plot(comparison, "curves", tmp_path / "none" / "a.svg")
    with pytest.raises(UsageError, match="nothing to draw"):
        write_plot(make.comparison(), "curves", tmp_path / "a.svg")


def test_race_is_fair(tmp_path: Path) -> None:
    """One start and one number of steps for all, and learning rates from one grid."""
    race = run_race("saddle", ["adamw", "lion", "psgd"], steps=40)
    for paths in (race.tuned, race.default):
        assert [path.optimizer for path in paths] == ["adamw", "lion", "psgd"]
        assert all(len(path.points) == 41 for path in paths)
        assert all(np.array_equal(path.points[0], paths[0].points[0]) for path in paths)
    for tuned, default in zip(race.tuned, race.default, strict=True):
        assert np.log10(tuned.lr / default.lr) * 2 == pytest.approx(round(np.log10(tuned.lr / default.lr) * 2))
    write_gif(race, tmp_path / "race.gif")
    assert (tmp_path / "race.gif").read_bytes().startswith(b"GIF89a")
    write_race(race, tmp_path / "race.html")
    assert "saddle" in (tmp_path / "race.html").read_text(encoding="utf-8")


def test_race_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(UsageError, match="no function of two variables; there are rosenbrock"):
        run_race("digits_mlp", ["adamw"])
    with pytest.raises(UsageError, match="steps must be at least 1"):
        run_race("saddle", ["adamw"], steps=0)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    options = ["--quick", "--no-timing", "--jobs", "1", "--seeds", "2"]
    assert main(["compare", "run", "-o", "adamw,lion", "-p", "saddle", *options, "--out", str(folder)]) == 0
    assert main(["compare", "plot", str(folder), "trajectories"]) == 0
    assert (folder / "trajectories.svg").stat().st_size > 1000
    assert main(["compare", "report", str(folder)]) == 0
    assert (folder / "report.html").stat().st_size > 1_000_000
    output = str(tmp_path / "race.html")
    assert main(["compare", "race", "saddle", "-o", "adamw,lion", "-o", output]) == 0
    assert "written" in capsys.readouterr().out


@pytest.mark.parametrize("order", [0, 1])
def test_race_takes_optimizers_and_the_file_by_the_same_letter(
    order: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "race.html"
    given = [["-o", "adamw, lion"], ["-o", str(file)]]
    assert main(["compare", "race", "bowl", *given[order], *given[1 - order]]) == 0
    assert file.exists()
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if " lr " in line} == {"adamw", "lion"}


def test_race_is_written_to_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "race", "bowl", "-o", "a.gif", "-o", "b.html"]) == 2
    assert "a.gif and b.html" in capsys.readouterr().err
