"""Processes get where one gets: DTensors in every placement, FSDP2, also over tensor parallelism, checkpoints, DDP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from optzoo.optimizers import create_optimizer, optimizer_info
from support import processes
from support.problems import gradients, tensors, trajectory
from support.processes import DISTRIBUTED_SHAPES, MESHES, RUNS, run_options

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Mapping[str, Any]]:
    """What each of two ranks has seen."""
    directory = tmp_path_factory.mktemp("ranks")
    processes.in_ranks(processes.distributed, directory)
    return [torch.load(directory / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Mapping[tuple[str, str], Any]]:
    """What each of four ranks has seen, a mesh of two by two."""
    directory = tmp_path_factory.mktemp("four_ranks")
    processes.in_ranks(processes.distributed_in_two_dimensions, directory, ranks=4, seconds=300)
    return [torch.load(directory / f"{rank}.pt") for rank in range(4)]


def single(name: str, options: str, steps: int, sizes: tuple[int, int, int] = (3, 5, 1)) -> Mapping[str, torch.Tensor]:
    """Where one process gets with the network of the ranks on the whole batch."""
    model = processes.network(sizes)
    optimizer = create_optimizer(name, model, lr=0.01, weight_decay=0.1, **run_options(name, options))
    processes.train(model, optimizer, range(steps))
    return model.state_dict()


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(("name", "options"), RUNS)
def test_dtensors_equal_plain_tensors(name: str, options: str, mesh: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Bit for bit, so that the counts behind Cautious' scale are exact, but for sums of real numbers over shards.

    Their state is placed as they are.
    """
    params = [torch.nn.Parameter(t) for t in tensors(DISTRIBUTED_SHAPES)]
    optimizer = create_optimizer(name, params, lr=0.01, weight_decay=0.1, **run_options(name, options))
    expected = trajectory(optimizer, params, gradients(4, DISTRIBUTED_SHAPES))[-1]
    for rank in ranks:
        seen = rank["DTensor"][name, options, mesh]
        tolerance = 1e-13 if optimizer_info(name).sums else 0
        torch.testing.assert_close([p.detach() for p in seen["params"]], expected, rtol=tolerance, atol=tolerance)
        assert seen["misplaced"] == []


@pytest.mark.parametrize(("name", "options"), RUNS)
def test_fully_sharded_training(name: str, options: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Resumed from a full state dict it goes on bit for bit."""
    for rank in ranks:
        seen = rank["FSDP2"][name, options]
        torch.testing.assert_close(seen["params"], single(name, options, 6), rtol=1e-12, atol=1e-12)
        exactly(seen["resumed"], seen["params"])


@pytest.mark.parametrize(("name", "options"), processes.RUNS_IN_TWO_DIMENSIONS)
def test_sharded_after_tensor_parallelism(
    name: str, options: str, four_ranks: Sequence[Mapping[tuple[str, str], Any]]
) -> None:
    """A parameter may be cut twice along one dimension. Resumed from a full state dict it goes on bit for bit."""
    for rank in four_ranks:
        seen = rank[name, options]
        torch.testing.assert_close(seen["params"], single(name, options, 6, processes.EVEN), rtol=1e-12, atol=1e-12)
        exactly(seen["resumed"], seen["params"])


@pytest.mark.parametrize(("name", "options"), RUNS)
def test_replicated_training(name: str, options: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    first, second = (rank["DDP"][name, options] for rank in ranks)
    exactly(first, second)
    torch.testing.assert_close(first, single(name, options, 3), rtol=1e-12, atol=1e-12)
