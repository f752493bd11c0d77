"""Optimizers by name, and what is known of them before they are made."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from optzoo.optimizers import (
    Cautious,
    Lion,
    Lookahead,
    OptimizerInfo,
    create_optimizer,
    list_optimizers,
    optimizer_info,
)
from optzoo.optimizers.core.closures import calls_backward


def test_names_and_patterns() -> None:
    assert list_optimizers() == sorted(list_optimizers())
    assert list_optimizers("AD*") == ["adafactor", "adam", "adamw", "ademamix"]
    assert list_optimizers("nothing*") == []


def test_the_import_does_not_bring_the_compiler() -> None:
    """torch._dynamo takes a second to import."""
    code = "import sys, optzoo.optimizers; assert not {'torch._dynamo', 'lightning', 'sklearn'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", list_optimizers())
def test_record(name: str) -> None:
    info = optimizer_info(name)
    assert isinstance(info, OptimizerInfo)
    assert info == optimizer_info(info.optimizer_class.__name__)
    assert issubclass(info.optimizer_class, torch.optim.Optimizer)
    assert info.defaults["lr"] is None or info.defaults["lr"] > 0
    assert info.defaults.keys() >= {"weight_decay", "cautious", "foreach", "fused", "maximize", "capturable"}
    assert "params" not in info.defaults
    assert all([info.paper, info.description, info.use_when])
    assert "cautious" in info.supports
    words = {None: "", True: "backward", False: "loss"}
    assert info.closure == words[calls_backward(create_optimizer(name, [nn.Parameter(torch.ones(2))]))]
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = "other"


@pytest.mark.parametrize("name", list_optimizers())
def test_of_a_model_biases_and_norms_do_not_decay(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    own = inspect.signature(optimizer_info(name).groups).parameters
    whole = {key: None for key in ("adamw_lr", "fallback_lr") if key in own} | {"include_frozen": False}
    optimizer = create_optimizer(name.upper(), model, lr=0.5, weight_decay=0.25, cautious=True, **whole)
    decay, no_decay = optimizer.param_groups
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.25, 0.0)
    assert decay["param_names"] == ["0.weight", "2.weight"]
    assert no_decay["param_names"] == ["1.weight", "1.bias", "2.bias"]
    assert all(group["lr"] == 0.5 and group["cautious"] is True for group in optimizer.param_groups)
    own = create_optimizer(name, model, include_frozen=False)
    assert own.param_groups[0]["weight_decay"] == optimizer_info(name).defaults["weight_decay"]
    lr = optimizer_info(name).defaults["lr"]
    assert own.param_groups[0]["lr"] == (1.0 if lr is None else lr)


@pytest.mark.parametrize("name", list_optimizers())
def test_parameters_and_groups_are_taken_as_they_are(name: str) -> None:
    params = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    assert create_optimizer(name, params, weight_decay=0.1).param_groups[0]["params"] == params
    groups = [{"params": params[:1], "lr": 0.1}, {"params": params[1:], "lr": 0.2}]
    assert [group["lr"] for group in create_optimizer(name, groups).param_groups] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("options", "top"),
    [
        ({"lr": 0.5}, 0.5),
        ({}, 1e-3),
        ({"base": "lion"}, 1e-4),
        ({"base": "lion", "lr": 0.25}, 0.25),
        ({"base": torch.optim.SGD}, 1e-3),
        ({"base": partial(torch.optim.SGD, lr=0.125)}, 0.125),
    ],
)
def test_layer_decay_scales_the_lr_of_the_optimizer(options: dict[str, Any], top: float) -> None:
    """Given here, or the default, for a wrapper of its base."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    name = "lookahead" if "base" in options else "adamw"
    optimizer = create_optimizer(name, model, layer_decay=0.5, **options)
    assert [group["lr"] for group in optimizer.param_groups] == [top / 2, top / 2, top, top]
    tensor = create_optimizer("adamw", model, lr=torch.tensor(1.0), layer_decay=0.5)
    assert [group["lr"].item() for group in tensor.param_groups] == [0.5, 0.5, 1, 1]


def test_bases_go_by_name() -> None:
    model = nn.Linear(2, 2)
    for optimizer in (
        create_optimizer("lookahead", model, base="Lion", k=3),
        Lookahead(model.parameters(), "lion", k=3),
        Lookahead(Cautious(model.parameters(), "lion"), k=3),
    ):
        inner: Any = optimizer
        while isinstance(inner, (Lookahead, Cautious)):
            inner = inner.base_optimizer
        assert type(inner) is Lion
    assert [group["adamw"] for group in create_optimizer("lookahead", model, base="psgd").param_groups] == [False, True]
    with pytest.raises(TypeError, match=r"base must be .* got 'lio', and no optimizer is called 'lio'; .* 'lion'"):
        Lookahead(model.parameters(), "lio")


@pytest.mark.parametrize("name", list_optimizers())
@pytest.mark.parametrize("mode", ["cautious", "foreach", "fused", "maximize", "capturable"])
def test_what_is_supported_is_what_is_taken(name: str, mode: str) -> None:
    info = optimizer_info(name)
    if mode in info.supports:
        create_optimizer(name, nn.Linear(2, 2), **{mode: True})
    else:
        with pytest.raises(ValueError, match=mode):
            create_optimizer(name, nn.Linear(2, 2), **{mode: True})
