"""TensorBoard logs of a comparison: real runs and real files, read back."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from optzoo.compare import Comparison, compare, load
from optzoo.compare.cli import main
from optzoo.compare.results import Update
from optzoo.compare.tensorboard import write_tensorboard

SERIES = ("metric", "loss", "lr", "update_norm")
Points = list[tuple[int, float]]


def scalars(folder: Path) -> dict[str, Points]:
    """The points of every series in a folder of logs, the two numbers of the tab HPARAMS left out."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag in SERIES
    }


def hyperparameters(folder: Path) -> dict[str, Any]:
    """What the HPARAMS plugin knows of a run."""
    events = EventAccumulator(str(folder)).Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def images(folder: Path) -> list[str]:
    return sorted(EventAccumulator(str(folder)).Reload().Tags()["images"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder and, in `logs`, what the option of `run` wrote."""
    out = tmp_path_factory.mktemp("runs") / "small"
    command = ["compare", "run", "--quick", "--no-timing", "--jobs", "1", "--seeds", "1"]
    chosen = ["-o", "adamw,adafactor", "-p", "saddle,logreg_raw", "--ruleset", "default"]
    assert main([*command, *chosen, "--out", str(out), "--tensorboard", str(out / "logs")]) == 0
    return out


def test_every_series_of_every_run(folder: Path) -> None:
    comparison = load(folder)
    for study in comparison.studies:
        (trial,) = study.evaluations
        found = scalars(folder / "logs" / study.problem / study.optimizer / "seed100")
        metric = [(point.step, np.float32(point.metric)) for point in trial.curve]
        assert found.pop("metric") == metric
        steps = [step for step, _ in metric[1:]]
        assert len(steps) > 2
        for name, series in found.items():
            values = [getattr(update, {"update_norm": "norm"}.get(name, name)) for update in trial.updates]
            assert series == list(zip(steps, np.float32(values), strict=True)), name
        assert found.keys() == {"loss", "lr", "update_norm"}


def test_hyperparameters_and_figures(folder: Path) -> None:
    values = hyperparameters(folder / "logs" / "saddle" / "adamw" / "seed100")
    assert values == {"problem": "saddle", "optimizer": "adamw", "lr": 0.001}
    assert images(folder / "logs" / "figures") == ["cost", "curves", "profile", "trajectories"]  # lr was not tuned


def test_logs_of_an_earlier_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resumed or loaded, the series are those of the run; written over other logs, they supersede them."""
    before = scalars(folder / "logs" / "logreg_raw" / "adamw" / "seed100")
    for _ in range(2):
        assert main(["compare", "tensorboard", str(folder), "-o", str(tmp_path / "new")]) == 0
        assert f"tensorboard --logdir {tmp_path / 'new'}" in capsys.readouterr().out
        assert scalars(tmp_path / "new" / "logreg_raw" / "adamw" / "seed100") == before
    request: dict[str, Any] = {"optimizers": ["adamw", "adafactor"], "problems": ["saddle", "logreg_raw"], "seeds": 1}
    resumed = compare(**request, quick=True, ruleset="default", jobs=1, timing=False, out=folder)
    assert resumed.studies == load(folder).studies
    assert all(trial.updates for study in resumed.studies for trial in study.evaluations)


def test_figure_of_tuning(make: Any, tmp_path: Path) -> None:
    comparison: Comparison = make.comparison(make.study([9, 5, 1, 0.5]), make.study([9, 9], optimizer="lion"))
    comparison.to_tensorboard(tmp_path)
    assert images(tmp_path / "figures") == ["cost", "curves", "lr", "profile"]


def test_what_is_not_finite_or_not_known(make: Any, tmp_path: Path) -> None:
    """A run that exploded, and the trial of an optimizer without lr."""
    study = make.study([9, math.inf])
    *tuning, trial = study.trials
    trial = dataclasses.replace(trial, updates=(Update(10, math.nan, None, math.inf),))
    write_tensorboard(make.comparison(dataclasses.replace(study, trials=(*tuning, trial))), tmp_path)
    found = scalars(tmp_path / "rosenbrock" / "adamw" / "seed100")
    assert found.keys() == {"metric", "loss", "update_norm"}
    assert found["metric"] == [(0, 9), (10, math.inf)]
    assert math.isnan(found["loss"][0][1])
    assert found["update_norm"] == [(10, math.inf)]


@pytest.mark.parametrize(("module", "extra"), [("tensorboard", "tensorboard"), ("matplotlib", "compare")])
def test_a_missing_extra_is_named_before_any_work(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    said = f'optzoo: error: {module} is not installed; run: pip install "optzoo[{extra}]"\n'
    runs = str(tmp_path / "runs")
    for command in (["run", "--quick", "--out", runs, "--tensorboard", "logs"], ["tensorboard", runs]):
        assert main(["compare", *command]) == 2
        assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []
