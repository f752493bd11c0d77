"""Another optimizer takes over in the middle of a run, by ``adopt`` or by ``load_state_dict``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optzoo.optimizers import AdamW, AdEMAMix, CAdamW, adopt, create_optimizer, list_optimizers, optimizer_info
from reference import Reference
from support.checkpoints import differences, parameters, torch_run, walk
from support.problems import gradients, trajectory
from support.processes import SAVED_AFTER, STEPS

pytestmark = pytest.mark.filterwarnings("ignore:AdEMAMix. beta3_warmup")


def load(optimizer: Any, source: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(source.state_dict())


ADAMS = [
    name for name in list_optimizers() if "exp_avg" in getattr(optimizer_info(name).optimizer_class, "buffers", ())
]


def taken_over(name: str, moments: Mapping[int, Mapping[str, Any]], **options: Any) -> Reference:
    """The float64 reference of an optimizer that finds AdamW's moments and step counts."""
    reference = Reference(name, **options)
    for i, state in moments.items():
        m, v = (state[key].numpy().copy() for key in ("exp_avg", "exp_avg_sq"))
        reference.states[i].update({"m": m, "m1": m, "v": v, "ν": v, "v_max": v})
        reference.steps[i] = int(state["step"])
    return reference


def equals_reference(optimizer: Any, params: Sequence[Tensor], reference: Reference) -> bool:
    """Both walk to the end; whether they are together, to 1e-12, all the way."""
    θ = [p.detach().numpy().copy() for p in params]
    gaps = []
    for row in gradients(STEPS)[SAVED_AFTER:]:
        trajectory(optimizer, params, [row])
        θ = reference.step(θ, [None if g is None else g.numpy() for g in row])
        gaps += [np.max(np.abs(p.detach().numpy() - q) / (1 + np.abs(q))) for p, q in zip(params, θ, strict=True)]
    return max(gaps) < 1e-12


@pytest.mark.parametrize("source", ["optimizer", "state_dict"])
@pytest.mark.parametrize("name", ADAMS)
def test_adopt_takes_the_moments_and_keeps_the_options(name: str, source: str) -> None:
    before, halfway = torch_run({"weight_decay": 0.5, "maximize": True})
    options = {"lr": 0.003, "weight_decay": 0.1, "betas": (0.8, 0.97)}
    started = {}
    if "alpha_warmup" in optimizer_info(name).defaults:
        options |= {"betas": (0.8, 0.97, 0.99), "beta3_warmup": 4, "alpha_warmup": 3}
        started = {"schedule_start": SAVED_AFTER}
    params = parameters(like=halfway)
    optimizer = create_optimizer(name, params, **options)
    adopt(optimizer, before if source == "optimizer" else before.state_dict())
    for p, state in zip(params, before.state.values(), strict=True):
        assert all(torch.equal(optimizer.state[p][key], state[key]) for key in optimizer.state[p].keys() & state.keys())
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in (*options, *started)} == {**options, **started}
    reference = taken_over(name, before.state_dict()["state"], **options, **started)
    assert equals_reference(optimizer, params, reference)


@pytest.mark.parametrize("name", ADAMS)
def test_load_state_dict_takes_the_moments_and_the_options(name: str) -> None:
    """But for what makes the class what it is, amsgrad too; and what torch's AdamW has no word for stays as it was.

    Lion's lr and betas mean something else.
    """
    before, halfway = torch_run({"weight_decay": 0.5, "maximize": True, "betas": (0.8, 0.97)})
    params = parameters(like=halfway)
    info = optimizer_info(name)
    third = info.defaults["betas"][2:]
    own = {"alpha": 3.0} if third else {}
    optimizer = create_optimizer(name, params, cautious=True, **own)
    optimizer.load_state_dict(before.state_dict())
    betas = (0.8, 0.97, *third)
    options = {"lr": 0.01, "weight_decay": 0.5, "maximize": True, "betas": betas, "cautious": True, **own}
    if "exp_avg_sq" not in info.optimizer_class.buffers:
        options |= {"lr": 1e-4, "weight_decay": 0.0, "maximize": False, "betas": (0.9, 0.99)}
    assert {key: optimizer.param_groups[0][key] for key in options} == options
    if "decoupled_weight_decay" in info.defaults:  # which have a choice, and the checkpoint makes it, from torch 2.7 on
        options["decoupled_weight_decay"] = before.param_groups[0].get("decoupled_weight_decay", False)
    if "eps" in info.defaults:
        options["eps"] = 1e-8
    assert equals_reference(optimizer, params, taken_over(name, before.state_dict()["state"], **options))


