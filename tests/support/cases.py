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
    Case("dog", {"lr": 1.0, "reps_rel": 1e-2}),
    Case("dog", {"lr": 0.5, "reps_rel": 1e-2, "eps": 1e-3, "weight_decay": 0.1}),
    Case("dog", {"lr": 1.0, "reps_rel": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    Case("dog", {"lr": 1.0, "init_eta": 0.1}),
    Case("ldog", {"lr": 1.0, "reps_rel": 1e-2, "weight_decay": 0.1}),
    Case("muon", {"weight_decay": 0.1}),
    Case("muon", {"nesterov": False, "adjust": "original", "momentum": 0.5, "method": "polar_express"}),
    Case("muon", {"adjust": "spectral_unclamped", "method": "svd", "weight_decay": 0.1}),
    Case("muon", {"adjust": None, "ns_steps": 2, "eps": 1e-3, "adamw_betas": (0.5, 0.9), "adamw_eps": 1e-4}),
    Case("muon", {"adamw": True, "weight_decay": 0.1}),
    Case("adafactor", {"weight_decay": 0.1}),
    Case("adafactor", {"lr": None, "min_dim_size_to_factor": 3, "weight_decay": 0.1}),
    Case("adafactor", {"lr": None, "warmup_init": True, "beta2_cap": 0.5, "clip_threshold": 0.3}),
    Case("adafactor", {"min_dim_size_to_factor": 2, "beta1": 0.9, "weight_decay": 0.1, "decay_offset": 2}),
    Case("adafactor", {"min_dim_size_to_factor": 1, "beta1": 0.9, "momentum_of": "update"}),
    Case("adafactor", {"scale_parameter": False, "clip_threshold": None, "min_dim_size_to_factor": 3}),
]

SUMMING = {"adafactor", "dog", "ldog", "muon"}
"""Optimizers whose steps depend on sums over tensors, which round differently in another order of memory."""
SIGN_OF_GRADIENT = {"adafactor", "dog", "grams", "ldog"}
"""Optimizers whose updates, at default options, have the gradient's sign everywhere."""
JOINT = {"dog", "ldog"}
"""Optimizers that make the state of all parameters at once, those without a gradient included."""

FACTORING: Mapping[str, Mapping[str, Any]] = {"adafactor": {"min_dim_size_to_factor": 2}}
"""Options with which small tensors are treated as big ones are by default."""

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
