"""Loading copies what it is given, keeps what others put into the state, and counts steps in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from optzoo.optimizers import (
    PSGD,
    AdamW,
    Cautious,
    DoG,
    Lookahead,
    PolynomialDecayAverager,
    PSGDDense,
    PSGDNewton,
    create_optimizer,
    list_optimizers,
    optimizer_info,
)
from optzoo.optimizers.core.closures import step_on, step_on_gradients
from optzoo.schedulers import WSD
from optzoo.schedulers.recorder import GradNormRecorder
from support.checkpoints import differences, parameters, saved, walk
from support.features import needs_option

pytestmark = pytest.mark.filterwarnings("ignore:AdEMAMix. beta3_warmup")
flat_or_nested = pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
Make = Callable[[Any], Any]

OPTIMIZERS: Mapping[str, Make] = {
    **{name: partial(create_optimizer, name) for name in list_optimizers()},
    "psgd finite difference": partial(PSGDNewton, hessian="finite_difference"),
    "psgd dense": partial(PSGDDense, hessian="finite_difference"),
    "adamw, lr a tensor": lambda params: AdamW(params, lr=torch.tensor(0.01)),
    "lookahead around torch": partial(Lookahead, base=torch.optim.AdamW, k=2, pullback_momentum="pullback"),
    "cautious around torch": partial(Cautious, base=torch.optim.SGD, lr=0.1, momentum=0.9),
    "lookahead around cautious": lambda params: Lookahead(Cautious(torch.optim.Adam(params)), k=2),
}


def descend(optimizer: Any, params: list[nn.Parameter], steps: int, seed: int) -> None:
    shifts = torch.randn(steps, generator=torch.Generator().manual_seed(seed)).tolist()
    for shift in reversed(shifts):
        step_on(optimizer, lambda x=0.1 * shift: sum(((p - x) ** 2).sum() ** 1.1 for p in params))  # type: ignore[misc]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels last"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_snapshot_can_be_loaded_again_and_again(name: str, layout: torch.memory_format) -> None:
    def weights() -> list[nn.Parameter]:
        tensors = [torch.randn(s, generator=torch.Generator().manual_seed(0)) for s in ((4, 3), (5,), (2, 3, 2, 2))]
        return [nn.Parameter(t.contiguous(memory_format=layout) if t.ndim == 4 else t) for t in tensors]

    params = weights()
    optimizer = OPTIMIZERS[name](params)
    descend(optimizer, params, 7, seed=0)
    snapshot, start = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
    untouched, ends = copy.deepcopy(snapshot), []
    for _ in range(2):
        with torch.no_grad():
            torch._foreach_copy_(params, start)
        optimizer.load_state_dict(snapshot)
        descend(optimizer, params, 5, seed=1)
        ends.append([p.detach().clone() for p in params])
    assert differences(*ends) == []
    assert differences(snapshot, untouched) == []


def test_averages_schedules_and_records_are_copied_too() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = AdamW([p], lr=0.1)
    averager, scheduler = PolynomialDecayAverager([p]), WSD(optimizer, 30)
    recorder = GradNormRecorder(optimizer)

    def go_on() -> None:
        for _ in range(4):
            p.grad = p.detach().clone()
            optimizer.step()
            scheduler.step()
            averager.update()

    go_on()
    parts = (averager, scheduler, recorder)
    snapshots, start = copy.deepcopy([part.state_dict() for part in (optimizer, *parts)]), p.detach().clone()
    untouched, ends = copy.deepcopy(snapshots), []
    for _ in range(2):
        p.data.copy_(start)
        for part, snapshot in zip((optimizer, *parts), snapshots, strict=True):
            part.load_state_dict(snapshot)
        go_on()
        ends.append([p.detach().clone(), *(copy.deepcopy(part.state_dict()) for part in (optimizer, *parts))])
    assert differences(*ends) == []
    assert differences(snapshots, untouched) == []


# What is not ours


class TimmsLookahead(torch.optim.Optimizer):
    """As timm's: no state of its own, the slow weights lie in the base's, under a key of the wrapper's."""

    def __init__(self, base: torch.optim.Optimizer, alpha: float = 0.5, k: int = 3) -> None:
        self._optimizer_step_pre_hooks: dict[int, Any] = {}
        self._optimizer_step_post_hooks: dict[int, Any] = {}
        self.base, self.defaults = base, dict(base.defaults, alpha=alpha, k=k, made=0)
        self.param_groups, self.state = base.param_groups, base.state
        for group in base.param_groups:
            group.update(alpha=alpha, k=k, made=0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        self.base.step(closure)
        for group in self.base.param_groups:
            group["made"] += 1
            if group["made"] % group["k"]:
                continue
            for p in group["params"]:
                state = self.base.state[p]
                slow = state.setdefault("lookahead_slow_buff", p.detach().clone())
                p.copy_(slow.add_(p - slow, alpha=group["alpha"]))

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state


class ScheduleFree(torch.optim.Optimizer):
    """As schedulefree's wrapper: z is an entry per parameter, its own count a key beside the parameters."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base = base
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}  # type: ignore[assignment]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        count = self.base.state["schedule_free"] = {"k": self.base.state.get("schedule_free", {"k": 0})["k"] + 1}
        params = [p for group in self.base.param_groups for p in group["params"]]
        averages = [p.detach().clone() for p in params]
        for p in params:
            p.copy_(self.base.state[p].get("z", p))
        self.base.step()
        for p, x in zip(params, averages, strict=True):
            self.base.state[p]["z"] = p.detach().clone()
            p.copy_(x.lerp_(p, 1 / count["k"]))

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)


BASES: Mapping[str, Make] = {
    "AdamW": partial(AdamW, lr=0.01),
    "DoG": DoG,
    "PSGD": partial(PSGD, lr=0.01),
    "Lookahead": partial(Lookahead, lr=0.01, k=2),
    "Cautious": lambda params: Cautious(torch.optim.AdamW(params, lr=0.01)),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("wrapper", [TimmsLookahead, ScheduleFree])
def test_wrappers_of_other_libraries_resume(wrapper: Any, name: str) -> None:
    params = parameters(torch.float32)
    optimizer = wrapper(BASES[name](params))
    walk(optimizer, params, last=5)
    twins = parameters(like=params)
    twin = wrapper(BASES[name](twins))
    twin.load_state_dict(saved(optimizer.state_dict()))
    assert differences(walk(twin, twins, 5), walk(optimizer, params, 5)) == []


@pytest.mark.parametrize("name", [*BASES, "torch"])
def test_entries_of_users_are_kept_as_in_torch(name: str) -> None:
    make = torch.optim.AdamW if name == "torch" else BASES[name]
    params = parameters(torch.bfloat16)
    optimizer = make(params)
    of_torch = name in ("torch", "Cautious")  # which takes what is there for all that it keeps itself
    if not of_torch:
        optimizer.state[params[1]]["note"] = {"mask": torch.ones(2, dtype=torch.bool), "n": 3}
    params[1].requires_grad_(False)  # it never makes a step
    for p in params[:1] + params[2:]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.state[params[0]]["ema"] = torch.full((3,), 7.0)
    optimizer.state["my_global"], optimizer.state["seen"] = {"seen": [5, torch.ones(2)]}, 4
    twins = parameters(torch.bfloat16)
    twin = make(twins)
    state_dict = saved(optimizer.state_dict())
    twin.load_state_dict(state_dict)
    assert (twin.state["my_global"]["seen"][0], twin.state["seen"]) == (5, 4)
    assert twin.state["my_global"]["seen"][1] is not state_dict["state"]["my_global"]["seen"][1] or name == "torch"
    assert twin.state[twins[0]]["ema"].tolist() == [7.0] * 3
    assert twin.state[twins[0]]["ema"].dtype == torch.bfloat16  # torch's cast
    if not of_torch:
        assert twin.state[twins[1]]["note"]["n"] == 3
        assert "step" not in twin.state[twins[1]]
        for p in twins:
            p.grad = torch.ones_like(p)
        twin.step()
        assert all("step" in twin.state[p] and p.isfinite().all() for p in twins)


def test_a_string_stays_one() -> None:
    """torch.optim makes a generator of it."""
    params = parameters()
    optimizer = AdamW(params)
    walk(optimizer, params, last=1)
    optimizer.state[params[0]]["origin"] = "here"
    optimizer.load_state_dict(saved(optimizer.state_dict()))
    assert optimizer.state[params[0]]["origin"] == "here"


@pytest.mark.parametrize(
    "make", [BASES["AdamW"], BASES["Lookahead"], torch.optim.AdamW], ids=["ours", "wrapped", "torch"]
)
@flat_or_nested
def test_entries_per_parameter_go_through_distributed_checkpoints(make: Make, flat: bool) -> None:
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    optimizers = []
    for m, value in ((model, 7.0), (twin, 0.0)):
        optimizer = make(m.parameters())
        m(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        for p in m.parameters():  # flattened, torch takes the keys that are there
            optimizer.state[p]["ema"] = torch.full_like(p, value)
        optimizers.append(optimizer)
    state = get_optimizer_state_dict(model, optimizers[0], options=options)
    set_optimizer_state_dict(twin, optimizers[1], state, options=options)
    assert all(optimizers[1].state[p]["ema"].eq(7).all() for p in twin.parameters())


# Step counts

BEYOND = 2**24


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", list_optimizers())
def test_counts_pass_two_to_the_24(name: str, capturable: bool) -> None:
    if capturable and "capturable" not in optimizer_info(name).supports:
        return  # it refuses it
    p = nn.Parameter(torch.ones(3, 4))
    optimizer = create_optimizer(name, [p], capturable=capturable)
    p.grad = torch.ones(3, 4)
    step_on_gradients(optimizer)
    optimizer.state[p]["step"].fill_(BEYOND - 2)
    counts = []
    for _ in range(5):
        step_on_gradients(optimizer)
        counts.append(int(optimizer.state[p]["step"]) - BEYOND)
    assert counts == [-1, 0, 1, 2, 3]
    twin = create_optimizer(name, [p], capturable=capturable)
    twin.load_state_dict(saved(optimizer.state_dict()))
    assert (twin.state[p]["step"].item(), twin.state[p]["step"].dtype) == (BEYOND + 3, torch.float64)


def test_psgd_goes_on_to_update_after_two_to_the_24() -> None:
    p = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    optimizer = PSGD([p], precond_update_probability=0.1)
    optimizer.init_state()
    optimizer.state[p]["step"].fill_(BEYOND - 50)
    updates = 0
    for step in range(100):
        before, p.grad = (
            optimizer.state[p]["Q0"].clone(),
            torch.randn(8, 8, generator=torch.Generator().manual_seed(step)),
        )
        optimizer.step()
        updates += not torch.equal(before, optimizer.state[p]["Q0"])
    assert updates == 10


@pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_counts_pass_to_torch_in_all_its_modes(how: Mapping[str, Any]) -> None:
    params = parameters(torch.float32)
    optimizer = AdamW(params, lr=0.01)
    walk(optimizer, params, last=5)
    file = saved(optimizer.state_dict())
    for group in file["param_groups"]:
        group.update(how)
    twins = parameters(like=params)
    twin = torch.optim.AdamW(twins)
    twin.load_state_dict(file)
    torch.testing.assert_close(walk(twin, twins, 5), walk(optimizer, params, 5), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_counts_pass_to_torchs_compiled_step() -> None:
    params = parameters(torch.float32)
    optimizer = AdamW(params, lr=0.01)
    walk(optimizer, params, last=5)
    twins = parameters(like=params)
    twin = torch.optim.AdamW(twins)
    twin.load_state_dict(saved(optimizer.state_dict()))
    for p, q in zip(params, twins, strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    torch.compile(twin.step, backend="eager")()
    torch.testing.assert_close(twins, params, rtol=1e-5, atol=1e-6)


@flat_or_nested
@pytest.mark.parametrize("make", [AdamW, PSGD, torch.optim.AdamW], ids=["AdamW", "PSGD", "torch"])
def test_distributed_checkpoints_with_float32_counts_load(make: Make, flat: bool, tmp_path: Any) -> None:
    """As earlier versions and torch write them; the other way round torch reads ours."""
    needs_option(dcp.save, "no_dist")
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    before, after = make(model.parameters()), (AdamW if make is torch.optim.AdamW else make)(twin.parameters())
    for m, optimizer, steps in ((model, before, 3), (twin, after, 1)):
        for _ in range(steps):
            m(torch.ones(1, 3)).sum().backward()
            optimizer.step()
    state = get_optimizer_state_dict(model, before, options=options)

    def as_before(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: as_before(key, inner) for key, inner in value.items()}
        return value.float() if name == "step" or name.endswith(".step") else value

    dcp.save({"optimizer": as_before("", state)}, checkpoint_id=tmp_path, no_dist=True)
    template = get_optimizer_state_dict(twin, after, options=options)
    if make is not torch.optim.AdamW:
        dcp.load({"optimizer": template}, checkpoint_id=tmp_path, no_dist=True)
        set_optimizer_state_dict(twin, after, template, options=options)
    else:  # whose groups lack options of ours: nested ones load, by themselves
        after.load_state_dict(saved(before.state_dict()))
        before.load_state_dict(saved(after.state_dict()))
    steps = {(after.state[p]["step"].item(), after.state[p]["step"].dtype) for p in twin.parameters()}
    assert steps == {(3.0, torch.float64)}
