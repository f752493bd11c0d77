"""What the README and the registry say of the size of the state, against the state of real steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from optzoo.optimizers import create_optimizer, list_optimizers, optimizer_info
from optzoo.optimizers.core.closures import step_on_gradients
from support.cases import facts, kronecker

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SHAPES = [(1,), (1000,), (64, 4096), (128, 256), (2, 128, 130), (20, 30), (5, 6, 7)]


def row_of(name: str) -> list[str]:
    row, *_ = re.findall(rf"^\| `{optimizer_info(name).optimizer_class.__name__}` \|.*$", README, re.M)
    return [cell.strip() for cell in row.strip("|").split("|")]


def per_tensor(name: str) -> int:
    """Of the README's sentence under its table."""
    ((common, others),) = re.findall(
        r"plus (\d+) bytes per tensor for its step count; (.*?),?\sand 4 for every factor\.", README, re.S
    )
    own = {
        cls: int(count)
        for classes, count in re.findall(r"((?:`\w+`(?:, | and )?)+)(?:\shave)?\s(\d+)", others)
        for cls in re.findall(r"`(\w+)`", classes)
    }
    return own.get(optimizer_info(name).optimizer_class.__name__, int(common))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", list_optimizers())
def test_state_is_as_large_as_the_readme_says(name: str, shape: tuple[int, ...]) -> None:
    if facts(name).more_bytes([shape]) > 1e8:
        shape = (20, 30)  # a matrix of all numbers is no state for tensors of this size
    p = torch.nn.Parameter(torch.ones(shape))
    optimizer = create_optimizer(name, [p])
    p.grad = torch.ones(shape)
    step_on_gradients(optimizer)
    state = optimizer.state[p]
    expected = int(row_of(name)[1]) * p.numel() + per_tensor(name) + facts(name).more_bytes([shape])
    said = re.search(r"4 \(a \+ b\) bytes for a matrix of a × b, both at least (\d+)", row_of(name)[2])
    if said and p.ndim > 1 and min(shape[-2:]) >= int(said[1]):
        expected = 4 * sum(shape[-2:]) * (p.numel() // (shape[-2] * shape[-1])) + per_tensor(name)
    assert sum(value.numel() * value.element_size() for value in state.values()) == expected


def test_what_the_readme_says_of_factors() -> None:
    axes = "for every axis of n besides 4 n² bytes (a dense factor) or 4 n (a diagonal one, as vectors have)"
    assert axes in row_of("psgd")[2]
    assert (kronecker([(2, 3)]), kronecker([(3,)])) == (4 * (2 * 2 + 3) + 8, 4 * 3 + 4)


@pytest.mark.parametrize("name", list_optimizers())
def test_the_registry_says_the_same(name: str) -> None:
    info = optimizer_info(name)
    assert (f"{info.state_bytes}", info.tensor_bytes) == (row_of(name)[1], per_tensor(name))
