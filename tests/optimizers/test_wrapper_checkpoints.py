"""Wrapped runs go on from their checkpoints bit for bit; checkpoints of the base alone load too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from optzoo.optimizers import AdamW
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.lookahead import Lookahead
from support.checkpoints import differences, parameters, saved, walk
from support.processes import SAVED_AFTER, in_new_process
from support.wrapped import SGD, WRAPPED, resume_wrapped

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
each = pytest.mark.parametrize("name", WRAPPED)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)


def halfway(make: Callable[[Any], Any], dtype: torch.dtype = torch.float64) -> tuple[Any, list[nn.Parameter]]:
    """A run after five steps, two after a sync of every third."""
    params = parameters(dtype)
    optimizer = make(params)
    walk(optimizer, params, last=SAVED_AFTER)
    return optimizer, params


@dtypes
@each
def test_a_fresh_wrapper_goes_on_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    """From a file, in the middle between two syncs, with the options of the checkpoint instead of its own."""
    optimizer, params = halfway(WRAPPED[name], dtype)
    twins = parameters(like=params)
    other = {"k": 9, "alpha": 0.1} if name.startswith("Look") else {"cautious_floor": 0.5, "cautious_scale": "xi"}
    twin = WRAPPED[name].func(twins, **{**WRAPPED[name].keywords, **other})
    twin.load_state_dict(saved(optimizer.state_dict()))
    assert differences(twin.state_dict(), optimizer.state_dict()) == []
    assert differences(walk(twin, twins, SAVED_AFTER), walk(optimizer, params, SAVED_AFTER)) == []
    assert differences(twin.state_dict(), optimizer.state_dict()) == []


@pytest.mark.slow
def test_a_new_process_goes_on_bit_for_bit(tmp_path: Any) -> None:
    """kozistr keys slow weights by Tensor, which no other process has; the authors' class does not save them."""
    halves, ends = {}, {}
    for name in WRAPPED:
        optimizer, params = halfway(WRAPPED[name], torch.float32)
        halves[name] = copy.deepcopy({"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()})
        ends[name] = {"params": walk(optimizer, params, SAVED_AFTER), "optimizer": optimizer.state_dict()}
    torch.save(halves, tmp_path / "halfway.pt")
    in_new_process(resume_wrapped, tmp_path / "halfway.pt", tmp_path / "end.pt")
    assert differences(torch.load(tmp_path / "end.pt", weights_only=True), ends) == []


@dtypes
def test_slow_weights_of_low_precision_stay_float32(dtype: torch.dtype) -> None:
    for name in ("Lookahead(AdamW), pullback", "Lookahead(SGD), pullback"):
        optimizer, _ = halfway(WRAPPED[name], dtype)
        twin = WRAPPED[name](parameters(dtype))
        twin.load_state_dict(saved(optimizer.state_dict()))
        slow = {t.dtype for state in twin.state.values() for key, t in state.items() if key.startswith("lookahead")}
        assert slow == {torch.float32 if dtype == torch.bfloat16 else dtype}


# Of the base, and to it


@pytest.mark.parametrize("base", [AdamW, torch.optim.AdamW, SGD], ids=["AdamW", "torch AdamW", "SGD"])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_lookahead_begins_at_a_checkpoint_of_the_base_alone(base: Any, used: bool) -> None:
    """Its slow weights are then where the parameters are, and the next sync is k steps away."""
    optimizer, params = halfway(base)
    twins, thirds = parameters(like=params), parameters(like=params)
    twin, third = Lookahead(twins, base, k=3), Lookahead(thirds, base, k=3)
    if used:
        walk(twin, twins, last=2)
        for p, q in zip(twins, params, strict=True):
            p.data.copy_(q)
    twin.load_state_dict(saved(optimizer.state_dict()))
    third.base_optimizer.load_state_dict(saved(twin.base_optimizer.state_dict()))
    assert twin.param_groups[0]["lookahead_step"] == 0
    assert not any("lookahead_slow" in state for state in twin.state.values())
    start = [p.detach().clone() for p in twins]
    walk(twin, twins, 5, 7)
    walk(optimizer, params, 5, 7)
    exactly(twins, params)
    walk(twin, twins, 7, 8)
    walk(optimizer, params, 7, 8)
    exactly([p.detach() for p in twins], [torch.lerp(a, b.detach(), 0.5) for a, b in zip(start, params, strict=True)])


@pytest.mark.parametrize("base", [AdamW, torch.optim.AdamW], ids=["AdamW", "torch AdamW"])
def test_the_base_alone_goes_on_from_a_checkpoint_of_the_wrapper(base: Any) -> None:
    """And Lookahead around it later finds its own part there."""
    optimizer, params = halfway(partial(Lookahead, base=base, k=3))
    twins = parameters(like=params)
    twin = base(twins)
    twin.load_state_dict(saved(optimizer.state_dict()))
    walk(optimizer.base_optimizer, params, 5, 6)
    walk(twin, twins, 5, 6)
    exactly(twins, params)


def test_another_base_makes_its_own_state() -> None:
    """Around SGD without momentum there is no state but the slow weights, which stay."""
    optimizer, params = halfway(WRAPPED["Lookahead(SGD), stateless"])
    twins = parameters(like=params)
    twin = Lookahead(twins)
    twin.load_state_dict(saved(optimizer.state_dict()))
    walk(twin, twins, SAVED_AFTER, SAVED_AFTER + 1)
    assert {tuple(sorted(state)) for state in twin.state.values()} == {
        ("exp_avg", "exp_avg_sq", "lookahead_slow", "step")
    }
    assert twin.param_groups[0]["lookahead_step"] == 0


@pytest.mark.parametrize("base", [AdamW, torch.optim.AdamW], ids=["AdamW", "torch AdamW"])
def test_cautious_stays_as_constructed(base: Any) -> None:
    """As CAdamW: a checkpoint of AdamW does not switch it off; its other options win."""
    _, params = halfway(base)
    first, second = params[:3], params[3:]
    twin = Cautious([{"params": first}, {"params": second, "cautious": False}], base, cautious_floor=0.5)
    checkpoint = base([{"params": first}, {"params": second}], lr=0.02)
    twin.load_state_dict(saved(checkpoint.state_dict()))
    assert [(group["cautious"], group["lr"]) for group in twin.param_groups] == [(True, 0.02), (False, 0.02)]
    again = Cautious([{"params": first}, {"params": second}], base, cautious_scale="xi")
    again.load_state_dict(saved(twin.state_dict()))
    options = [(g["cautious"], g["cautious_scale"], g["cautious_floor"]) for g in again.param_groups]
    floor = 1e-3 if base is AdamW else 0.5
    assert options == [(True, "floor", floor), (True, "floor", floor)]


def test_a_checkpoint_of_an_earlier_version_lacks_options() -> None:
    optimizer, params = halfway(WRAPPED["Lookahead(AdamW)"])
    checkpoint = saved(optimizer.state_dict())
    del checkpoint["param_groups"][0]["lookahead_pullback_momentum"]
    twin = Lookahead(params, k=9, pullback_momentum="pullback")
    twin.load_state_dict(checkpoint)
    group = twin.param_groups[0]
    assert (group["lookahead_k"], group["lookahead_step"], group["lookahead_pullback_momentum"]) == (3, 2, "pullback")
    walk(twin, params, SAVED_AFTER)
    assert all("lookahead_slow_exp_avg" in state for state in twin.state.values())


# Checkpoints that do not fit

UNFIT: Mapping[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "k": (lambda c: c["param_groups"][0].update(lookahead_k=0), "Lookahead: lookahead_k must be .* got 0"),
    "alpha": (lambda c: c["param_groups"][0].update(lookahead_alpha=2.0), "lookahead_alpha must be .* got 2.0"),
    "step": (lambda c: c["param_groups"][0].update(lookahead_step=-1), "lookahead_step must be an integer >= 0"),
    "shape": (
        lambda c: c["state"][3].update(lookahead_slow=torch.zeros(4, 3)),
        r"'lookahead_slow' of parameter 3 of its group \(shape \(3, 4\)\) has shape \(4, 3\) in the checkpoint",
    ),
    "no tensor": (
        lambda c: c["state"][3].update(lookahead_slow="gone"),
        "has shape none, being 'gone', in the checkpoint",
    ),
    "groups": (lambda c: c["param_groups"].append({"params": []}), r"have \[6, 0\] parameters, .*Lookahead \[6\]"),
    "parameters": (lambda c: c["param_groups"][0]["params"].pop(), r"have \[5\] parameters"),
    "model": (lambda c: nn.Linear(2, 2).state_dict(), "Lookahead.load_state_dict takes what state_dict"),
    "base": (lambda c: c["state"][2].pop("exp_avg"), "exp_avg"),
    "base's count": (lambda c: [state.pop("step") for state in c["state"].values()], "step"),
}


@pytest.mark.parametrize("base", [AdamW, torch.optim.AdamW], ids=["AdamW", "torch AdamW"])
@pytest.mark.parametrize(("change", "message"), UNFIT.values(), ids=UNFIT)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    change: Callable[[dict[str, Any]], Any], message: str, base: Any
) -> None:
    if message == "exp_avg" and base is torch.optim.AdamW:
        return  # torch does not look whether moments are there
    optimizer, _ = halfway(partial(Lookahead, base=base, k=3))
    checkpoint = saved(optimizer.state_dict())
    changed = change(checkpoint)
    before, states, groups = copy.deepcopy(optimizer.state_dict()), optimizer.state, optimizer.param_groups
    with pytest.raises(KeyError if message == "step" and base is torch.optim.AdamW else ValueError, match=message):
        optimizer.load_state_dict(changed if message.startswith("Lookahead.load") else checkpoint)
    assert differences(optimizer.state_dict(), before) == []
    assert optimizer.state is states
    assert optimizer.param_groups is groups


def test_hooks_of_wrapper_and_base_run_around_saving_and_loading() -> None:
    optimizer, _ = halfway(WRAPPED["Lookahead(torch AdamW)"])
    calls: list[str] = []
    for o in (optimizer, optimizer.base_optimizer):
        name = type(o).__name__
        o.register_state_dict_pre_hook(lambda _, name=name: calls.append(f"saving {name}"))
        o.register_state_dict_post_hook(lambda _, state, name=name: calls.append(f"saved {name}"))
        o.register_load_state_dict_pre_hook(lambda _, state, name=name: calls.append(f"loading {name}"))
        o.register_load_state_dict_post_hook(lambda _, name=name: calls.append(f"loaded {name}"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: state["inside"])
    checkpoint = optimizer.state_dict()
    assert checkpoint["extra"] == 1
    optimizer.load_state_dict({"inside": checkpoint})
    saving = ["saving Lookahead", "saving AdamW", "saved AdamW", "saved Lookahead"]
    assert calls == [*saving, "loading Lookahead", "loading AdamW", "loaded AdamW", "loaded Lookahead"]
    assert differences(optimizer.state_dict(), checkpoint) == []
