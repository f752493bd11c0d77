"""What every wrapper is towards torch and its base: construction, errors, hooks, closures, groups and copies."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from optzoo.optimizers import AdamW, CAdamW, Lion
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.core.wrapper import OptimizerWrapper
from optzoo.optimizers.lookahead import Lookahead
from support.checkpoints import differences, parameters, walk
from support.processes import SAVED_AFTER
from support.wrapped import WRAPPED

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
wrappers = pytest.mark.parametrize("wrapper", [Lookahead, Cautious])
each = pytest.mark.parametrize("name", WRAPPED)


def parameter() -> nn.Parameter:
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([3.0, 4.0])
    return p


# Construction

FORMS: Mapping[str, Callable[[Any, Any, list[nn.Parameter]], torch.optim.Optimizer]] = {
    "class and options": lambda wrapper, base, params: wrapper(params, base, lr=0.05, weight_decay=0.1),
    "partial": lambda wrapper, base, params: wrapper(params, partial(base, lr=0.05, weight_decay=0.1)),
    "function": lambda wrapper, base, params: wrapper(params, lambda given: base(given, lr=0.05, weight_decay=0.1)),
    "instance": lambda wrapper, base, params: wrapper(base(params, lr=0.05, weight_decay=0.1)),
    "iterator": lambda wrapper, base, params: wrapper(iter(params), base, lr=0.05, weight_decay=0.1),
    "pairs": lambda wrapper, base, params: wrapper(zip("abcdef", params, strict=True), base, lr=0.05, weight_decay=0.1),
    "groups": lambda wrapper, base, params: wrapper(
        [{"params": params[:2]}, {"params": []}, {"params": params[2:], "lr": 0.05}], base, lr=0.05, weight_decay=0.1
    ),
}


@pytest.mark.parametrize("form", list(FORMS.values())[1:], ids=list(FORMS)[1:])
@pytest.mark.parametrize("base", [AdamW, torch.optim.AdamW])
@wrappers
def test_every_way_to_make_one_gives_the_same_run(wrapper: Any, base: Any, form: Callable[..., Any]) -> None:
    ends = []
    for make in (FORMS["class and options"], form):
        params = parameters()
        ends.append(walk(make(wrapper, base, params), params))
    assert differences(*ends) == []


def test_the_base_is_adamw_unless_another_is_given() -> None:
    assert type(Lookahead([parameter()]).base_optimizer) is AdamW
    assert type(Cautious([parameter()]).base_optimizer) is AdamW
    wrapped, plain = parameters(), parameters()
    assert differences(walk(Cautious(wrapped, lr=0.01), wrapped), walk(CAdamW(plain, lr=0.01), plain)) == []


def test_the_first_argument_is_called_params() -> None:
    """LightningCLI leaves the argument of that name, and of no other, to itself."""
    for wrapper in (Lookahead, Cautious):
        assert list(inspect.signature(wrapper).parameters)[:2] == ["params", "base"]


# One optimizer towards torch


@each
def test_groups_state_and_defaults_are_those_of_the_base(name: str) -> None:
    params = parameters()
    optimizer: Any = WRAPPED[name](params)
    walk(optimizer, params, last=3)
    for _ in range(2):
        base = optimizer.base_optimizer
        assert optimizer.param_groups is base.param_groups
        assert optimizer.state is base.state
        assert optimizer.defaults is base.defaults
        optimizer.load_state_dict(optimizer.state_dict())
    assert not hasattr(optimizer, "_step_supports_amp_scaling")
    assert vars(optimizer).keys().isdisjoint({"optimizer", "_optimizer", "_strategy"})
    assert repr(base) in repr(optimizer)
    assert "differentiable" not in optimizer.defaults or name.count("torch") or name.count("SGD")


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_step_hooks_fire_once_whichever_class_is_made_first(order: tuple[int, ...]) -> None:
    class Look(Lookahead): ...

    class Caution(Cautious): ...

    class Base(torch.optim.SGD): ...

    makes: list[Callable[[Any], Any]] = [
        Base,
        partial(Look, base=Base),
        partial(Caution, base=Base),
        partial(Look, base=partial(Caution, base=Base)),
    ]
    calls: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda o, *_: calls.append(f"global pre {type(o).__name__}")),
        register_optimizer_step_post_hook(lambda o, *_: calls.append(f"global post {type(o).__name__}")),
    ]
    try:
        for i in (*order, *order):
            optimizer = outermost = makes[i]([parameter()])
            names = []
            while True:
                name = type(optimizer).__name__
                names.append(name)
                optimizer.register_step_pre_hook(lambda o, *_: calls.append(f"pre {type(o).__name__}"))
                optimizer.register_step_post_hook(lambda o, *_: calls.append(f"post {type(o).__name__}"))
                if not isinstance(optimizer, OptimizerWrapper):
                    break
                optimizer = optimizer.base_optimizer
            calls.clear()
            outermost.step()
            pre, post = [f"pre {name}" for name in names], [f"post {name}" for name in reversed(names)]
            assert calls == [f"global pre {names[0]}", *pre, *post, f"global post {names[0]}"]
    finally:
        for handle in handles:
            handle.remove()


def test_a_pre_hook_may_replace_the_closure() -> None:
    optimizer = Lookahead([parameter()], torch.optim.SGD)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: (args, {"closure": lambda: kwargs["closure"]() + 1}))
    assert optimizer.step(lambda: 1) == 2
    assert optimizer.step(closure=lambda: 2) == 3


@each
def test_closure_runs_once_with_gradients_and_its_value_is_returned(name: str) -> None:
    params, twins, modes = parameters(), parameters(), []
    optimizer, plain = WRAPPED[name](params), WRAPPED[name](twins)

    def loss(ps: list[nn.Parameter]) -> Tensor:
        return sum((p**2).sum() for p in ps)

    def closure() -> Tensor:
        modes.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        value = loss(params)
        value.backward()
        return value

    for step in range(4):
        expected = loss(twins)
        plain.zero_grad()
        expected.backward()
        plain.step()
        with torch.no_grad():
            value = optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)
        assert value == expected
        assert value.requires_grad
    assert modes == [True] * 4
    exactly(params, twins)
    assert plain.step() is None


def test_train_and_eval_reach_a_base_that_has_them() -> None:
    modes: list[str] = []

    class ScheduleFree(torch.optim.SGD):
        def train(self) -> None:
            modes.append("train")

        def eval(self) -> None:
            modes.append("eval")

    optimizer = Lookahead([parameter()], partial(Cautious, base=ScheduleFree))
    optimizer.train()
    optimizer.eval()
    assert modes == ["train", "eval"]
    plain = Lookahead([parameter()], torch.optim.SGD)
    plain.train()
    plain.eval()


@pytest.mark.parametrize("mode", ["none", "pullback"])
def test_init_state_makes_what_a_step_would(mode: str) -> None:
    made, stepped = (Lookahead(parameters(), Lion, pullback_momentum=mode) for _ in range(2))
    made.init_state()
    walk(stepped, stepped.param_groups[0]["params"], last=1)
    layout = [
        [{key: (t.shape, t.dtype) for key, t in state.items()} for state in optimizer.state.values()]
        for optimizer in (made, stepped)
    ]
    assert layout[0] == layout[1]
    assert made.param_groups[0]["lookahead_step"] == 0
    for p in made.param_groups[0]["params"]:
        exactly(made.state[p]["lookahead_slow"], p.detach())
    with pytest.raises(TypeError, match=r"Cautious: SGD has no init_state\(\)"):
        Lookahead([parameter()], partial(Cautious, base=torch.optim.SGD)).init_state()


class Hesitant(torch.optim.Adam):
    """It makes its state where it finds none, as torch's do, but sits out its first two steps."""

    calls = 0

    def step(self, closure: Any = None) -> None:
        assert all("lookahead_slow" not in state or len(state) > 1 for state in self.state.values())
        self.calls += 1
        if self.calls > 2:
            super().step()


