"""Wrappers where runs happen: GradScaler, schedulers, compiled steps, distributed checkpoints, FSDP2."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import lr_scheduler

from optzoo.optimizers import AdamW
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.lookahead import Lookahead
from support import wrapped
from support.checkpoints import differences
from support.problems import gradients, tensors, trajectory
from support.processes import in_ranks
from support.scaling import scaled_steps
from support.wrapped import SHARDED, WRAPPED

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is", "ignore:.torch.jit.script_method")
each = pytest.mark.parametrize("name", WRAPPED)
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


class Net(nn.Module):
    """A network with a scalar and a frozen parameter."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        weight, bias, scale = tensors([(4, 3), (4,), ()], dtype, seed)
        self.weight, self.bias, self.scale = nn.Parameter(weight), nn.Parameter(bias), nn.Parameter(scale)
        self.frozen = nn.Parameter(torch.ones(4, dtype=dtype), requires_grad=False)

    def loss(self, step: int) -> Tensor:
        (x,) = tensors([(8, 3)], self.weight.dtype, seed=step)
        return ((x @ self.weight.T + self.bias).tanh() * self.scale * self.frozen).square().mean()


def train(model: Net, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        model.loss(step).backward()
        optimizer.step()


@each
def test_grad_scaler(name: str) -> None:
    """A step skipped for an inf leaves no trace and is not counted; fused bases never see scaled gradients."""
    model, plain = Net(dtype=torch.float32), Net(dtype=torch.float32)
    optimizer, unscaled = WRAPPED[name](model.parameters()), WRAPPED[name](plain.parameters())
    for step, taken in enumerate(scaled_steps(model, optimizer, steps=7, inf_at=2)):
        if taken:
            train(plain, unscaled, step, step + 1)
        exactly(model.state_dict(), plain.state_dict())
        assert differences(optimizer.state_dict(), unscaled.state_dict()) == []


# Schedulers

SCHEDULERS: Mapping[str, Callable[[torch.optim.Optimizer], Any]] = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 12),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 0.1, step_size_up=3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=4), lr_scheduler.StepLR(o, 3)], [4]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


def scheduled(optimizer: Any, model: Net, make: Callable[[Any], Any], reload: bool) -> list[tuple[float, ...]]:
    """lr and betas that the base has in each step; half-way its groups are replaced by those of a checkpoint."""
    base = optimizer
    while hasattr(base, "base_optimizer"):
        base = base.base_optimizer
    scheduler, path = make(optimizer), []
    base.register_step_pre_hook(lambda o, *_: path.append((o.param_groups[0]["lr"], *o.param_groups[0]["betas"])))
    for step in range(10):
        train(model, optimizer, step, step + 1)
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        if reload and step == 5:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return path


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("base", [AdamW, torch.optim.AdamW], ids=["ours", "torch"])
@pytest.mark.parametrize("wrapper", [Lookahead, Cautious, partial(Lookahead, base=Cautious)])
def test_schedulers_reach_the_base(wrapper: Any, base: Any, scheduler: str, reload: bool) -> None:
    model, reference = Net(), Net()
    if isinstance(wrapper, partial):
        optimizer = Lookahead(model.parameters(), partial(Cautious, base=base), lr=0.05)
    else:
        optimizer = wrapper(model.parameters(), base, lr=0.05)
    plain = torch.optim.AdamW(reference.parameters(), lr=0.05)
    ours = scheduled(optimizer, model, SCHEDULERS[scheduler], reload)
    assert ours == scheduled(plain, reference, SCHEDULERS[scheduler], reload=False)
    assert len(set(ours)) > 2


