"""Inside torch: distributed checkpoints, GradScaler, schedulers, closures, hooks, compile and every kind of tensor."""

from __future__ import annotations

import copy
import inspect
import itertools
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

from optzoo.optimizers import AdamW, Optimizer, create_optimizer, list_optimizers, optimizer_info
from optzoo.optimizers.core import buckets
from optzoo.optimizers.core.closures import step_on, step_on_gradients
from support.cases import facts
from support.features import needs
from support.problems import gradients, tensors, trajectory
from support.scaling import scaled_steps

pytestmark = pytest.mark.filterwarnings(
    "ignore:AdEMAMix. beta3_warmup", "ignore:torch.distributed is", "ignore:.torch.jit.script_method"
)
each = pytest.mark.parametrize("name", list_optimizers())
each_without_closure = pytest.mark.parametrize("name", [n for n in list_optimizers() if not optimizer_info(n).closure])
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


class Net(nn.Module):
    """A network with a scalar, a parameter without elements and a frozen one."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        weight, bias, scale = tensors([(4, 3), (4,), ()], dtype, seed)
        self.weight, self.bias, self.scale = nn.Parameter(weight), nn.Parameter(bias), nn.Parameter(scale)
        self.empty = nn.Parameter(torch.zeros(0, 3, dtype=dtype))
        self.frozen = nn.Parameter(torch.ones(4, dtype=dtype), requires_grad=False)

    def loss(self, step: int) -> Tensor:
        (x,) = tensors([(8, 3)], self.weight.dtype, seed=step)
        return ((x @ self.weight.T + self.bias).tanh() * self.scale * self.frozen + self.empty.sum()).square().mean()


def train(model: Net, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        step_on(optimizer, partial(model.loss, step))


def parameters(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(shapes, dtype)]


# torch.distributed.checkpoint


@pytest.mark.parametrize(
    "prepare", [lambda optimizer: None, lambda optimizer: optimizer.init_state()], ids=["fresh", "init_state"]
)
@pytest.mark.parametrize("flat", [False, True])
@each
def test_distributed_checkpoint(name: str, flat: bool, prepare: Callable[[Any], None], tmp_path: Path) -> None:
    """A saved run goes on bit for bit in an optimizer made with other options; no parameter lacks state."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model = Net()
    optimizer = create_optimizer(name, model, lr=0.01, weight_decay=0.1, cautious=True)
    train(model, optimizer, 0, 3)
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.save(state, checkpoint_id=tmp_path)
    train(model, optimizer, 3, 6)
    twin = Net(seed=1)
    second = create_optimizer(name, twin, weight_decay=0.2, cautious=True)  # a file does not say whose it is
    prepare(second)
    state = {"model": twin.state_dict(), "optimizer": get_optimizer_state_dict(twin, second, options=options)}
    dcp.load(state, checkpoint_id=tmp_path)
    twin.load_state_dict(state["model"])
    set_optimizer_state_dict(twin, second, state["optimizer"], options=options)
    train(twin, second, 3, 6)
    exactly(twin.state_dict(), model.state_dict())
    exactly(second.state_dict()["state"], optimizer.state_dict()["state"])


