"""What several problems are made of: fixed random matrices, mini-batches, models that a seed initialises."""

import zlib
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Model = TypeVar("Model")

SKLEARN = (("sklearn", "scikit-learn", "optzoo[compare]"),)


def fixed_generator(name: str) -> torch.Generator:
    """For what belongs to a problem and not to a run: data, rotations."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def rotation(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix, in double precision."""
    orthogonal: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return orthogonal


def logspace(first: float, last: float, count: int) -> Tensor:
    """Numbers at equal ratios, in double precision."""
    return torch.logspace(
        torch.tensor(first).log10().item(), torch.tensor(last).log10().item(), count, dtype=torch.float64
    )


def epochs_of_batches(size: int, batch_size: int, steps: int, generator: torch.Generator) -> Tensor:
    """Rows of indices, one row a step: reshuffled every epoch, the incomplete last batch dropped."""
    per_epoch = size // batch_size
    epochs = -(-steps // per_epoch)
    orders = [torch.randperm(size, generator=generator)[: per_epoch * batch_size] for _ in range(epochs)]
    return torch.cat(orders).view(-1, batch_size)[:steps]


def seeded(build: Callable[[], Model], generator: torch.Generator) -> Model:
    """The model that `build` makes with the global generator, as it is seeded for this run, and then restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        return build()
