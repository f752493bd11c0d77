"""The checkpoint of another optimizer makes none of this one: it says what it takes, what it keeps, and what to do."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from optzoo.optimizers import (
    PSGD,
    Adafactor,
    Adam,
    AdamW,
    AdEMAMix,
    AMSGrad,
    CAdamW,
    Cautious,
    CLion,
    DoG,
    Grams,
    LDoG,
    Lion,
    Lookahead,
    adopt,
    adopt_on_load,
    create_optimizer,
    list_optimizers,
)
from support.checkpoints import differences, parameters, saved, torch_run, walk
from support.features import needs_option

pytestmark = pytest.mark.filterwarnings("ignore:AdEMAMix. beta3_warmup")

SOURCES: Mapping[str, Any] = {
    **{name: partial(create_optimizer, name) for name in list_optimizers()},
    "torch Adam": torch.optim.Adam,
    "torch AdamW": torch.optim.AdamW,
    "torch NAdam": torch.optim.NAdam,
    "torch RAdam": torch.optim.RAdam,
    "torch Adamax": torch.optim.Adamax,
    "torch SGD": partial(torch.optim.SGD, momentum=0.9),
    "torch RMSprop": torch.optim.RMSprop,
}
ADAMWS = ("adamw", "lookahead", "sam")  # itself, or around it
SAME = {
    *((target, source) for target in ADAMWS for source in (*ADAMWS, "torch AdamW")),
    *(("cautious", source) for source in (*ADAMWS, "torch AdamW")),  # what it is around
    ("cadamw", "cautious"),
    *(("adam", source) for source in ("torch Adam", "torch AdamW")),  # which say no more of themselves
}
"""Targets and sources that are one optimizer, or that no file tells apart."""
IDENTITY = ("cautious", "grams", "scope")


def file_of(name: str, **options: Any) -> dict[str, Any]:
    params = parameters()
    optimizer = SOURCES[name](params, **options)
    walk(optimizer, params, last=5)
    return saved(optimizer.state_dict())  # type: ignore[no-any-return]


def heard(optimizer: Any, state_dict: dict[str, Any]) -> list[str]:
    """The warnings of a load."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.load_state_dict(state_dict)
    return [str(warning.message) for warning in caught]


FILES: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("target", list_optimizers())
def test_every_file_loads_with_one_warning_or_is_refused_with_the_way_out(target: str, source: str) -> None:
    if source == "torch Adam":  # without it nothing in a file tells it from AdamW
        needs_option(torch.optim.Adam, "decoupled_weight_decay")
    file = FILES.setdefault(source, file_of(source))
    optimizer = SOURCES[target](parameters())
    before = copy.deepcopy(optimizer.state_dict())
    refusal = None
    try:
        messages = heard(optimizer, file)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert target != source
        assert "adopt(" in refusal
        assert differences(optimizer.state_dict(), before) == []
        return
    assert len(messages) == (target != source and (target, source) not in SAME)
    assert all("adopt(" in message for message in messages)
    for was, group in zip(before["param_groups"], optimizer.param_groups, strict=True):
        assert {key: group.get(key) for key in IDENTITY} == {key: was.get(key) for key in IDENTITY}
    assert heard(SOURCES[target](parameters()), saved(optimizer.state_dict())) == []  # it is this one's from now on


