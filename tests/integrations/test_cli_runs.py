"""``examples/lightning_cli`` as a user runs it, and what the config that a run saves is good for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from optzoo.integrations.lightning import OptimizerCLI

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)

EXAMPLE = Path(__file__).parents[2] / "examples" / "lightning_cli"
CONFIGS = sorted(EXAMPLE.glob("*.yaml"))
SHORT = ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"]


def test_there_are_three() -> None:
    assert [config.stem for config in CONFIGS] == ["ademamix_wsd", "lookahead", "psgd"]


def fit(config: Path, directory: Path, *arguments: str) -> Path:
    """Where the run's config and checkpoint are."""
    found = OptimizerCLI(
        _digits(),
        args=["fit", f"--config={config}", f"--trainer.default_root_dir={directory}", *arguments],
        seed_everything_default=1,  # of a config that has none
    )
    assert found.trainer.callback_metrics["accuracy"] > 0.5
    return Path(found.trainer.log_dir)


def check_same(first: Path, second: Path) -> None:
    """The checkpoints hold the same weights and optimizer states, the configs all but the directory."""
    (expected,), (found,) = ([*run.glob("checkpoints/*.ckpt")] for run in (first, second))
    assert found.name == expected.name
    expected, found = (torch.load(path, weights_only=True) for path in (expected, found))
    exactly(found["state_dict"], expected["state_dict"])
    exactly(found["optimizer_states"][0]["state"], expected["optimizer_states"][0]["state"])
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (first, second)]
    for config in configs:
        del config["trainer"]["default_root_dir"]
    assert configs[0] == configs[1]
    assert configs[0]["optimizer"]["class_path"].startswith("optzoo.optimizers.")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_saved_config_reproduces_the_run(config: Path, tmp_path: Path) -> None:
    """Bit for bit, also without the seed on its command line."""
    first = fit(config, tmp_path / "first", *SHORT, "--seed_everything=7")
    check_same(first, fit(first / "config.yaml", tmp_path / "second"))


def test_the_script_and_a_config_that_another_process_saved(tmp_path: Path) -> None:
    """With a change on the command line."""
    arguments = ["fit", "--config", EXAMPLE / "lookahead.yaml", "--optimizer.base.lr=3e-3", *SHORT]
    done = subprocess.run(
        [sys.executable, EXAMPLE / "train.py", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # sums of floats depend on it
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "test accuracy 0." in done.stdout
    first = tmp_path / "lightning_logs" / "version_0"
    second = fit(first / "config.yaml", tmp_path / "second")
    check_same(first, second)
    assert (
        yaml.safe_load((second / "config.yaml").read_text())["optimizer"]["init_args"]["base"]["init_args"]["lr"]
        == 3e-3
    )


def _digits() -> Any:
    """The LightningModule of the example."""
    spec = importlib.util.spec_from_file_location("lightning_cli_example", EXAMPLE / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Digits