@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoint_is_loaded_twice(flat: bool) -> None:
    """As when a run falls back to an earlier checkpoint."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model = Net()
    optimizer = AdamW(model.parameters())
    train(model, optimizer, 0, 1)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    state = copy.deepcopy(optimizer.state_dict()["state"])
    for _ in range(2):
        train(model, optimizer, 1, 2)
        set_optimizer_state_dict(model, optimizer, copy.deepcopy(saved), options=options)
        exactly(optimizer.state_dict()["state"], state)


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
@each
def test_reading_a_fresh_optimizer_moves_nothing(name: str, lr: float | Tensor) -> None:
    """torch makes the state by a step of its own, with lr = 0 and zero gradients; init_state makes it without."""
    model, before = Net(), Net().state_dict()
    optimizer = create_optimizer(name, model, lr=lr, weight_decay=0.1)
    state = get_optimizer_state_dict(model, optimizer)["state"]
    exactly(model.state_dict(), before)
    assert all(t.isfinite().all() for buffers in state.values() for t in buffers.values())
    assert {fqn: buffers["step"].item() for fqn, buffers in state.items()} == dict.fromkeys(
        ("weight", "bias", "scale", "empty"), 1
    )
    optimizer = create_optimizer(name, model, lr=lr, weight_decay=0.1)
    optimizer.init_state()
    assert {s["step"].item() for s in get_optimizer_state_dict(model, optimizer)["state"].values()} == {0}


# GradScaler


@each_without_closure
def test_grad_scaler(name: str) -> None:
    """A step skipped for an inf leaves no trace, and scaling by powers of two leaves none either."""
    model, plain = Net(dtype=torch.float32), Net(dtype=torch.float32)
    optimizer, unscaled = (create_optimizer(name, net, lr=0.01, cautious=True) for net in (model, plain))
    for step, taken in enumerate(scaled_steps(model, optimizer, steps=5, inf_at=2)):
        if taken:
            train(plain, unscaled, step, step + 1)
        exactly(model.state_dict(), plain.state_dict())
        exactly(optimizer.state_dict()["state"], unscaled.state_dict()["state"])


# Learning rate schedulers

SCHEDULERS: Mapping[str, Callable[[torch.optim.Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6, power=2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 0.1, step_size_up=3, cycle_momentum="betas" in o.defaults),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10, cycle_momentum="betas" in o.defaults),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([SCHEDULERS["StepLR"](o), SCHEDULERS["LinearLR"](o)]),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(o, [SCHEDULERS[n](o) for n in ("LinearLR", "StepLR")], [4]),
}


def scheduled(optimizer: torch.optim.Optimizer, model: Net, make: Callable[[Any], Any]) -> list[tuple[float, ...]]:
    """lr and betas of each step; the lr may get to 0."""
    scheduler, path = make(optimizer), []
    for step in range(9):
        path.append((optimizer.param_groups[0]["lr"], *optimizer.param_groups[0].get("betas", ())))
        train(model, optimizer, step, step + 1)
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
    return path


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@each
def test_schedulers_of_torch(name: str, scheduler: str) -> None:
    model, reference = Net(), Net()
    optimizer = create_optimizer(name, model.parameters(), lr=0.05)
    ours = scheduled(optimizer, model, SCHEDULERS[scheduler])
    theirs = scheduled(torch.optim.AdamW(reference.parameters(), lr=0.05), reference, SCHEDULERS[scheduler])
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    assert len({row[0] for row in ours}) > 1
    if scheduler in ("CyclicLR", "OneCycleLR") and "betas" in optimizer.defaults:
        assert [row[1] for row in ours] == [row[1] for row in theirs]
        assert len({row[1] for row in ours}) > 4
        assert len({row[2:] for row in ours}) == 1
    if type(optimizer) is AdamW:
        torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-12, atol=1e-12)
    assert all(p.isfinite().all() for p in model.parameters())


def test_no_scheduler_of_torch_is_left_out() -> None:
    classes = dict(inspect.getmembers(lr_scheduler, inspect.isclass)).values()
    names = {c.__name__ for c in classes if issubclass(c, lr_scheduler.LRScheduler)}
    assert names - {"LRScheduler", "_LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("name", [name for name in list_optimizers() if "betas" in optimizer_info(name).defaults])
def test_betas_set_by_a_scheduler_enter_the_step(name: str) -> None:
    """Two runs that differ in the first beta of the third step only."""
    ends = []
    for beta1 in (0.9, 0.1):
        p = nn.Parameter(torch.zeros(5))
        optimizer = create_optimizer(name, [p], lr=0.01)
        for beta, g in ((0.9, 1.0), (0.9, 1.0), (beta1, -0.1), (0.9, -0.1)):
            optimizer.param_groups[0]["betas"] = (beta, *optimizer.param_groups[0]["betas"][1:])
            trajectory(optimizer, [p], [[torch.full((5,), g)]])
        ends.append(p.detach())
    assert not torch.equal(*ends)


# The step's contract


@each_without_closure
def test_closure_runs_once_with_gradients_and_its_value_is_returned(name: str) -> None:
    model, twin, modes = Net(), Net(), []
    optimizer, plain = (create_optimizer(name, net, lr=0.01) for net in (model, twin))

    def closure() -> Tensor:
        modes.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = model.loss(0)
        loss.backward()
        return loss

    with torch.no_grad():
        value = optimizer.step(closure)
    train(twin, plain, 0, 1)
    assert modes == [True]
    assert value == Net().loss(0)
    assert value.requires_grad
    assert optimizer.step(closure=lambda: None) is None
    assert plain.step() is None
    exactly(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize("name", [name for name in list_optimizers() if not facts(name).together])
def test_parameters_without_gradient_wait_for_their_own_first_step(name: str) -> None:
    """Frozen for two steps, then as if its optimizer were new; likewise a group that is added."""
    rows = gradients(5, [(4,)])
    early, late, added, fresh = (nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(4))
    options = {"lr": 0.01, "weight_decay": 0.1, "cautious": True, **facts(name).apart}
    optimizer = create_optimizer(name, [("early", early), ("late", late)], **options)
    for row in rows[:2]:
        trajectory(optimizer, [early, late], [[*row, None]])
    assert list(optimizer.state) == ([early, late] if facts(name).joint else [early])
    exactly(late, torch.ones_like(late))
    optimizer.add_param_group({"params": [("added", added)]})
    assert [group["param_names"] for group in optimizer.param_groups] == [["early", "late"], ["added"]]
    trajectory(optimizer, [early, late, added], [row * 3 for row in rows[2:]])
    trajectory(create_optimizer(name, [fresh], **options), [fresh], rows[2:])
    assert [optimizer.state[p]["step"].item() for p in (early, late, added)] == [5, 3, 3]
    (torch.testing.assert_close if facts(name).positional else exactly)([late, added], [fresh, fresh])
    assert not torch.equal(early, fresh)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_step_hooks_fire_once_whichever_class_is_made_first(order: tuple[int, ...]) -> None:
    class Parent(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1, "weight_decay": 0.0}, {})

        update = staticmethod(lambda p, g, s, h: g.sign())

    class Child(Parent): ...

    class Grandchild(Child): ...

    calls = []
    for i in (*order, *order):
        (p,) = parameters([(2,)])
        p.grad = torch.ones_like(p)
        optimizer = (Parent, Child, Grandchild)[i]([p])
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))
        optimizer.step()
    assert calls == ["pre", "post"] * 6


# Every kind of tensor


def given(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], rows: Sequence[Sequence[Tensor | None]]) -> None:
    """Steps on these very gradients, with their strides and lazy bits."""
    for row in rows:
        for p, g in zip(params, row, strict=True):
            p.grad = g
        step_on_gradients(optimizer)


@pytest.mark.parametrize("conjugate", [False, True], ids=["", "conjugate"])
@pytest.mark.parametrize("cautious", [False, True])
@each
def test_complex_parameters_are_pairs_of_reals(name: str, cautious: bool, conjugate: bool) -> None:
    """Also where the gradient is a lazy conjugate, which is what autograd gives a parameter used through ``conj()``."""
    z, *grads = (torch.complex(*tensors([(5, 3), (5, 3)], seed=seed)) for seed in range(6))
    grads = [g.conj() if conjugate else g for g in grads]
    ends = []
    for view in (lambda t: t, lambda t: torch.view_as_real(t.resolve_conj())):
        p = nn.Parameter(view(z.clone()))
        optimizer = create_optimizer(name, [p], lr=0.01, weight_decay=0.1, cautious=cautious)
        given(optimizer, [p], [[view(g)] for g in grads])
        ends.append(p.detach())
    exactly(torch.view_as_real(ends[0]), ends[1])


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
@each
def test_gradients_of_another_dtype(name: str, dtypes: Sequence[torch.dtype]) -> None:
    """``grad_dtype`` lets a bfloat16 parameter accumulate in float32, here beside one that does not."""
    needs("Tensor.grad_dtype", hasattr(torch.Tensor, "grad_dtype"))
    shapes, ends = [(4,), (4,)], []
    for grad_dtypes in ([torch.bfloat16] * 2, dtypes):
        params = parameters(shapes, torch.bfloat16)
        for p, dtype in zip(params, grad_dtypes, strict=True):
            p.grad_dtype = dtype
        rows = [tensors(shapes, torch.bfloat16, seed) for seed in range(3)]
        optimizer = create_optimizer(name, params, lr=0.01)
        given(optimizer, params, [[g.to(d) for g, d in zip(row, grad_dtypes, strict=True)] for row in rows])
        ends.append(params)
    exactly(*ends)


LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.clone,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.mT.contiguous().mT,
    "every second": lambda t: torch.stack([t, t], dim=-1)[..., 0],
}


@pytest.mark.parametrize("piece", [7, 2**18])
@each
def test_memory_layout_changes_no_bit(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "CPU_PIECE", piece)
    start, *grads = tensors([(2, 3, 4, 5)] * 4)
    ends = []
    for of_parameter, of_gradient in itertools.product(LAYOUTS.values(), repeat=2):
        p = nn.Parameter(of_parameter(start))
        optimizer = create_optimizer(name, [p], lr=0.01, weight_decay=0.1, cautious=True)
        given(optimizer, [p], [[of_gradient(g)] for g in grads])
        ends.append(p.detach().contiguous())
    (torch.testing.assert_close if optimizer_info(name).sums else exactly)(ends, ends[:1] * len(ends))


@each
def test_views_of_one_storage_and_tensors_without_elements(name: str) -> None:
    shapes = [(), (0, 3), (4,), (2, 3)]
    apart = parameters(shapes)
    storage = torch.cat([p.detach().flatten() for p in apart])
    views = [nn.Parameter(v.view(s)) for v, s in zip(storage.split([1, 0, 4, 6]), shapes, strict=True)]
    for params in (views, apart):
        optimizer = create_optimizer(name, params, lr=0.01, cautious=True)
        given(optimizer, params, gradients(4, shapes))
        assert len(optimizer.state) == len(shapes)
    exactly(storage, torch.cat([p.detach().flatten() for p in apart]))


# torch.compile


@pytest.mark.slow
@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("name", [name for name in list_optimizers() if facts(name).one_graph])
def test_compiled_step(name: str, cautious: bool) -> None:
    """No graph break, and three graphs: the first step makes the state, the third finds that lr is no constant."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    shapes, ends = [(3, 4), (5,)], []
    for compiled in (False, True):
        params = parameters(shapes)
        optimizer = create_optimizer(name, params, weight_decay=0.1, cautious=cautious, **facts(name).changing)
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
        for lr, row in zip((0.02, 0.02, 0.02, 0.01, 0.005, 0.002), gradients(6, shapes), strict=True):
            optimizer.param_groups[0]["lr"] = lr
            given(optimizer, params, [row])
        ends.append(params)
    torch.testing.assert_close(*ends, rtol=1e-14, atol=1e-14)
    assert counter.frame_count == 3


@pytest.mark.compiled
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cadamw", "ademamix"])
def test_step_compiled_by_inductor(name: str) -> None:
    """To 4 ulp in float32."""
    shapes, ends = [(3, 4), (5,)], []
    for compiled in (False, True):
        params = parameters(shapes, torch.float32)
        optimizer = create_optimizer(name, params, lr=0.01, weight_decay=0.1)
        if compiled:
            optimizer.step = torch.compile(optimizer.step, fullgraph=True)
        given(optimizer, params, gradients(5, shapes, torch.float32))
        ends.append(params)
    torch.testing.assert_close(*ends, rtol=4 * 2**-23, atol=4 * 2**-23)