OTHERS: Mapping[str, tuple[Any, str, dict[str, Any], dict[str, Any], str]] = {
    "cautious": (
        AdamW,
        "cadamw",
        {"lr": 0.02},
        {"cautious": False, "lr": 0.02},
        r"loads the checkpoint of CAdamW, which says cautious=True; kept: cautious=False; taken from it: lr=0.02\.",
    ),
    "Grams": (AdamW, "grams", {}, {"grams": False, "eps": 1e-6}, "of Grams, which says grams=True; kept: grams=False;"),
    "to Grams": (Grams, "adamw", {}, {"grams": True}, "of AdamW, which says grams=False; kept: grams=True;"),
    "AMSGrad": (Adam, "amsgrad", {"variant": "paper"}, {"amsgrad": False}, "amsgrad='paper'; kept: amsgrad=False"),
    "Adam": (Adam, "adamw", {}, {"decoupled_weight_decay": False}, "kept: decoupled_weight_decay=False"),
    "L-DoG": (DoG, "ldog", {}, {"scope": "all"}, "scope='param'; kept: scope='all'"),
    "DoG": (LDoG, "dog", {}, {"scope": "param"}, "scope='all'; kept: scope='param'"),
    "Lion": (
        Lion,
        "adamw",
        {},
        {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0},
        r"Lion loads the checkpoint of AdamW, which says lr=0.001, betas=\(0.9, 0.999\), weight_decay=0.01; kept: "
        r"lr=0.0001, betas=\(0.9, 0.99\), weight_decay=0.0\. optzoo.optimizers.adopt",
    ),
    "torch": (Lion, "torch AdamW", {}, {"lr": 1e-4, "betas": (0.9, 0.99)}, "of another optimizer, which says lr=0.001"),
    "C-Lion": (CLion, "lion", {"lr": 0.02}, {"cautious": True, "lr": 0.02}, "cautious=False; kept: cautious=True;"),
    "wrapped": (AdamW, "cautious", {}, {"cautious": False}, "of another optimizer, which says cautious=True"),
}


@pytest.mark.parametrize(("make", "source", "options", "holds", "message"), OTHERS.values(), ids=OTHERS)
def test_what_a_class_is_does_not_change(
    make: Any, source: str, options: dict[str, Any], holds: dict[str, Any], message: str
) -> None:
    optimizer = make(parameters())
    with pytest.warns(UserWarning, match=message):
        optimizer.load_state_dict(file_of(source, **options))
    assert {key: optimizer.param_groups[0][key] for key in holds} == holds


@pytest.mark.parametrize("name", list_optimizers())
def test_the_same_optimizer_takes_every_option_in_silence(name: str) -> None:
    options = {"cautious": True, "lr": 0.5, "maximize": True}
    optimizer = SOURCES[name](parameters())
    fixed = {"cautious"} if optimizer.param_groups[0]["cautious"] else set()  # it is what it is
    assert heard(optimizer, file_of(name, **options)) == []
    assert {key: optimizer.param_groups[0][key] for key in options.keys() - fixed} == {
        key: options[key] for key in options.keys() - fixed
    }


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize(("source", "target"), [(CAdamW, AdamW), (Grams, AdamW), (AdamW, Lion), (AdamW, AdEMAMix)])
def test_distributed_checkpoints_do_not_say_whose_they_are(source: Any, target: Any, flat: bool) -> None:
    """Options and moments do; those of the same optimizer load in silence."""
    if flat and target is not AdamW:
        return  # torch asks a flat file for the options of the target
    model = nn.Linear(3, 2)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def made(make: Any) -> Any:
        optimizer = make(model.parameters())
        optimizer.init_state()
        return optimizer

    state = get_optimizer_state_dict(model, made(source), options=options)
    for make, count in ((source, 0), (target, 1)):
        optimizer = made(make)
        before = {key: optimizer.param_groups[0].get(key) for key in (*IDENTITY, "alpha")}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            set_optimizer_state_dict(model, optimizer, copy.deepcopy(state), options=options)
        found = [str(warning.message) for warning in caught if "adopt(" in str(warning.message)]
        assert len(found) == count
        assert {key: optimizer.param_groups[0].get(key) for key in before} == before


def test_options_of_the_other_do_not_stay_as_keys_of_the_groups() -> None:
    optimizer = AdEMAMix(parameters())
    with pytest.warns(UserWarning, match="AdEMAMix loads"):
        optimizer.load_state_dict({**file_of("adamw")})
    assert "amsgrad" not in optimizer.param_groups[0]
    scheduled = file_of("adamw")
    scheduled["param_groups"][0]["initial_lr"] = 0.7
    with pytest.warns(UserWarning, match="AdEMAMix loads"):
        optimizer.load_state_dict(scheduled)
    assert optimizer.param_groups[0]["initial_lr"] == 0.7


def test_moments_of_the_other_do_not_stay_in_the_state() -> None:
    file = file_of("adamw")
    file["state"][0]["ema"] = torch.ones(2)
    params = parameters()
    optimizer = Lion(params)
    with pytest.warns(UserWarning, match="Lion loads"):
        optimizer.load_state_dict(file)
    assert optimizer.state[params[0]].keys() == {"step", "exp_avg", "ema"}


