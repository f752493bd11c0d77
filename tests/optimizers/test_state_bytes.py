"""What the README and the registry say of the size of the state, against the state of real steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from optzoo.optimizers import create_optimizer, list_optimizers, optimizer_info

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SHAPES = [(1,), (1000,), (64, 4096), (128, 256), (2, 128, 130), (20, 30), (5, 6, 7)]


def row_of(name: str) -> list[str]:
    row, *_ = re.findall(rf"^\| `{optimizer_info(name).optimizer_class.__name__}` \|.*$", README, re.M)
    return [cell.strip() for cell in row.strip("|").split("|")]


def per_tensor(name: str) -> int:
    """Of the README's sentence under its table."""
    common, dog, psgd = re.findall(
        r"plus (\d+) bytes per tensor for its step count; `DoG` and `LDoG` have (\d+) per tensor, `PSGD` (\d+)\s"
        r"and 4 for every factor\.",
        README,
    )[0]
    return int({"dog": dog, "ldog": dog, "psgd": psgd}.get(name, common))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", list_optimizers())
def test_state_is_as_large_as_the_readme_says(name: str, shape: tuple[int, ...]) -> None:
    p = torch.nn.Parameter(torch.ones(shape))
    optimizer = create_optimizer(name, [p])
    p.grad = torch.ones(shape)
    optimizer.step()
    state = optimizer.state[p]
    expected = int(row_of(name)[1]) * p.numel() + per_tensor(name)
    if name == "adafactor":
        (least,) = map(
            int, re.findall(r"4 \(a \+ b\) bytes for a matrix of a × b, both at least (\d+)", row_of(name)[2])
        )
        if p.ndim > 1 and min(shape[-2:]) >= least:
            expected = 4 * sum(shape[-2:]) * (p.numel() // (shape[-2] * shape[-1])) + per_tensor(name)
    if name == "muon" and p.ndim == 1:
        (of_vectors,) = map(int, re.findall(r"(\d+) for vectors, which are AdamW's", row_of(name)[2]))
        expected = of_vectors * p.numel() + per_tensor(name)
    if name == "psgd":
        assert "for every axis of n besides 4 n² bytes (a dense factor) or 4 n (a diagonal one" in row_of(name)[2]
        factors = [state[f"Q{axis}"] for axis in range(p.ndim)]
        assert p.ndim > 1 or factors[0].ndim == 1
        expected += sum(4 * n**Q.ndim + 4 for n, Q in zip(shape, factors, strict=True))
    assert sum(value.numel() * value.element_size() for value in state.values()) == expected


@pytest.mark.parametrize("name", list_optimizers())
def test_the_registry_says_the_same(name: str) -> None:
    info = optimizer_info(name)
    assert (f"{info.state_bytes}", info.tensor_bytes) == (row_of(name)[1], per_tensor(name))