def test_options_a_checkpoint_lacks_stay_as_each_group_has_them() -> None:
    before, _ = torch_run()
    for optimizer in (
        CAdamW([{"params": parameters(), "cautious": False}]),
        AdEMAMix([{"params": parameters(), "alpha": 2.0, "betas": (0.9, 0.999, 0.99)}]),
    ):
        group = {
            key: value
            for key, value in optimizer.param_groups[0].items()
            if key not in ("params", "lr", "weight_decay", "schedule_start")
        }
        optimizer.load_state_dict(before.state_dict())
        assert {key: optimizer.param_groups[0][key] for key in group} == group
    assert optimizer.param_groups[0]["schedule_start"] == SAVED_AFTER  # AdEMAMix: its slow average starts here


@pytest.mark.parametrize("take", [adopt, load])
def test_an_adamw_stays_one_on_the_checkpoint_of_an_adam(take: Callable[[Any, Any], None]) -> None:
    """As torch's does: decoupled weight decay is what makes it one, and Grams, AdEMAMix and CAdamW have no other."""
    params = parameters()
    before = torch.optim.Adam(params, weight_decay=0.1)
    walk(before, params, last=SAVED_AFTER)
    for name in ("adamw", "cadamw", "grams", "ademamix"):
        optimizer = create_optimizer(name, parameters())
        take(optimizer, before)
        assert optimizer.param_groups[0]["decoupled_weight_decay"] is True, name


def test_adopt_shares_no_memory() -> None:
    before, halfway = torch_run()
    untouched = copy.deepcopy(before.state_dict())
    params = parameters(like=halfway)
    optimizer = AdamW(params)
    adopt(optimizer, before)
    walk(optimizer, params, SAVED_AFTER)
    assert differences(before.state_dict(), untouched) == []


@pytest.mark.parametrize("take", [adopt, load])
def test_a_checkpoint_of_another_class_leaves_the_class_what_it_is(take: Callable[[Any, Any], None]) -> None:
    params = parameters()
    before = create_optimizer("adamw", params)
    walk(before, params, last=SAVED_AFTER)
    for name, option, value in (
        ("cadamw", "cautious", True),
        ("grams", "grams", True),
        ("amsgrad", "amsgrad", "torch"),
        ("adamw", "foreach", False),  # how to run is not the checkpoint's to say
    ):
        optimizer = create_optimizer(name, parameters(), **({option: value} if option == "foreach" else {}))
        take(optimizer, before)
        assert optimizer.param_groups[0][option] == value, name


def test_names_under_wrappers_are_the_same_names() -> None:
    saved = AdamW([("module._orig_mod.w", torch.nn.Parameter(torch.ones(2)))]).state_dict()
    AdamW([("w", torch.nn.Parameter(torch.ones(2)))]).load_state_dict(saved)


@pytest.mark.parametrize("variant", [True, "torch", "paper", "debiased"])
def test_amsgrad_switched_on_in_a_run(variant: bool | str) -> None:
    """The maximum starts from the present v, or v̂; torch.optim raises KeyError."""
    params = parameters()
    optimizer = AdamW(params, lr=0.01)
    walk(optimizer, params, last=SAVED_AFTER)
    reference = taken_over("adamw", optimizer.state_dict()["state"], lr=0.01, amsgrad=variant)
    if variant == "debiased":
        for i, state in reference.states.items():
            state["v_max"] = state["v"] / (1 - 0.999 ** reference.steps[i])
    optimizer.param_groups[0]["amsgrad"] = variant
    assert equals_reference(optimizer, params, reference)