def test_an_option_that_has_no_tuple() -> None:
    """PSGD's clip may be None in the file and two numbers here."""
    params = parameters()
    optimizer = PSGD(params, clip=None)
    optimizer.init_state()
    loaded = PSGD(params)
    loaded.load_state_dict(saved(optimizer.state_dict()))
    assert loaded.param_groups[0]["clip"] is None


def test_adafactor_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"Adafactor needs 'variance' .* checkpoint of AdamW has .*adopt\("):
        Adafactor(parameters()).load_state_dict(file_of("adamw"))


def test_an_option_out_of_range_names_the_way_out() -> None:
    file = file_of("adamw")
    file["param_groups"][0]["lr"] = -1.0
    optimizer = AdamW(parameters(), lr=0.5)
    with pytest.raises(ValueError, match=r"lr must be .* got -1.0, from the checkpoint; adopt\("):
        optimizer.load_state_dict(file)
    adopt(optimizer, file)
    assert optimizer.param_groups[0]["lr"] == 0.5


# adopt, for wrappers and for frameworks that load by themselves


@pytest.mark.parametrize("base", [AdEMAMix, torch.optim.AdamW], ids=["ours", "torch"])
def test_adopt_goes_through_wrappers(base: Any) -> None:
    before, halfway = torch_run()
    params = parameters(like=halfway)
    optimizer = Lookahead(params, base, lr=0.3, k=7)
    adopt(optimizer, before)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["lookahead_k"], group["lookahead_step"]) == (0.3, 7, 0)
    for p, q in zip(params, before.param_groups[0]["params"], strict=True):
        assert torch.equal(optimizer.state[p]["exp_avg"], before.state[q]["exp_avg"])
        assert optimizer.state[p]["exp_avg"] is not before.state[q]["exp_avg"]
    walk(optimizer, params, 5)


def test_adopt_is_for_optimizers_of_this_library() -> None:
    optimizer = torch.optim.AdamW(parameters())
    for take in (partial(adopt, source=optimizer), adopt_on_load):
        with pytest.raises(TypeError, match="must be one of optzoo's, got AdamW"):
            take(optimizer)


def test_adopt_keeps_to_it_where_a_hook_makes_the_state_anew() -> None:
    optimizer = AdamW(parameters(), lr=0.5)
    optimizer.register_load_state_dict_pre_hook(lambda _, d: {key: d[key] for key in ("state", "param_groups")})
    adopt(optimizer, file_of("cadamw"))
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("source", ["adamw", "torch AdamW"])
def test_adopting_on_load_resumes_what_is_its_own(source: str, wrapped: bool) -> None:
    def make() -> tuple[Any, list[nn.Parameter]]:
        params = parameters()
        made = AdEMAMix(params, lr=0.3)
        optimizer = Lookahead(made) if wrapped else made
        adopt_on_load(optimizer)
        return optimizer, params

    optimizer, params = make()
    assert heard(optimizer, file_of(source)) == []
    group = optimizer.param_groups[0]
    assert (group["lr"], group["schedule_start"], len(optimizer.state)) == (0.3, 5, len(params))
    group["lr"] = 0.2
    walk(optimizer, params, 5, 7)
    again, twins = make()
    with torch.no_grad():
        torch._foreach_copy_(twins, params)
    assert heard(again, saved(optimizer.state_dict())) == []
    assert (again.param_groups[0]["lr"], again.param_groups[0]["schedule_start"]) == (0.2, 5)
    assert differences(walk(again, twins, 7), walk(optimizer, params, 7)) == []


def test_amsgrad_and_cautious_around_keep_their_variants() -> None:
    loaded = AMSGrad(parameters())
    assert heard(loaded, file_of("amsgrad", variant="paper")) == []
    assert loaded.param_groups[0]["amsgrad"] == "paper"
    around = Cautious(Adam(parameters()))
    assert heard(around, saved(Cautious(Adam(parameters(), amsgrad=True)).state_dict())) == []
    assert (around.param_groups[0]["amsgrad"], around.param_groups[0]["cautious"]) == (True, True)
