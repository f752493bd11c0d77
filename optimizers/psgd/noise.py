"""Random numbers that depend on (seed, parameter, step) alone: equal on all replicas, and none in the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


class Noise:
    """A source of normal numbers for a batch of parameters at one step, each with a stream of its own.

    The global generators are neither read nor written. Whether other parameters have gradients changes nothing.
    Numbers of different ``stream`` are independent.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], step: int, device: torch.device | str, stream: int = 0
    ) -> None:
        self.generators = [
            torch.Generator(device=device).manual_seed(_hash(seed, index, step, stream)) for index in indices
        ]

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """Independent N(0, 1) of this shape, whose first dimension is the batch, in the precision of ``like``."""
        rows = [
            torch.randn(shape[1:], generator=generator, dtype=torch.float32, device=like.device)
            for generator in self.generators
        ]
        return torch.stack(rows).to(like.dtype)


def coin(seed: int, index: int, step: int) -> bool:
    """A fair choice that the host knows without asking a device."""
    return bool(_hash(seed, index, step, -1) & 1)


def _hash(*numbers: int) -> int:
    """64 bits in which every bit depends on all of these numbers."""
    x = 0
    for number in numbers:
        x = _mix(x ^ (number & _MASK))
    return x


def _mix(x: int) -> int:
    """A bijection of 64 bits in which every bit depends on all (splitmix64's finalizer)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
