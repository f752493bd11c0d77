"""What is warned of or refused at the first step on two ranks: FSDP1, DDP under Newton, and what came before FSDP2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from support import first_steps
from support.first_steps import ANY_PIECE, FLAT, NEWTON, WHOLE
from support.processes import in_ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Mapping[str, Any]]:
    """What each of two ranks has seen."""
    directory = tmp_path_factory.mktemp("ranks")
    in_ranks(first_steps.first_steps, directory)
    return [torch.load(directory / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("how", FLAT)
@pytest.mark.parametrize("name", [*WHOLE, *ANY_PIECE])
def test_flat_parameters(name: str, how: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    """FSDP1's pieces are warned of once, where whole parameters are needed; else it is silent."""
    for rank in ranks:
        texts = rank["FSDP1"][name, how]
        assert len(texts) == (name in WHOLE and how != "not sharded")
        assert all("needs whole parameters" in text and "fully_shard" in text for text in texts)


@pytest.mark.parametrize("name", [*WHOLE, *ANY_PIECE])
def test_an_optimizer_made_before_fully_shard(name: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    for rank in ranks:
        (text,) = rank["replaced"][name]
        assert "make the optimizer after it" in text


def test_an_averager_made_before_fully_shard(ranks: Sequence[Mapping[str, Any]]) -> None:
    for rank in ranks:
        (text,) = rank["averager"]
        assert "make the averager after it" in text


@pytest.mark.parametrize("name", NEWTON)
def test_exact_products_and_replicas(name: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Refused before anything changes; models that a rank trains by itself are not."""
    for rank in ranks:
        seen = rank["refused"][name]
        assert f"{name}: with hessian='exact'" in seen["error"]
        assert "hessian='finite_difference'" in seen["error"]
        assert seen["unchanged"]
        assert seen["alone"]


@pytest.mark.parametrize("how", FLAT)
@pytest.mark.parametrize("name", NEWTON)
def test_flat_parameters_are_no_vector(name: str, how: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    for rank in ranks:
        text = rank["sharded"][name, how]
        assert bool(text) == (how != "not sharded")
        assert not text or text.startswith(f"{name} does not take sharded parameters (FullyShardedDataParallel")


@pytest.mark.parametrize("name", NEWTON)
def test_products_from_averaged_gradients(name: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    assert [rank["finite_difference"][name] for rank in ranks] == [0.0, 0.0]
