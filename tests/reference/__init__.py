"""The papers in float64 NumPy, written from the texts and independent of the library: the oracle of its tests."""

from .common import Reference, run

__all__ = ["Reference", "run"]
