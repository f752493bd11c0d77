"""TensorBoard logs of a comparison, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from optzoo.compare.cli import main
from optzoo.compare.tensorboard import write_tensorboard


def points(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars("metric")]


def test_one_run_for_each_seed(make: Any, tmp_path: Path) -> None:
    comparison = make.comparison(
        make.study([9, 5, 0.5, 0.5], [8, 4, 0.4, 0.3]), make.study([9, float("inf")], optimizer="lion")
    )
    write_tensorboard(comparison, tmp_path)
    assert points(tmp_path / "rosenbrock" / "adamw" / "seed100") == [(0, 9), (10, 5), (20, 0.5), (30, 0.5)]
    assert points(tmp_path / "rosenbrock" / "adamw" / "seed101") == [(0, 8), (10, 4), (20, 0.4), (30, 0.3)]
    assert points(tmp_path / "rosenbrock" / "lion" / "seed100") == [(0, 9), (10, float("inf"))]


def test_option_of_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "logs"
    command = ["compare", "run", "--quick", "--no-timing", "--jobs", "1", "--seeds", "1", "-o", "adamw", "-p", "saddle"]
    assert main([*command, "--out", str(tmp_path / "run"), "--tensorboard", str(logs)]) == 0
    assert len(points(logs / "saddle" / "adamw" / "seed100")) > 2
    assert f"tensorboard --logdir {logs}" in capsys.readouterr().out
