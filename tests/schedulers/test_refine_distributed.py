"""Two ranks record what one records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from optzoo.schedulers.recording import Recording, load
from support import recorded_ranks
from support.processes import MESHES, in_ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    in_ranks(recorded_ranks.recorded, path)
    return path


@pytest.mark.parametrize("run", [*MESHES, "FSDP2", "DDP"])
def test_norms_over_shards(run: str, directory: Path) -> None:
    """With gradients that come whole, or as sums still to be made, and shards that are empty."""
    expected = (recorded_ranks.plain() if run in MESHES else recorded_ranks.trained()).recording
    second = Recording.from_state(json.loads((directory / "second.json").read_text())[run])
    for found in (load(directory / f"{run}.npz"), second):
        assert list(found.norms) == list(recorded_ranks.NORMS)
        for name, values in expected.norms.items():
            assert len(values) == 4
            np.testing.assert_allclose(found.norms[name], values, rtol=1e-12)
