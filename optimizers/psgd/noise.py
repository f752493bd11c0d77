"""Random numbers that depend on (seed, parameter, step) alone: equal on all replicas, and none in the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.reductions import stacked

_MASK = (1 << 64) - 1


class Noise:
    """A source of normal numbers for a batch of parameters at one step, each with a stream of its own.

    The global generators are neither read nor written. Whether other parameters have gradients changes nothing.
    """

    def __init__(self, seeds: Tensor) -> None:
        self._seeds = seeds
        self._draws = 0

    @classmethod
    def at(cls, seed: int, indices: Sequence[int], step: int, stream: int = 0) -> Noise:
        """That of the parameters of these indices at a step; numbers of different ``stream`` are independent."""
        return cls(seeds(seed, indices, step, stream))

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """Independent N(0, 1) of this shape, whose first dimension is the batch, in the precision of ``like``."""
        self._draws += 1
        numbers: Tensor = torch.ops.optzoo.normal(self._seeds, self._draws, shape[1:], like)
        return numbers


def seeds(seed: int, indices: Sequence[int], step: int, stream: int = 0) -> Tensor:
    """What a :class:`Noise` is made of, on the CPU."""
    return torch.tensor([_signed(_hash(seed, index, step, stream)) for index in indices])


@torch.library.custom_op("optzoo::normal", mutates_args=())
def _normal(seeds: Tensor, draw: int, shape: Sequence[int], like: Tensor) -> Tensor:
    """An operator, since torch.compile cannot look into generators."""
    rows = []
    for seed in seeds.tolist():
        generator = torch.Generator(device=like.device).manual_seed(_signed(_hash(seed, draw)))
        rows.append(torch.randn(shape, generator=generator, dtype=torch.float32, device=like.device))
    return stacked(rows).to(like.dtype)


@_normal.register_fake
def _(seeds: Tensor, draw: int, shape: Sequence[int], like: Tensor) -> Tensor:
    return like.new_empty(len(seeds), *shape)


def coin(seed: int, index: int, step: int) -> bool:
    """A fair choice that the host knows without asking a device."""
    return bool(_hash(seed, index, step, -1) & 1)


def _hash(*numbers: int) -> int:
    """64 bits in which every bit depends on all of these numbers."""
    x = 0
    for number in numbers:
        x = _mix(x ^ (number & _MASK))
    return x


def _signed(x: int) -> int:
    """As 64 bits with a sign, which tensors and generators take."""
    return x - (1 << 64) if x >> 63 else x


def _mix(x: int) -> int:
    """A bijection of 64 bits in which every bit depends on all (splitmix64's finalizer)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
