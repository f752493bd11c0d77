"""How parameters and groups come to an optimizer: names, tensors as options, and parameters that cannot be written."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import Adam, AdamW, Cautious, Lion, Lookahead, create_optimizer, list_optimizers, optimizer_info
from optzoo.optimizers.core.closures import step_on_gradients
from optzoo.schedulers import Linear, Schedule
from support.checkpoints import saved

TORCH = partial(torch.optim.AdamW, weight_decay=0.0)
MAKE: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": AdamW,
    "Lookahead": Lookahead,
    "Lookahead(torch)": partial(Lookahead, base=TORCH),
    "Cautious(torch)": partial(Cautious, base=TORCH),
}


def params(count: int, size: int = 2) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(size)) for _ in range(count)]


def named(prefix: str, tensors: list[nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
    return [(f"{prefix}.{i}", p) for i, p in enumerate(tensors)]


# Names


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_late_parameters_get_names_where_the_others_have_some(make: Any) -> None:
    optimizer = make(named("head", params(2)))
    optimizer.add_param_group({"params": iter(params(2))})
    optimizer.add_param_group({"params": params(1)[0]})
    optimizer.add_param_group({"params": named("tail", params(1))})
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["head.0", "head.1"],
        ["added.1.0", "added.1.1"],
        ["added.2.0"],
        ["tail.0"],
    ]


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_names_of_late_parameters_are_dropped_where_the_others_have_none(make: Any) -> None:
    optimizer = make(params(2))
    late = params(2)
    optimizer.add_param_group({"params": named("late", late[:1])})
    optimizer.add_param_group({"params": late[1:], "param_names": ["late.1"]})
    assert [group["params"][0] is p for group, p in zip(optimizer.param_groups[1:], late, strict=True)] == [True] * 2
    assert not any("param_names" in group for group in optimizer.param_groups)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_checkpoints_of_late_groups_are_checked_by_name(make: Any) -> None:
    def extended(names: str) -> torch.optim.Optimizer:
        optimizer = make(named(names, params(2)))
        optimizer.add_param_group({"params": params(1)})
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer

    checkpoint = saved(extended("head").state_dict())
    extended("head").load_state_dict(checkpoint)
    if make in (AdamW, Lookahead):  # torch's check no names
        with pytest.raises(ValueError, match=r"is 'tail.0' here and 'head.0' in the checkpoint"):
            extended("tail").load_state_dict(checkpoint)


def test_a_group_with_some_names_is_refused_as_in_torch() -> None:
    optimizer = AdamW(named("head", params(1)))
    with pytest.raises(ValueError, match="Some param names are missing"):
        optimizer.add_param_group({"params": [*named("late", params(1)), *params(1)]})
    assert len(optimizer.param_groups) == 1


# What is no parameters


@pytest.mark.parametrize("name", list_optimizers())
def test_a_model_is_not_its_parameters(name: str) -> None:
    factory: Any = optimizer_info(name).optimizer_class
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.ModuleList([nn.Linear(2, 2)])):
        kind = type(model).__name__
        with pytest.raises(TypeError, match=rf"{factory.__name__} takes parameters, got .* {kind}; .*\.parameters\(\)"):
            factory(model)
    optimizer = factory([nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(TypeError, match=r"give its \.parameters\(\)|not iterable"):
        optimizer.add_param_group({"params": nn.Linear(2, 2)})
    assert len(optimizer.param_groups) == 1
    assert len(factory(nn.ParameterList(params(2))).param_groups[0]["params"]) == 2


def test_a_dict_is_not_a_list_of_groups() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="AdamW takes parameters, got a dict with the keys 'params', 'lr'"):
        AdamW({"params": params(1), "lr": 0.1})
    with pytest.raises(TypeError, match=r"'weight', 'bias'; .* its \.items\(\)"):
        AdamW(dict(model.named_parameters()))
    assert AdamW(dict(model.named_parameters()).items()).param_groups[0]["param_names"] == ["weight", "bias"]


# Tensors as options


@pytest.mark.parametrize("name", list_optimizers())
def test_every_group_has_an_lr_tensor_of_its_own(name: str) -> None:
    """From the constructor, shared by groups, added late, copied, loaded; the schedule says what is in the groups."""
    shared = torch.tensor(0.5)
    groups = [{"params": params(1)}, {"params": params(1)}, *({"params": params(1), "lr": shared} for _ in "ab")]
    optimizer = create_optimizer(name, groups, lr=torch.tensor(1.0))
    optimizer.add_param_group({"params": params(1), "lr_scale": 0.1})
    sharing = copy.deepcopy(optimizer.state_dict())
    for group in sharing["param_groups"]:
        group["lr"] = sharing["param_groups"][0]["lr"]
    loaded = copy.deepcopy(optimizer)
    loaded.load_state_dict(sharing)
    for each in (optimizer, copy.deepcopy(optimizer), loaded):
        assert len({id(group["lr"]) for group in each.param_groups}) == 5
    scheduler = Linear(optimizer, total=10, groups={1: Schedule(start=0.25).hold()})
    scheduler.step()
    expected = [0.9, 0.25, 0.45, 0.45, 0.09]
    assert [group["lr"].item() for group in optimizer.param_groups] == pytest.approx(expected)
    assert [values["lr"] for values in scheduler.get_last_values()] == pytest.approx(expected)
    optimizer.add_param_group({"params": params(1)})
    assert optimizer.param_groups[-1]["lr"] == 1  # what the constructor was told, not where the schedule is


def test_the_only_group_keeps_the_tensor_that_it_is_given() -> None:
    """As in torch.optim: who captured a step with it may fill it."""
    lr = torch.tensor(1.0)
    optimizer = AdamW(params(1), lr=lr)
    assert optimizer.param_groups[0]["lr"] is lr
    assert optimizer.defaults["lr"] is not lr


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, Lookahead, Cautious])
def test_schedules_give_torchs_groups_tensors_of_their_own(wrap: Any) -> None:
    groups = [{"params": params(1), "name": "a"}, {"params": params(1), "name": "b", "lr_scale": 0.1}]
    optimizer = wrap(torch.optim.AdamW(groups, lr=torch.tensor(1.0)))
    scheduler = Linear(optimizer, total=10)
    scheduler.step()
    assert [group["lr"].item() for group in optimizer.param_groups] == pytest.approx([0.9, 0.09])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    shared = torch.tensor(0.0)
    for group in optimizer.param_groups:
        group["lr"] = shared
    scheduler.step()
    assert [group["lr"].item() for group in optimizer.param_groups] == pytest.approx([0.8, 0.08])


def test_schedules_of_torchs_betas() -> None:
    """Tensors within a tuple are shared by its groups too."""
    beta = partial(torch.tensor, dtype=torch.float64)
    optimizer = torch.optim.AdamW([{"params": params(1)}, {"params": params(1)}], betas=(beta(0.9), beta(0.5)))
    follow = {"mode": "set", "schedule": Schedule(start=0.75).hold()}
    other = {"mode": "set", "schedule": Schedule(start=0.25).hold()}
    Linear(optimizer, total=10, tracks={"betas[1]": follow}, groups={1: {"betas[1]": other}})
    assert [float(group["betas"][1]) for group in optimizer.param_groups] == [0.75, 0.25]


@pytest.mark.parametrize("make", [Adam, AdamW, Lion], ids=lambda make: make.__name__)
def test_betas_may_be_tensors(make: Any) -> None:
    """Of one element, as torch.optim takes them; read once, so the checkpoint is plain."""
    ends = []
    for betas in ((0.5, 0.75), (torch.tensor(0.5), torch.tensor([0.75]))):
        p = params(1)[0]
        optimizer = make([p], betas=betas)
        optimizer.add_param_group({"params": params(1), "betas": betas})
        for g in (1.0, -2.0, 3.0):
            p.grad = torch.full_like(p, g)
            optimizer.step()
        assert all(group["betas"] == (0.5, 0.75) for group in saved(optimizer.state_dict())["param_groups"])
        ends.append(p.detach())
    assert torch.equal(*ends)
    for wrong in (torch.tensor(1.0), torch.tensor([0.5, 0.5])):
        with pytest.raises(ValueError, match="betas must be 2 numbers"):
            make(params(1), betas=(wrong, torch.tensor(0.5)))


def test_torchs_checkpoint_with_tensors_as_betas() -> None:
    theirs = torch.optim.AdamW(params(1), betas=(torch.tensor(0.5), torch.tensor(0.75)))
    ours = AdamW(params(1))
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["betas"] == (0.5, 0.75)


@pytest.mark.parametrize("name", list_optimizers())
def test_differentiable_is_false(name: str) -> None:
    factory: Any = optimizer_info(name).optimizer_class
    plain, said = factory(params(1)), factory(params(1), differentiable=False)
    assert said.param_groups[0].keys() == plain.param_groups[0].keys()
    assert said.defaults.keys() == plain.defaults.keys()
    with pytest.raises(TypeError, match="'differentiable' must be False, got True: steps are made in place"):
        factory(params(1), differentiable=True)
    with pytest.raises(TypeError, match="'differentiable' must be False"):
        plain.add_param_group({"params": params(1), "differentiable": True})
    assert len(plain.param_groups) == 1


# Parameters that cannot be written to as they are


def lazily_conjugated(z: Tensor) -> nn.Parameter:
    p = nn.Parameter(z.conj())
    assert p.is_conj()
    return p


def lazily_negated(z: Tensor) -> nn.Parameter:
    p = nn.Parameter(z.conj().imag)
    assert p.is_neg()
    return p


@pytest.mark.parametrize("make", [lazily_conjugated, lazily_negated])
@pytest.mark.parametrize("name", list_optimizers())
def test_what_a_bit_puts_off_moves_as_any_other(name: str, make: Callable[[Tensor], nn.Parameter]) -> None:
    z = torch.randn(4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    ends = []
    for p in (make(z), nn.Parameter(make(z).detach().clone().resolve_neg())):
        optimizer = create_optimizer(name, [p])
        for step in range(6):  # past Lookahead's first sync
            g = torch.full_like(z, 1 + 2j * step)
            p.grad = g.conj() if p.is_complex() else g.conj().imag  # a lazy gradient, which is only read
            step_on_gradients(optimizer)
        ends.append(p.detach())
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], make(z))


@pytest.mark.parametrize("name", list_optimizers())
def test_elements_that_share_memory_are_refused(name: str) -> None:
    """torch raises in the middle of a step, or moves them several times."""
    for p in (nn.Parameter(torch.ones(1).expand(3)), nn.Parameter(torch.ones(6).as_strided((4, 3), (1, 1)))):
        with pytest.raises(ValueError, match=r"parameter 0 of its group .* share memory .*expand\(\).*\.clone\(\)"):
            create_optimizer(name, [p])
        create_optimizer(name, [p.requires_grad_(False), *params(1)])  # it is never written
    strided = nn.Parameter(torch.ones(4, 6)[:, ::2])
    create_optimizer(name, [strided])


def test_a_misspelt_option_of_a_group_is_named() -> None:
    """torch.optim keeps keys that it does not know, and so do schedules: it is a warning."""
    p = torch.nn.Parameter(torch.ones(1))
    with pytest.warns(UserWarning, match=r"AdamW: a group has 'weight_deccay', .* did you mean 'weight_decay'\?"):
        AdamW([{"params": [p], "weight_deccay": 0.5}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdamW([{"params": [p], "name": "all", "lr_scale": 0.5, "initial_lr": 1.0, "max_lr": 1.0, "weight_decay": 0.5}])
