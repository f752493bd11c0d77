"""Two processes log what one does: replicated (DDP) and sharded (FSDP2, uneven shards and empty ones)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from support import processes
from support import update_norms_in_transformers as transformers
from support.update_norms import Regression, log, train_in_rank

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of one process and of two."""
    directory = tmp_path_factory.mktemp("logged")
    for low_memory in (False, True):
        log(Regression(), directory / f"single{low_memory}", low_memory, devices=1)
    transformers.log(directory, "one.json")
    processes.in_ranks(train_in_rank, directory)
    return directory


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_processes_log_what_one_does(name: str, low_memory: bool, logged: Path) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (logged / f"{name}{low_memory}" / "metrics.csv").open() as lines:
            return [row for row in csv.DictReader(lines) if row["update_norm/total"]]

    seen, expected = rows(name), rows("single")
    assert len(seen) == len(expected) == 3
    for row, wanted in zip(seen, expected, strict=True):
        assert row.keys() == wanted.keys()
        assert float(row["optimizer/kept"]) < 1
        for key, value in wanted.items():
            if value and key != "loss":
                assert float(row[key]) == pytest.approx(float(value), rel=1e-9, nan_ok=True), key


def test_two_processes_of_transformers_log_what_one_does(logged: Path) -> None:
    expected, seen = (json.loads((logged / file).read_text()) for file in ("one.json", "two.json"))
    assert list(seen) == list(expected) == ["4", "8", "12"]
    for step, row in expected.items():
        assert seen[step].keys() == row.keys()
        for key, value in row.items():
            assert seen[step][key] == pytest.approx(value, rel=1e-9), key