def test_the_base_never_finds_state_of_the_wrapper_only() -> None:
    params, plain = parameters(), parameters()
    walk(Lookahead(params, Hesitant, k=20), params, last=SAVED_AFTER)
    walk(Hesitant(plain), plain, last=SAVED_AFTER)
    exactly(params, plain)


def test_a_step_that_fails_leaves_the_state_in_place() -> None:
    p = parameter()
    optimizer = Lookahead([p], torch.optim.SGD, lr=1.0)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert differences(optimizer.state_dict(), before) == []


# Copies


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
@each
def test_copies_of_a_running_optimizer_go_on_bit_for_bit(name: str, duplicate: Callable[[Any], Any]) -> None:
    params = parameters(torch.bfloat16)
    optimizer = WRAPPED[name](params)
    walk(optimizer, params, last=SAVED_AFTER)
    twin = duplicate(optimizer)
    twin_params = [p for group in twin.param_groups for p in group["params"]]
    assert differences(walk(twin, twin_params, SAVED_AFTER), walk(optimizer, params, SAVED_AFTER)) == []
    assert differences(twin.state_dict(), optimizer.state_dict()) == []
    assert twin.defaults == optimizer.defaults
    twin.register_step_post_hook(lambda *_: None)
    twin.add_param_group({"params": [parameter()]})


