"""Figures as files, and the race."""

from __future__ import annotations

import dataclasses
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
from optzoo.compare.styles import styles


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


@pytest.mark.parametrize("figure", ["curves", "profile", "lr"])
def test_lines_that_coincide_are_all_seen(figure: str, make: Any, tmp_path: Path) -> None:
    """As far as the figure goes, not only in its legend; the same optimizer under three names has the same runs."""
    from matplotlib.image import imread

    curve = [9, 5, 3, 2, 0.5, 0.5, 0.5]
    studies = []
    for name in ("adamw", "adam", "cadamw"):
        study = make.study(curve, optimizer=name)
        screened = [make.trial(curve, lr=lr, seed=0, stage="screen") for lr in (0.01, 0.1, 1.0)]
        studies.append(dataclasses.replace(study, trials=(*screened, *study.evaluations)))
    write_plot(make.comparison(*studies), figure, tmp_path / "figure.png")
    pixels = (imread(tmp_path / "figure.png")[..., :3] * 255).round().astype(int)
    for name, style in styles(["adamw", "adam", "cadamw"]).items():
        color = [int(style.light[index : index + 2], 16) for index in (1, 3, 5)]
        columns = np.flatnonzero((np.abs(pixels - color).max(-1) < 40).any(0))
        assert len(columns) > 60, name  # pixels across; a sample in the legend has 32


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
    assert main(["compare", "race", "saddle", "-o", "adamw,lion", "--output", output]) == 0
    assert "written" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "adamw, lion", "--output", "race.html"],
        ["--optimizers", "adamw", "-o", "lion", "--out", "race.html"],
        ["-o", "adamw, lion", "-o", "race.html"],  # one letter for both, as it once was
        ["-o", "race.html", "-o", "adamw, lion"],
    ],
    ids=" ".join,
)
def test_race_takes_optimizers_and_a_file(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "race", "bowl", *options]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["race.html"]
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if " lr " in line} == {"adamw", "lion"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "a.gif", "-o", "b.html"], "a.gif and b.html"),
        (["-o", "a.gif", "--output", "b.html"], "a.gif and b.html"),
        (["--output", "race.png"], "a race is written as .gif or .html, not 'race.png'"),
        (["--output", "no/race.gif"], "there is no folder 'no'"),
        (["-o", "ademamx"], "did you mean 'ademamix'"),
    ],
)
def test_race_that_cannot_be_written(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "race", "bowl", *options]) == 2
    assert message in capsys.readouterr().err
