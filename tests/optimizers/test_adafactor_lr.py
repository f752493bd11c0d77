"""Adafactor's lr: a factor of the relative step by default, in groups, under schedulers and in checkpoints."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, StepLR

from optzoo.optimizers import Adafactor, Lookahead, create_optimizer
from optzoo.schedulers import WSD, Linear

PLAIN: Mapping[str, Any] = {"scale_parameter": False, "clip_threshold": None}
"""With which a gradient of 1 moves a parameter by ρ."""
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(3, dtype=torch.float64))


def moved(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[float]:
    """How far each step goes along a gradient of 1."""
    (p,) = optimizer.param_groups[0]["params"]
    path = [p[0].item()]
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        path.append(p[0].item())
    return [before - after for before, after in pairwise(path)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1.0, True)),
        ({"lr": 0.1}, (0.1, False)),
        ({"relative_step": True}, (1.0, True)),
        ({"lr": 0.5, "relative_step": True}, (0.5, True)),
        ({"lr": 0.1, "relative_step": False}, (0.1, False)),
    ],
)
def test_lr_and_relative_step_as_they_are_in_the_groups(options: Mapping[str, Any], expected: tuple[Any, ...]) -> None:
    """Said to the constructor, in a group of its parameters, or in one that is added."""
    by_constructor = Adafactor([parameter()], **options)
    by_group = Adafactor([{"params": [parameter()], **options}])
    added = Adafactor([parameter()], lr=7.0)
    added.add_param_group({"params": [parameter()], "lr": None, **options})
    for optimizer in (by_constructor, by_group, added):
        group = optimizer.param_groups[-1]
        assert (group["lr"], group["relative_step"]) == expected


def test_groups_inherit_what_the_constructor_says() -> None:
    optimizer = Adafactor([{"params": [parameter()], "lr": 0.5}, {"params": [parameter()]}], relative_step=True)
    assert [(group["lr"], group["relative_step"]) for group in optimizer.param_groups] == [(0.5, True), (1.0, True)]


def test_an_absolute_lr_beside_relative_ones_is_pointed_out() -> None:
    """Lightning's BackboneFinetuning, say, works out the lr of the group that it adds from the lr of the first."""
    optimizer = Adafactor([parameter()])
    with pytest.warns(UserWarning, match="lr=0.1 of an added group is absolute, .* say relative_step=True or False"):
        optimizer.add_param_group({"params": [parameter()], "lr": 0.1})
    assert optimizer.param_groups[1]["relative_step"] is False


def test_of_a_model_with_layers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = create_optimizer("adafactor", model, lr=1.0, relative_step=True, layer_decay=0.5)
    assert [(g["lr"], g["relative_step"]) for g in optimizer.param_groups] == [(0.5, True)] * 2 + [(1.0, True)] * 2
    with pytest.raises(ValueError, match=r"layer_decay=0\.5 scales lr, so give lr as well"):
        create_optimizer("adafactor", model, layer_decay=0.5)


SCHEDULERS: Mapping[str, tuple[Callable[[Any], LRScheduler], list[float]]] = {
    "LambdaLR": (lambda optimizer: LambdaLR(optimizer, lambda t: 1 / (1 + t)), [1, 1 / 2, 1 / 3, 1 / 4]),
    "StepLR": (lambda optimizer: StepLR(optimizer, 2, 0.5), [1, 1, 0.5, 0.5]),
    "OneCycleLR": (
        lambda optimizer: OneCycleLR(
            optimizer, 1.0, total_steps=4, pct_start=0.5, anneal_strategy="linear", cycle_momentum=False
        ),
        [0.04, 1, 0.500002, 4e-6],
    ),
    "Linear": (lambda optimizer: Linear(optimizer, total=4), [1, 0.75, 0.5, 0.25]),
    "WSD": (lambda optimizer: WSD(optimizer, total=4, warmup=2, cooldown=1), [1 / 3, 2 / 3, 1, 1]),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True])
def test_schedules_multiply_the_relative_step(name: str, tensor: bool) -> None:
    make, factors = SCHEDULERS[name]
    lr = {"lr": torch.tensor(1.0, dtype=torch.float64), "relative_step": True} if tensor else {}
    optimizer = Adafactor([parameter()], **PLAIN, **lr)
    scheduler = make(optimizer)
    assert moved(optimizer, scheduler, 4) == pytest.approx([0.01 * factor for factor in factors], rel=1e-6)


