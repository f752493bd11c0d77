"""The optimizers under test as data: an entry here is compared with its paper in every mode and option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """An optimizer with options that take a path of their own through its code."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


CASES = [
    Case("adam"),
    Case("adam", {"weight_decay": 0.1}),
    Case("adam", {"betas": (0.0, 0.99), "eps": 1e-3}),
    Case("adam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": True}),
    Case("adamw"),
    Case("adamw", {"amsgrad": "debiased"}),
    Case("amsgrad"),
    Case("amsgrad", {"variant": "paper", "weight_decay": 0.1}),
    Case("amsgrad", {"variant": "debiased", "weight_decay": 0.1, "decoupled_weight_decay": True}),
    Case("ademamix", {"weight_decay": 0.1}),
    Case("ademamix", {"beta3_warmup": 6, "alpha_warmup": 9, "betas": (0.9, 0.999, 0.95), "schedule_start": 2}),
    Case("ademamix", {"betas": (0.0, 0.99, 0.999), "alpha": 8.0}),
    Case("ademamix", {"betas": (0.0, 0.99, 0.9), "beta3_warmup": 20, "schedule_start": 1}),
    Case("grams"),
    Case("grams", {"weight_decay": 0.1, "eps": 1e-3}),
    Case("lion", {"weight_decay": 0.1}),
    Case("lion", {"betas": (0.5, 0.0)}),
    Case("diffgrad"),
    Case("diffgrad", {"weight_decay": 0.1}),
    Case("diffgrad", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    Case("cadamw", {"weight_decay": 0.1}),
    Case("clion", {"weight_decay": 0.1}),
]

TRANSFORMS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "cautious": {"cautious": True},
    "cautious-floor": {"cautious": True, "cautious_floor": 0.75},
    "cautious-xi": {"cautious": True, "cautious_scale": "xi"},
    "cautious-unscaled": {"cautious": True, "cautious_scale": None},
    "grams": {"grams": True},
    "grams-cautious": {"grams": True, "cautious": True},
    "maximize": {"maximize": True},
    "maximize-cautious": {"maximize": True, "cautious": True},
}
"""Options every optimizer takes, as they change the update."""
