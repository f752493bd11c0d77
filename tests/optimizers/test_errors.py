"""Bad input: the error names the argument, its value and the remedy, and nothing has changed."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optzoo.optimizers import AdamW, AdEMAMix, create_optimizer, list_optimizers, optimizer_info


def make(name: str, **options: Any) -> torch.optim.Optimizer:
    factory: Any = optimizer_info(name).optimizer_class
    return factory([nn.Parameter(torch.zeros(3))], **options)


BAD_VALUES = {
    "lr": [-1e-3, math.nan, math.inf, None, "1e-3", torch.ones(2)],
    "betas": [(0.9, 1.0), (-0.1, 0.9), (0.9,), 0.9, ("0.9", 0.99)],
    "eps": [-1e-8, math.nan, None],
    "weight_decay": [-0.1, math.inf, "0.1"],
    "decoupled_weight_decay": [1, None],
    "amsgrad": ["yes", 1, None],
    "variant": ["adamx", True],
    "alpha": [-1.0, None],
    "alpha_warmup": [-1, "100"],
    "beta3_warmup": [-1, math.nan],
    "schedule_start": [-1, None],
    "maximize": [1, "yes"],
    "foreach": [1, "yes"],
    "fused": [1, "yes"],
    "capturable": [None],
    "cautious": [1, None],
    "cautious_scale": ["mean", True],
    "cautious_floor": [0.0, 1.5, -1.0],
    "grams": [1],
    "k": [0, -1, 2.5, True],
    "pullback_momentum": ["no", None],
    "momentum_keys": [(), "exp_avg", (1,)],
    "reps_rel": [0.0, -1e-6, None],
    "init_eta": [0.0, -1.0, "0.1"],
    "scope": ["layer", None],
    "beta1": [1.0, -0.1, "0.9"],
    "decay_rate": [0.0, -0.8, None],
    "decay_offset": [-1, None],
    "beta2_cap": [1.0, "0.9"],
    "clip_threshold": [0.0, -1.0, "1"],
    "scale_parameter": [1, None],
    "relative_step": [1, "yes"],
    "warmup_init": [1, None],
    "min_dim_size_to_factor": [0, 1.5, None],
    "factored": [1, None],
    "momentum_of": ["u", None],
    "momentum_dtype": ["bf16", "int8", 16],
    "momentum": [1.0, -0.1, None],
    "nesterov": [1, None],
    "method": ["newton", None],
    "ns_steps": [0, 2.5, True],
    "ns_dtype": ["float8", 32],
    "adjust": ["rms", 1],
    "parts": [(4,), (2, 0), 3],
    "whiten": ["g", None],
    "geometry": ["Q", None],
    "lr_preconditioner": [0.0, -0.1, None],
    "precond_update_probability": [0.0, 1.5, "often"],
    "beta_L": [1.0, None],
    "damping": [-1e-9, None],
    "init_scale": [0.0, "auto"],
    "max_size": [0, -1, None],
    "max_skew": [-1.0, math.nan, None],
    "merge_dims": ["all", 2],
    "update_first": [1, None],
    "clip": [(1.0,), (0.0, 1.0), 2.0],
    "norm": ["frobenius", None],
    "precond_dtype": ["float8", 32],
    "cache_preconditioner": [1, "yes"],
    "seed": [1.5, None],
    "adamw": [1, None],
    "adamw_betas": [(0.9, 1.0), (0.9,), None],
    "adamw_eps": [-1e-8, None],
    "warmup_steps": [-1, None],
    "r": [-1.0, None],
    "weight_lr_power": [-1.0, "2"],
    "hessian": ["newton", None],
    "rank": [-1, 1.5, None],
    "grad_clip_max_norm": [0.0, "all"],
    "rho": [-0.1, None],
    "adaptive": [1, None],
    "eta": [-1e-3, None],
}

CASES = [
    (name, argument, value)
    for name in list_optimizers()
    for argument in optimizer_info(name).defaults
    for value in BAD_VALUES[argument]
    if value is not None or optimizer_info(name).defaults[argument] is not None
]


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_value_out_of_range_is_named(name: str, argument: str, value: Any) -> None:
    info = optimizer_info(name)
    owners = "|".join(owner.__name__ for owner in (info.optimizer_class, info.base) if owner)
    with pytest.raises(ValueError, match=f"({owners}): {argument} must be") as error:
        make(name, **{argument: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("name", list_optimizers())
def test_a_bad_group_is_refused_and_not_added(name: str) -> None:
    opt = make(name)
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(ValueError, match="lr must be"):
        opt.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": -1.0})
    assert opt.state_dict() == before


@pytest.mark.parametrize("name", list_optimizers())
@pytest.mark.parametrize(
    ("given", "nearest"), [("weigth_decay", "weight_decay"), ("caution", "cautious"), ("maximise", "maximize")]
)
def test_unknown_keyword_names_the_nearest(name: str, given: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f"has no option '{given}'; did you mean '{nearest}'"):
        make(name, **{given: 0.1})


def test_unknown_keyword_without_a_near_one_lists_all() -> None:
    with pytest.raises(TypeError, match="'zzz'; it takes lr, betas, eps, weight_decay"):
        make("adamw", zzz=1)


def test_torch_options_that_do_not_exist_here() -> None:
    with pytest.raises(TypeError, match="'differentiable'"):
        make("adamw", differentiable=True)


def test_foreach_and_fused_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="foreach=True and fused=True"):
        make("adamw", foreach=True, fused=True)


@pytest.mark.parametrize("name", list_optimizers())
def test_empty_parameter_list(name: str) -> None:
    model = nn.Linear(2, 2)
    iterator = model.parameters()
    list(iterator)
    for empty in ([], iterator):
        with pytest.raises(ValueError, match="params is empty"):
            create_optimizer(name, empty)


def test_params_that_are_no_parameters() -> None:
    with pytest.raises(TypeError, match="params"):
        AdamW(torch.zeros(3))
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        AdamW([1.0])


@pytest.mark.parametrize("named", [False, True])
def test_sparse_gradients_are_refused_before_anything_changes(named: bool) -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    other = nn.Parameter(torch.ones(2))
    params = [("other", other), ("embedding.weight", embedding.weight)] if named else [other, embedding.weight]
    opt = AdamW(params)
    (embedding(torch.tensor([1, 3])).sum() + other.sum()).backward()
    before = [other.detach().clone(), embedding.weight.detach().clone()]
    who = "parameter 'embedding.weight'" if named else r"parameter 1 of its group \(shape \(5, 2\)\)"
    with pytest.raises(RuntimeError, match=f"dense gradients only; that of {who} .*sparse=False"):
        opt.step()
    assert torch.equal(other, before[0])
    assert torch.equal(embedding.weight, before[1])
    assert not opt.state


def test_short_beta3_warmup_warns_with_the_remedy() -> None:
    with pytest.warns(
        UserWarning, match="beta3_warmup=2000 is short for beta3=0.9999.*at least .* 20000 steps"
    ) as caught:
        make("ademamix", beta3_warmup=2000)
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
def test_long_beta3_warmup_does_not_warn() -> None:
    make("ademamix", beta3_warmup=20_000)
    make("ademamix", beta3_warmup=2000, betas=(0.9, 0.999, 0.999))
    make("ademamix", alpha_warmup=10)


@pytest.mark.parametrize("betas", [(0.9, 0.999, 0.5), (0.0, 0.999, 0.0)])
def test_beta3_warmup_needs_a_beta3_to_rise_to(betas: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"betas\[2\] must be positive and at least betas\[0\]"):
        make("ademamix", beta3_warmup=100_000, betas=betas)
    make("ademamix", betas=betas)  # without a schedule it is what was asked for


def test_numpy_numbers_become_plain_so_that_checkpoints_load_with_weights_only() -> None:
    opt = make("ademamix", lr=np.float64(1e-3), betas=[np.float32(0.5), 0.9, 0.99], alpha=np.int64(3))
    group = opt.param_groups[0]
    assert [type(group[key]) for key in ("lr", "alpha")] == [float, int]
    assert [type(b) for b in group["betas"]] == [float, float, float]


def test_unknown_names_in_the_registry() -> None:
    with pytest.raises(ValueError, match="no optimizer is called 'ademmix'; did you mean 'ademamix'"):
        create_optimizer("ademmix", nn.Linear(1, 1))
    with pytest.raises(ValueError, match="no optimizer is called 'qqq'; there are adam, adamw"):
        optimizer_info("qqq")


def test_missing_attribute_in_update_says_what_there_is() -> None:
    class Wrong(AdEMAMix):
        @staticmethod
        def update(p: Any, g: Any, s: Any, h: Any) -> Any:
            return s.momentum

    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    with pytest.raises(AttributeError, match="no 'momentum' here; there are exp_avg, exp_avg_slow, exp_avg_sq"):
        Wrong([p]).step()


WITHOUT_COMPILER = """
import torch
from optzoo.optimizers import AdamW
p = torch.nn.Parameter(torch.ones(1 << 16))
p.grad = torch.ones_like(p)
try:
    AdamW([p], fused=True).step()
except RuntimeError as error:
    assert (p == 1).all()
    print(error)
"""


@pytest.mark.slow
def test_fused_without_a_compiler_says_what_is_missing(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert "fused=True: torch.compile failed. It needs a C++ compiler for CPU tensors" in done.stdout
