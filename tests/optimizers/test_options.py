"""Every constructor argument changes the trajectory, per group where groups differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from optzoo.optimizers import create_optimizer, list_optimizers, optimizer_info
from optzoo.optimizers.core.closures import step_on_gradients
from support.cases import facts
from support.problems import gradients, tensors, trajectory

SHAPES = [(4, 5), (6,)]

SAYS_WHAT_OTHERS_SAY = {"relative_step"}
"""Arguments that may contradict others, which test_adafactor.py checks, and otherwise change nothing."""

WITHOUT_EFFECT = {"psgd.merge_dims", "psgdnewton.merge_dims", "psgddense.max_size", "psgddense.norm"}
"""Where an option changes nothing: there are no more than two dimensions, few numbers, and one curvature here."""

MODES = {"foreach", "fused", "capturable", "cache_preconditioner"}
"""Arguments that choose how a step runs: test_modes.py and test_reference_match.py show that the numbers are equal."""

CHANGES: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "lr": (0.02, {}),
    "betas": (None, {}),
    "eps": (None, {}),
    "weight_decay": (0.3, {}),
    "decoupled_weight_decay": (True, {"weight_decay": 0.3}),
    "amsgrad": (True, {"betas": (0.9, 0.3)}),
    "variant": ("debiased", {}),
    "alpha": (2.0, {}),
    "lookahead.alpha": (0.3, {}),
    "k": (3, {}),
    "pullback_momentum": ("pullback", {}),
    "momentum_keys": (("exp_avg_sq",), {"pullback_momentum": "pullback"}),
    "alpha_warmup": (30, {}),
    "beta3_warmup": (30_000, {}),
    "schedule_start": (3, {"alpha_warmup": 30}),
    "maximize": (True, {}),
    "cautious": (None, {}),
    "cautious_scale": ("xi", {"cautious": True}),
    "cautious_floor": (0.9, {"cautious": True}),
    "grams": (None, {}),
    "reps_rel": (1e-3, {}),
    "init_eta": (0.1, {}),
    "scope": ("param", {}),
    "beta1": (0.9, {}),
    "decay_rate": (0.5, {}),
    "decay_offset": (3, {}),
    "beta2_cap": (0.5, {}),
    "clip_threshold": (0.5, {}),
    "scale_parameter": (False, {}),
    "warmup_init": (True, {}),
    "min_dim_size_to_factor": (2, {}),
    "factored": (False, {"min_dim_size_to_factor": 2}),
    "momentum_of": ("update", {"beta1": 0.9}),
    "momentum_dtype": ("bfloat16", {"beta1": 0.9}),
    "momentum": (0.5, {}),
    "nesterov": (False, {}),
    "method": ("polar_express", {}),
    "ns_steps": (3, {}),
    "ns_dtype": ("bfloat16", {}),
    "adjust": ("original", {}),
    "muon.eps": (0.1, {}),
    "parts": ((1, 3), {}),
    "whiten": ("grad", {}),
    "geometry": ("QUAD", {}),
    "lr_preconditioner": (0.5, {}),
    "precond_update_probability": (0.3, {}),
    "beta_L": (0.5, {}),
    "damping": (0.1, {}),
    "init_scale": (0.5, {}),
    "max_size": (3, {}),
    "max_skew": (0.0, {}),
    "merge_dims": ("matrix", {}),
    "update_first": (False, {}),
    "clip": ((0.5, 10.0), {}),
    "norm": ("power", {"max_skew": math.inf}),
    "precond_dtype": ("float32", {}),
    "seed": (1, {"max_skew": math.inf}),
    "adamw": (True, {}),
    "adamw_betas": ((0.5, 0.9), {"adamw": True}),
    "adamw_eps": (0.1, {"adamw": True}),
    "warmup_steps": (4, {}),
    "weight_lr_power": (0.5, {"warmup_steps": 4}),
    **{f"{name}.decoupled_weight_decay": (False, {"weight_decay": 0.3}) for name in list_optimizers("psgd*")},
    "hessian": ("finite_difference", {}),
    "rank": (2, {}),
    "grad_clip_max_norm": (0.1, {"hessian": "exact"}),
    "psgdlra.seed": (1, {}),
    "psgdnewton.norm": ("power", {"max_skew": math.inf}),
    "psgddense.seed": (1, {}),
    "rho": (0.5, {}),
    "adaptive": (True, {}),
    "eta": (0.5, {"adaptive": True}),
}
"""Argument: another value than the default (None: the test makes one) and what else must be set."""


def arguments() -> list[tuple[str, str]]:
    return [
        (name, argument)
        for name in list_optimizers()
        for argument in optimizer_info(name).defaults
        if argument not in {*MODES, *SAYS_WHAT_OTHERS_SAY}
        and f"{name}.{argument}" not in WITHOUT_EFFECT
        and not (argument == "grams" and argument != name and facts(name).sign_of_gradient)
    ]


def walk(name: str, **options: Any) -> list[Tensor]:
    params = [torch.nn.Parameter(t) for t in tensors(SHAPES)]
    return trajectory(create_optimizer(name, params, **options), params, gradients(8, SHAPES), curvature=1.5)[-1]


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_argument_changes_the_trajectory(name: str, argument: str) -> None:
    value, context = CHANGES.get(f"{name}.{argument}", CHANGES.get(argument, (None, {})))
    default = optimizer_info(name).defaults[argument]
    if isinstance(default, tuple) and value is None:
        other = 0.7 if argument == "betas" else 7.0
        variants = [tuple(other if i == k else b for i, b in enumerate(default)) for k in range(len(default))]
    elif value is None:
        variants = [not default if isinstance(default, bool) else 0.1]
    else:
        variants = [value]
    base = walk(name, **context)
    for variant in variants:
        changed = walk(name, **{**context, argument: variant})
        assert not torch.equal(base[0], changed[0]), f"{argument}={variant} changes nothing"


APART = [name for name in list_optimizers() if not facts(name).positional and not facts(name).together]


@pytest.mark.parametrize("name", APART)
def test_options_differ_between_groups(name: str) -> None:
    """Two groups with different options move as two optimizers would."""
    grads = gradients(6, SHAPES)
    scope = {"scope": "group"} if "scope" in facts(name).apart else {}
    options = [{"cautious": True, "lr": 0.1, **scope}, {"weight_decay": 0.2, "maximize": True, **scope}]
    together = [torch.nn.Parameter(t) for t in tensors(SHAPES)]
    groups = [{"params": [p], **o} for p, o in zip(together, options, strict=True)]
    trajectory(create_optimizer(name, groups), together, grads)
    for i, option in enumerate(options):
        alone = torch.nn.Parameter(tensors(SHAPES)[i])
        trajectory(create_optimizer(name, [alone], **option), [alone], [[row[i]] for row in grads])
        assert torch.equal(alone, together[i])


@pytest.mark.parametrize("name", list_optimizers())
def test_state_bytes_are_those_of_the_registry(name: str) -> None:
    p = torch.nn.Parameter(torch.zeros(10, 10))
    opt = create_optimizer(name, [p])
    opt.init_state()
    info = optimizer_info(name)
    total = sum(value.numel() * value.element_size() for value in opt.state[p].values())
    assert total == 100 * info.state_bytes + info.tensor_bytes + facts(name).more_bytes([(10, 10)])


def test_ademamix_without_beta1_keeps_no_fast_average() -> None:
    p = torch.nn.Parameter(torch.zeros(100))
    opt = create_optimizer("ademamix", [p], betas=(0.0, 0.999, 0.9999))
    opt.init_state()
    assert sorted(opt.state[p]) == ["exp_avg_slow", "exp_avg_sq", "step"]


@pytest.mark.parametrize("name", list_optimizers())
def test_zero_lr_and_zero_gradient_move_nothing(name: str) -> None:
    """What torch.distributed.checkpoint does to a fresh optimizer; weight decay must not act either."""
    for options in ({}, {"cautious": True}, {"cautious": True, "cautious_scale": "xi"}, {"grams": True}):
        p = torch.nn.Parameter(tensors([(50,)], torch.float32)[0])
        before = p.detach().clone()
        opt = create_optimizer(name, [p], lr=0.0, weight_decay=0.5, **options)
        p.grad = torch.zeros_like(p)
        step_on_gradients(opt)
        assert torch.equal(p, before)
        assert all(value.isfinite().all() for value in opt.state[p].values())
