"""Checkpoints that earlier versions wrote, kept as files, load and go on where those versions went.

``python tests/optimizers/test_files_of_versions.py 0.1`` writes those of the version that is installed.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from optzoo.optimizers import PSGD, Adafactor, AdEMAMix, Lookahead

FILES = Path(__file__).with_name("files")
MAKERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "psgd": lambda params, **options: PSGD(params, precond_update_probability=1.0, **options),
    "lookahead_ademamix": lambda params, **options: Lookahead(params, AdEMAMix, k=4, **options),
    "adafactor": lambda params, **options: Adafactor(params, min_dim_size_to_factor=3, **options),
}
SHAPES, HALF, WHOLE = ((3, 4), (5,), (2, 3, 4)), 6, 12


def walk(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], steps: range) -> list[torch.Tensor]:
    for step in steps:
        for i, p in enumerate(params):
            p.grad = (
                torch.sin(1.7 * step + i + torch.arange(p.numel(), dtype=torch.float64)).view_as(p) + 0.1 * p.detach()
            )
        optimizer.step()
    return [p.detach().clone() for p in params]


def start() -> list[torch.nn.Parameter]:
    sizes = [torch.Size(shape) for shape in SHAPES]
    return [torch.nn.Parameter(torch.cos(torch.arange(s.numel(), dtype=torch.float64)).view(s)) for s in sizes]


def write(name: str, version: str) -> None:
    params = start()
    optimizer = MAKERS[name](params, lr=0.01, weight_decay=0.1)
    halfway = {"params": walk(optimizer, params, range(HALF)), "optimizer": copy.deepcopy(optimizer.state_dict())}
    file = FILES / f"{name}-{version}.pt"
    torch.save({**halfway, "end": walk(optimizer, params, range(HALF, WHOLE))}, file)


@pytest.mark.parametrize("file", sorted(FILES.glob("*.pt")), ids=lambda file: file.stem)
def test_goes_on(file: Path) -> None:
    """The file knows the options; the tolerance is that of another processor's sums."""
    saved: dict[str, Any] = torch.load(file, weights_only=True)
    params = [torch.nn.Parameter(p) for p in saved["params"]]
    optimizer = MAKERS[file.stem.rpartition("-")[0]](params)
    optimizer.load_state_dict(saved["optimizer"])
    torch.testing.assert_close(walk(optimizer, params, range(HALF, WHOLE)), saved["end"], rtol=1e-12, atol=1e-12)


def test_every_optimizer_has_a_file() -> None:
    assert {file.stem.rpartition("-")[0] for file in FILES.glob("*.pt")} == set(MAKERS)


if __name__ == "__main__":
    for name in MAKERS:
        write(name, sys.argv[1])
