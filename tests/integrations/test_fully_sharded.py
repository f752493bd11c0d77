"""FSDP2 on two ranks: OptimizerCLI and the callbacks do what they do in one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from optzoo.integrations.lightning import AveragedWeightsCallback
from support.lightning_runs import (
    CLI_CASES,
    WEIGHTS,
    WEIGHTS_ON_RANKS,
    Regression,
    fully_sharded,
    run_cli,
    trained_by_hand,
)
from support.processes import in_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks")
    in_ranks(fully_sharded, directory, seconds=240)
    return directory


@pytest.fixture
def seen(directory: Path) -> dict[str, Any]:
    return torch.load(directory / "seen.pt")


@pytest.mark.parametrize("name", CLI_CASES)
def test_the_cli_trains_what_one_process_does(name: str, seen: dict[str, Any]) -> None:
    """Made before the model is sharded, an optimizer would train nothing."""
    model = run_cli(CLI_CASES[name], max_epochs=1).model
    begin = Regression().state_dict()
    for key, p in model.state_dict().items():
        assert not torch.equal(p, begin[key])
        close(seen["cli"][name][key], p)


@pytest.mark.parametrize(("name", "sharded_checkpoint"), WEIGHTS_ON_RANKS)
def test_other_weights(name: str, sharded_checkpoint: bool, directory: Path, seen: dict[str, Any]) -> None:
    """Are evaluated, saved and left behind in resuming, whole or in shards."""
    make, callback = WEIGHTS[name]
    trained, others = trained_by_hand(make, 8, callback is AveragedWeightsCallback)
    run = seen["weights"][name, sharded_checkpoint]
    close(run["trained"], trained)
    close(run["evaluated"], others)
    exactly(run["resumed"], run["trained"])
    exactly(run["evaluated after resuming"], run["evaluated"])
    if not sharded_checkpoint:
        exactly(torch.load(directory / name / "epoch=1.ckpt")["state_dict"], run["evaluated"])