# torch.compile


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Lookahead(AdamW)", "Lookahead(torch AdamW)", "Lookahead(Cautious(SGD))"])
def test_compiled_step(name: str) -> None:
    """The base is compiled once for its first step and once for all others; the count of steps makes no graphs."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    shapes, ends = [(3, 4), (5,)], []
    for compiled in (False, True):
        params = [nn.Parameter(t) for t in tensors(shapes)]
        optimizer = WRAPPED[name](params)
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend=counter)
        ends.append(trajectory(optimizer, params, gradients(14, shapes))[-1])
        assert optimizer.param_groups[0]["lookahead_step"] == 14 % 3
    # compiled, torch's AdamW computes its bias corrections in float32
    tolerance = 1e-6 if "torch" in name else 1e-13
    torch.testing.assert_close(*ends, rtol=tolerance, atol=tolerance)
    assert counter.frame_count == 2


# torch.distributed.checkpoint


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@each
def test_distributed_checkpoint(name: str, flat: bool, tmp_path: Path) -> None:
    """A saved run goes on bit for bit in a fresh optimizer, which torch lets make its state by a step of its own."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model = Net()
    optimizer = WRAPPED[name](model.parameters())
    train(model, optimizer, 0, 4)
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.save(state, checkpoint_id=tmp_path)
    train(model, optimizer, 4, 8)
    twin = Net(seed=1)
    second = WRAPPED[name](twin.parameters())
    state = {"model": twin.state_dict(), "optimizer": get_optimizer_state_dict(twin, second, options=options)}
    dcp.load(state, checkpoint_id=tmp_path)
    twin.load_state_dict(state["model"])
    set_optimizer_state_dict(twin, second, state["optimizer"], options=options)
    train(twin, second, 4, 8)
    exactly(twin.state_dict(), model.state_dict())
    exactly(second.state_dict()["state"], optimizer.state_dict()["state"])
    assert second.param_groups[0].get("lookahead_step") == optimizer.param_groups[0].get("lookahead_step")


@pytest.mark.parametrize("base", [AdamW, torch.optim.AdamW], ids=["ours", "torch"])
def test_distributed_checkpoint_of_the_base_alone(base: Any) -> None:
    """Its slow weights begin where the parameters are, not where they were when torch made the state."""
    model = Net()
    optimizer = base(model.parameters(), lr=0.01)
    train(model, optimizer, 0, 3)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    twin, expected = Net(seed=1), Net()
    second = Lookahead(twin.parameters(), base, k=2)
    get_optimizer_state_dict(twin, second)
    twin.load_state_dict(model.state_dict())
    set_optimizer_state_dict(twin, second, saved)
    assert (second.param_groups[0]["lookahead_step"], second.param_groups[0]["lr"]) == (0, 0.01)
    expected.load_state_dict(model.state_dict())
    around = Lookahead(expected.parameters(), base, k=2)
    around.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, o in ((twin, second), (expected, around)):
        train(net, o, 3, 8)
    exactly(twin.state_dict(), expected.state_dict())


@pytest.mark.parametrize("prepare", [Lookahead.init_state, lambda optimizer: None], ids=["init_state", "fresh"])
def test_reading_a_fresh_optimizer_moves_nothing(prepare: Callable[[Lookahead], None]) -> None:
    """torch's own step counts, as it does in Adam's state; after ``init_state`` there is none."""
    model, before = Net(), Net().state_dict()
    optimizer = Lookahead(model.parameters(), lr=0.1, k=1, alpha=0.1, weight_decay=0.1)
    prepare(optimizer)
    state = get_optimizer_state_dict(model, optimizer)
    exactly(model.state_dict(), before)
    steps = {s["step"].item() for s in state["state"].values()}
    assert steps == ({0.0} if prepare is Lookahead.init_state else {1.0})
    for key in ("weight", "bias", "scale"):
        exactly(state["state"][key]["lookahead_slow"], before[key])


# FSDP2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Mapping[str, Any]]:
    """What each of two ranks has seen."""
    directory = tmp_path_factory.mktemp("ranks")
    in_ranks(wrapped.fully_sharded, directory)
    return [torch.load(directory / f"{rank}.pt") for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_fully_sharded_training(name: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Two ranks get where one does, on the weights to evaluate too; resumed from a full state dict bit for bit."""
    expected = wrapped.in_one_process(name)
    for rank in ranks:
        seen = rank[name]
        exactly(seen["resumed"], seen["params"])
        for key, value in expected.items():
            torch.testing.assert_close(seen[key], value, rtol=1e-12, atol=1e-12)
        if "slow" in expected:
            exactly(seen["after"], seen["params"])
            assert not torch.equal(expected["slow"]["0.weight"], expected["params"]["0.weight"])
