"""PSGD: preconditioners on Lie groups that are fitted while they are used."""

from ..roles import psgd_groups
from .dense import PSGDDense
from .kron_newton import PSGDNewton
from .lra import PSGDLRA
from .whitening import PSGD

__all__ = ["PSGD", "PSGDLRA", "PSGDDense", "PSGDNewton", "psgd_groups"]
