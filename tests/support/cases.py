"""The optimizers under test as data: an entry here is compared with its paper in every mode and option."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    Case("schedulefreeadamw", {"weight_decay": 0.1}),
    Case("schedulefreeadamw", {"betas": (0.5, 0.0), "warmup_steps": 4, "r": 2.0, "weight_lr_power": 1.0}),
    Case("schedulefreesgd"),
    Case("schedulefreesgd", {"momentum": 0.98, "weight_decay": 0.1, "warmup_steps": 20}),
]


def kronecker(shapes: Sequence[Sequence[int]]) -> int:
    """Bytes of one factor per axis, dense where that is no larger than the tensor, else diagonal, and of its bound."""
    return sum(4 * (n * n if n * n <= math.prod(shape) else n) + 4 for shape in shapes for n in shape)


def vectors(shapes: Sequence[Sequence[int]]) -> int:
    """Bytes of the second moment that AdamW has of tensors that are no matrices."""
    return sum(4 * math.prod(shape) for shape in shapes if sum(n > 1 for n in shape) < 2)


def dense(shapes: Sequence[Sequence[int]]) -> int:
    """Bytes of one matrix of all tensors together."""
    return 4 * sum(map(math.prod, shapes)) ** 2


@dataclass(frozen=True)
class Facts:
    """What the tests must know of an optimizer beside its OptimizerInfo."""

    sign_of_gradient: bool = False
    """Updates, at default options, have the gradient's sign everywhere."""
    joint: bool = False
    """The state of all parameters is made at once, those without a gradient included."""
    positional: bool = False
    """Random numbers come from the position of a parameter: alone it goes another way, by rounding at least."""
    together: bool = False
    """Parameters of one group are one vector: one alone goes another way."""
    one_graph: bool = True
    """torch.compile makes one graph of a step."""
    small: Mapping[str, Any] = field(default_factory=dict)
    """Options with which small tensors are treated as big ones are by default."""
    moving: Mapping[str, Any] = field(default_factory=dict)
    """Options without which steps on ranks are lost in the tolerance."""
    apart: Mapping[str, Any] = field(default_factory=dict)
    """Options with which parameters share nothing."""
    changing: Mapping[str, Any] = field(default_factory=dict)
    """Options under which numbers that do not change by default differ from step to step."""
    more_bytes: Callable[[Sequence[Sequence[int]]], int] = lambda shapes: 0
    """State beside OptimizerInfo's bytes, of tensors of these shapes in one group."""


_DOG = Facts(sign_of_gradient=True, joint=True, moving={"reps_rel": 1.0})
_WARMUPS = {"betas": (0.9, 0.999, 0.99), "alpha_warmup": 5, "beta3_warmup": 5}
_FACTS: Mapping[str, Facts] = {
    "adafactor": Facts(sign_of_gradient=True, small={"min_dim_size_to_factor": 2}),
    "ademamix": Facts(changing=_WARMUPS),
    "dog": replace(_DOG, apart={"scope": "param"}),
    "grams": Facts(sign_of_gradient=True),
    "ldog": _DOG,
    "lookahead": Facts(one_graph=False, apart={"k": 1}),
    "muon": Facts(more_bytes=vectors),
    # noise of rounding's size without damping
    "psgd": Facts(positional=True, one_graph=False, apart={"damping": 0.0}, more_bytes=kronecker),
    "psgdnewton": Facts(positional=True, one_graph=False, more_bytes=kronecker),
    "psgdlra": Facts(positional=True, together=True, one_graph=False),
    "psgddense": Facts(positional=True, together=True, one_graph=False, more_bytes=dense),
    "sam": Facts(one_graph=False),
}


def facts(name: str) -> Facts:
    return _FACTS.get(name, Facts())


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