class Renamed(Lookahead):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return super().step(closure)


class RenamedTwice(Renamed):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return super().step(closure)


class OnItsOwn(Lookahead):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return self.base_optimizer.step(closure)


@pytest.mark.parametrize("wrapper", [Lookahead, Renamed, RenamedTwice, OnItsOwn])
@pytest.mark.parametrize("base", [torch.optim.SGD, AdamW, partial(Cautious, base=torch.optim.SGD)])
def test_hooks_fire_once_around_all_of_a_step_that_a_subclass_overrides(wrapper: type[Lookahead], base: Any) -> None:
    p = parameter()
    optimizer = wrapper([p], base, lr=1.0, k=1, alpha=0.5)
    seen: list[tuple[str, float]] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda o, *_: seen.append((f"{name} {type(o).__name__}", p.detach().flatten()[0].item()))

    own, inner = type(optimizer).__name__, type(optimizer.base_optimizer).__name__
    handles = [
        register_optimizer_step_pre_hook(hook("global pre")),
        register_optimizer_step_post_hook(hook("global post")),
        optimizer.register_step_pre_hook(hook("pre")),
        optimizer.register_step_post_hook(hook("post")),
        optimizer.base_optimizer.register_step_pre_hook(hook("pre")),
        optimizer.base_optimizer.register_step_post_hook(hook("post")),
    ]
    try:
        start = p.detach().flatten()[0].item()
        for _ in range(2):
            seen.clear()
            p.grad = torch.ones_like(p)
            optimizer.step()
            end = p.detach().flatten()[0].item()
            names = [name for name, _ in seen if wrapper is not OnItsOwn or not name.endswith(inner)]
            around = [f"global pre {own}", f"pre {own}", f"post {own}", f"global post {own}"]
            if wrapper is not OnItsOwn:
                around[2:2] = [f"pre {inner}", f"post {inner}"]
            assert names == around
            assert [at for name, at in seen if name.endswith(own)] == [start, start, end, end]
            start = end
        other = torch.optim.SGD([parameter()], lr=1.0)
        seen.clear()
        other.step()
        assert [name for name, _ in seen] == ["global pre SGD", "global post SGD"]
    finally:
        for handle in handles:
            handle.remove()
    seen.clear()
    optimizer.step()
    assert seen == []


def test_hooks_are_not_confused_by_a_step_that_raises() -> None:
    calls: list[str] = []
    optimizer = Renamed([parameter()], torch.optim.SGD)
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    handle = register_optimizer_step_post_hook(lambda o, *_: calls.append(type(o).__name__))

    def fails() -> float:
        raise ArithmeticError

    try:
        with pytest.raises(ArithmeticError):
            optimizer.step(fails)
        assert calls == []
        optimizer.step()
        optimizer.base_optimizer.step()
        assert calls == ["post", "Renamed", "SGD"]
    finally:
        handle.remove()


def test_a_pre_hook_that_returns_something_else_is_told_what_it_may_return() -> None:
    optimizer = Lookahead([parameter()], torch.optim.SGD)
    optimizer.register_step_pre_hook(lambda *_: 3)
    with pytest.raises(RuntimeError, match=r"Lookahead: a step pre hook must return None or .*, got 3"):
        optimizer.step()