def test_a_schedule_does_not_change_the_absolute_lr() -> None:
    optimizer = Adafactor([parameter()], lr=0.3, **PLAIN)
    assert moved(optimizer, Linear(optimizer, total=4), 4) == pytest.approx([0.3, 0.225, 0.15, 0.075])


def test_an_lr_of_none_in_a_run_is_the_relative_step() -> None:
    optimizer = Adafactor([parameter()], lr=0.3, **PLAIN)
    optimizer.param_groups[0]["lr"] = None
    assert moved(optimizer, None, 1) == [0.01]
    with pytest.raises(ValueError, match=r"group 0 has no lr to schedule, there is None: .* relative_step=False"):
        Linear(optimizer, total=4)


# Checkpoints: what older versions and torch.optim wrote


OLD: list[tuple[Mapping[str, Any], tuple[float, bool]]] = [
    ({"lr": None, "relative_step": None}, (1.0, True)),
    ({"lr": None, "relative_step": True}, (1.0, True)),
    ({"lr": 0.3, "relative_step": None}, (0.3, False)),
    ({"lr": 0.3, "relative_step": False}, (0.3, False)),
]


@pytest.mark.parametrize(("said", "expected"), OLD)
@pytest.mark.parametrize("ours", [{}, {"lr": 0.7}])
@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, Lookahead])
def test_checkpoints_of_older_versions(
    said: Mapping[str, Any], expected: tuple[float, bool], ours: Mapping[str, Any], wrap: Any
) -> None:
    optimizer = wrap(Adafactor([parameter()], **PLAIN))
    moved(optimizer, None, 2)
    checkpoint = copy.deepcopy(optimizer.state_dict())
    checkpoint["param_groups"][0].update(said)
    other = wrap(Adafactor([parameter()], **{**PLAIN, **ours}))
    other.load_state_dict(checkpoint)
    group = other.param_groups[0]
    assert (group["lr"], group["relative_step"]) == expected
    assert moved(other, None, 1) == pytest.approx([0.3 if said["lr"] else 0.01])


def test_pickles_of_older_versions() -> None:
    optimizer = Adafactor([parameter()], **PLAIN)
    optimizer.param_groups[0].update(lr=None, relative_step=None)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (other.param_groups[0]["lr"], other.param_groups[0]["relative_step"]) == (1.0, True)
        assert moved(other, Linear(other, total=2), 2) == pytest.approx([0.01, 0.005])


@pytest.mark.parametrize("eps", [{}, {"eps": (1e-30, 1e-3)}], ids=["default", "paper"])
def test_checkpoints_of_torch_have_an_absolute_lr(eps: Mapping[str, Any]) -> None:
    theirs = torch.optim.Adafactor([nn.Parameter(torch.zeros(3))], lr=0.2, **eps)
    moved(theirs, None, 2)
    for ours in ({}, {"lr": 0.7}):
        optimizer = Adafactor([nn.Parameter(torch.zeros(3))], **ours)
        optimizer.load_state_dict(theirs.state_dict())
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["relative_step"]) == (0.2, False)
        assert optimizer.param_groups[0]["eps"] == (1e-30, 1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("said", [said for said, _ in OLD])
def test_flattened_distributed_checkpoints(said: Mapping[str, Any], tmp_path: Path) -> None:
    """As torch.distributed.checkpoint writes them: one entry for each parameter and option, None too."""
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    ends = []
    for model, options in zip(models, (said, {}), strict=True):
        optimizer = Adafactor(model.parameters(), lr=said["lr"]) if options else Adafactor(model.parameters())
        optimizer.init_state()
        entries = get_optimizer_state_dict(model, optimizer, options=FLAT)
        if options:
            for name in [name for name in entries if name.endswith((".lr", ".relative_step"))]:
                entries[name] = said[name.rpartition(".")[2]]
            dcp.save(entries, checkpoint_id=tmp_path)
        else:
            dcp.load(entries, checkpoint_id=tmp_path)
            set_optimizer_state_dict(model, optimizer, entries, options=FLAT)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        ends.append(model.weight.detach())
    assert torch.equal(*ends)


def test_copies_and_own_checkpoints_go_on_bit_for_bit() -> None:
    make = partial(Adafactor, lr=0.5, relative_step=True)
    one, two = make([parameter()]), make([parameter()])
    moved(one, None, 3)
    two.load_state_dict(one.state_dict())
    two.param_groups[0]["params"][0].data.copy_(one.param_groups[0]["params"][0])
    assert moved(one, None, 3) == moved(two, None, 3)
