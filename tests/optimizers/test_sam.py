"""SAM: against the paper, the base where there is nothing to look at, and what a step sees and leaves behind."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from optzoo.optimizers import SAM, AdamW, Cautious, Lookahead, PSGDDense, PSGDNewton, create_optimizer
from reference import Reference
from reference.lookahead import Momentum
from reference.notation import Array
from reference.sam import run
from support.checkpoints import differences, saved
from support.psgd import SHAPES, Quartic

SGD = partial(torch.optim.SGD, lr=0.02)
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


def parameter(*values: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def closure_for(params: Sequence[Tensor], loss: Callable[[], Tensor], calls: list[Any] | None = None) -> Any:
    def closure() -> Tensor:
        for p in params:
            p.grad = None
        value = loss()
        value.backward()
        if calls is not None:
            calls.append([p.detach().clone() for p in params])
        return value

    return closure


def walk(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], loss: Callable[[], Tensor], steps: int) -> Any:
    for _ in range(steps):
        optimizer.step(closure_for(params, loss))
    return [p.detach().clone() for p in params]


# The paper


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4989139214, -0.1879762693, 0.0095328666]),
        ({"adaptive": True, "eta": 0.0}, [0.4989674196, -0.2045394662, -0.0398908848]),
        ({"adaptive": True}, [0.4989662370, -0.2043158674, -0.0392531404]),
    ],
    ids=str,
)
def test_numbers_worked_out_elsewhere(options: dict[str, Any], expected: list[float]) -> None:
    w, a = nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).cos()), torch.tensor([1.0, 10.0, 30.0])
    optimizer = SAM([w], SGD, rho=0.1, **options)
    (end,) = walk(optimizer, [w], lambda: (a * w**2).sum() / 2 + (w**4).sum() / 4, 3)
    torch.testing.assert_close(end, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_closure_alone_is_enough() -> None:
    """pytorch-optimizer's step(closure) displaces by the gradients that were there before: (0.8, 1.6), as SGD."""
    w = parameter(1.0, 2.0)
    optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.5)
    value = optimizer.step(closure_for([w], lambda: w.square().sum()))
    assert value.item() == 5
    exactly(w.detach(), torch.tensor([0.7552786405, 1.5105572809], dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_equals_the_paper(base: str, adaptive: bool) -> None:
    """Groups with ρ of their own and one norm; the last tensor is adaptive in no case."""
    problem = Quartic()
    first, second, third = problem.params
    groups = [
        {"params": [first, second], "sam_rho": 0.2},
        {"params": [third], "sam_adaptive": False},
    ]
    make: Any = partial(torch.optim.SGD, lr=0.02, momentum=0.9) if base == "momentum" else partial(AdamW, lr=0.02)
    optimizer = SAM(groups, make, rho=0.1, adaptive=adaptive, eta=0.05)
    sizes = np.cumsum([6, 1])

    def gradient(θ: Sequence[Array]) -> list[Array | None]:
        g = problem.gradient(np.concatenate([p.reshape(-1) for p in θ]))
        return [part.reshape(shape) for part, shape in zip(np.split(g, sizes), SHAPES, strict=True)]

    inner: Any = Momentum(0.02, 0.9) if base == "momentum" else Reference("adamw", lr=0.02)
    η = [0.05 if adaptive else None] * 2 + [None]
    path = run(inner, [p.detach().numpy().copy() for p in problem.params], gradient, 12, [0.2, 0.2, 0.1], η)
    for θ in path:
        optimizer.step(problem.backward)
        for p, q in zip(problem.params, θ, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), q, rtol=1e-12, atol=1e-13)


def test_maximizing_looks_at_the_lowest_point_nearby() -> None:
    ends = []
    for sign in (1, -1):
        problem = Quartic()
        optimizer = SAM(problem.params, SGD, rho=0.1, maximize=sign < 0)
        ends.append(walk(optimizer, problem.params, lambda s=sign, p=problem: s * p.loss(), 5))  # type: ignore[misc]
    exactly(*ends)


def test_complex_parameters_are_pairs_and_low_precision_is_rounded_once() -> None:
    start, ends = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), []
    for p in (nn.Parameter(torch.view_as_complex(start.clone())), nn.Parameter(start.clone())):
        pairs = partial(torch.view_as_real, p) if p.is_complex() else lambda p=p: p
        walk(SAM([p], lr=0.02, rho=0.3, adaptive=True), [p], lambda pairs=pairs: pairs().pow(4).sum(), 4)  # type: ignore
        ends.append(pairs().detach())
    exactly(*ends)
    for dtype in (torch.bfloat16, torch.float16):
        calls: list[Any] = []
        low = parameter(3.0, 4.0, dtype=dtype)
        SAM([low], SGD, rho=0.1).step(closure_for([low], lambda w=low: 300 * w.sum(), calls))  # type: ignore[misc]
        exactly(calls[1][0], (torch.tensor([3.0, 4.0]) + 0.1 / 2**0.5).to(dtype))  # in float16 the square sum is inf


# Nothing to look at


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1))

    def loss(self) -> Tensor:
        return self.layers(torch.randn(8, 4)).square().mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize("base", [AdamW, SGD, partial(Lookahead, k=2), partial(Cautious, base=SGD)])
def test_without_rho_it_is_its_base_bit_for_bit(base: Any) -> None:
    """Random numbers, averages and checkpoint; the closure is called once, and may add up gradients."""
    model, plain, calls = Noisy(), Noisy(), []
    optimizer, other = SAM(model.parameters(), base, rho=0.0), base(plain.parameters())
    for net, o in ((model, optimizer), (plain, other)):
        torch.manual_seed(1)
        for step in range(5):
            if step == 3:
                net.loss().backward()

            def closure(net: Noisy = net, o: Any = o, step: int = step) -> Tensor:
                calls.append(net)
                if step != 3:
                    o.zero_grad()
                loss = net.loss()
                loss.backward()
                return loss

            o.step(closure)
    assert differences(model.state_dict(), plain.state_dict()) == []
    state = optimizer.state_dict()
    assert differences(state["state"], other.state_dict()["state"]) == []
    assert len(calls) == 10


def test_an_average_sees_one_evaluation_and_dropout_has_one_mask() -> None:
    model, seen = Noisy(), []
    optimizer = SAM(model.parameters(), SGD)
    model.layers[2].register_forward_hook(lambda module, args, output: seen.append(output != 0))
    model.layers[1].eval()
    torch.manual_seed(1)
    optimizer.step(closure_for(list(model.parameters()), model.loss))
    after = torch.get_rng_state()
    model.layers[1].train()
    optimizer.step(closure_for(list(model.parameters()), model.loss))
    assert torch.equal(seen[0], seen[1])
    assert model.layers[1].num_batches_tracked == 1
    torch.manual_seed(1)
    model.loss()
    assert torch.equal(after, torch.get_rng_state())


def test_a_norm_that_is_not_finite_displaces_nothing() -> None:
    w, calls = parameter(1.0, 2.0), []
    optimizer = SAM([w], SGD, rho=0.5)
    loss = closure_for([w], lambda: (w * torch.tensor([1.0, float("inf")])).sum(), calls)
    optimizer.step(loss)
    assert len(calls) == 1
    assert w.tolist() == [0.98, float("-inf")]  # the base's
    w.data.fill_(1.0)
    optimizer.step(closure_for([w], lambda: w.square().sum(), calls))
    assert len(calls) == 3
    assert optimizer.param_groups[0]["sam_skipped"] == 1
    again = SAM([parameter(1.0, 2.0)], SGD)
    again.load_state_dict(saved(optimizer.state_dict()))
    assert again.param_groups[0]["sam_skipped"] == 1


# What comes back


def test_what_the_second_evaluation_does_not_use_comes_back() -> None:
    """davda54's leaves a tensor without a gradient there displaced."""
    used, sometimes, calls = parameter(1.0), parameter(2.0), []
    optimizer = SAM([used, sometimes], SGD, rho=0.5)

    def loss() -> Tensor:
        return used.square().sum() + (0 if calls else sometimes.square().sum())

    optimizer.step(closure_for([used, sometimes], loss, calls))
    assert calls[1][1] != 2
    assert sometimes.item() == 2
    assert used.item() != 1


def test_an_error_in_the_closure_leaves_everything_as_it_was() -> None:
    w, calls = parameter(1.0, 2.0), []
    optimizer = SAM([w], AdamW)

    def loss() -> Tensor:
        if calls:
            raise KeyError("batch")
        return w.square().sum()

    with pytest.raises(KeyError, match="batch"):
        optimizer.step(closure_for([w], loss, calls))
    assert w.tolist() == [1, 2]
    assert not optimizer.state
    calls.clear()
    optimizer.step(closure_for([w], lambda: w.square().sum(), calls))
    assert len(calls) == 2


def test_hooks_are_called_once_and_the_first_value_is_returned() -> None:
    w, calls = parameter(3.0), []
    optimizer = SAM([w], SGD, rho=0.5)
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.base_optimizer.register_step_pre_hook(lambda *_: calls.append("base pre"))
    optimizer.base_optimizer.register_step_post_hook(lambda *_: calls.append("base post"))
    assert optimizer.step(closure_for([w], lambda: w.square().sum())).item() == 9
    assert calls == ["pre", "base pre", "base post", "post"]


# Around others, within others


def test_inside_and_around_lookahead_it_is_the_same() -> None:
    ends = []
    for make in (
        lambda params: SAM(params, partial(Lookahead, base=SGD, k=2), rho=0.2),
        lambda params: Lookahead(params, partial(SAM, base=SGD, rho=0.2), k=2),
    ):
        problem = Quartic()
        ends.append(walk(make(problem.params), problem.params, problem.loss, 7))
    exactly(*ends)


def test_a_base_that_evaluates_many_times_sees_the_worst_point_each_time() -> None:
    """f = w²/2 along one axis: the gradient is w + ρ, so LBFGS goes to -ρ where SAM's gradient vanishes."""
    w = parameter(3.0)
    optimizer = SAM([w], torch.optim.LBFGS, rho=0.0, lr=1.0, max_iter=4)
    walk(optimizer, [w], lambda: w.square().sum() / 2, 1)
    assert w.item() == pytest.approx(0, abs=1e-12)
    w, calls = parameter(3.0), []
    optimizer = SAM([w], torch.optim.LBFGS, rho=0.5, lr=0.25, max_iter=1)
    optimizer.step(closure_for([w], lambda: w.square().sum() / 2, calls))
    assert [call[0].item() for call in calls] == pytest.approx([3, 3.5])
    assert w.item() == pytest.approx(3 - min(1, 1 / 3.5) * 0.25 * 3.5)


def test_a_newton_method_by_differences_is_a_base() -> None:
    problem, calls = Quartic(), []
    optimizer = SAM(problem.params, partial(PSGDDense, hessian="finite_difference", lr=0.1), rho=0.01)
    before = problem.loss().item()
    for _ in range(20):
        optimizer.step(closure_for(problem.params, problem.loss, calls))
    assert problem.loss().item() < before - 1
    assert len(calls) == 20 * 4


# By hand


@pytest.mark.parametrize("batches", [1, 3])
def test_by_hand_it_is_the_closure(batches: int) -> None:
    """Micro-batches add up at both points."""
    ends = []
    for by_hand in (False, True):
        problem = Quartic()
        optimizer = SAM(problem.params, partial(AdamW, lr=0.02), rho=0.3)
        for _ in range(6):
            if not by_hand:
                optimizer.step(problem.backward)
                continue
            for move in (optimizer.ascend, optimizer.descend):
                optimizer.zero_grad()
                for _ in range(batches):
                    (problem.loss() / batches).backward()
                move()
            assert optimizer.step() is None
        ends.append([p.detach() for p in problem.params])
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
    if batches == 1:
        exactly(*ends)


def test_with_a_grad_scaler() -> None:
    """Unscaled gradients at both points; a step that is skipped leaves the parameters where they were."""
    ends = []
    for scale in (1.0, 2.0**14):
        w = parameter(1.0, 2.0, dtype=torch.float32)
        optimizer = SAM([w], partial(SGD, momentum=0.9), rho=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=100)
        for step in range(4):
            before = w.detach().clone()
            optimizer.zero_grad()
            scaler.scale(w.square().sum()).backward()
            scaler.unscale_(optimizer)
            optimizer.ascend()
            scaler.update()
            optimizer.zero_grad()
            scaler.scale(w.square().sum() * (float("inf") if step == 2 else 1)).backward()
            optimizer.descend()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(w.detach(), before) == (step == 2)
        ends.append(w.detach())
    exactly(*ends)


@pytest.mark.parametrize("action", ["step", "closure", "state_dict", "load", "ascend", "deepcopy", "pickle", "outside"])
def test_what_is_refused_on_the_way(action: str) -> None:
    w = parameter(1.0, 2.0)
    inner = SAM([w], SGD, rho=0.5)
    optimizer: Any = Lookahead(inner) if action == "outside" else inner
    state = optimizer.state_dict()
    w.square().sum().backward()
    inner.ascend()
    moved = w.detach().clone()
    actions: dict[str, Callable[[], Any]] = {
        "step": optimizer.step,
        "closure": lambda: optimizer.step(closure_for([w], lambda: w.square().sum())),
        "state_dict": optimizer.state_dict,
        "load": lambda: optimizer.load_state_dict(state),
        "ascend": inner.ascend,
        "deepcopy": lambda: copy.deepcopy(optimizer),
        "pickle": lambda: pickle.dumps(optimizer),
        "outside": optimizer.state_dict,
    }
    with pytest.raises(RuntimeError, match=r"between ascend\(\) and descend\(\)"):
        actions[action]()
    exactly(w.detach(), moved)
    inner.descend()
    assert w.tolist() == [1, 2]
    optimizer.step()
    assert w.tolist() == [0.96, 1.92]
    twin = copy.deepcopy(optimizer)
    with pytest.raises(TypeError, match="needs step"):
        twin.step()
    with pytest.raises(TypeError, match="needs step"):
        optimizer.step()
    assert differences(optimizer.state_dict()["state"], twin.state_dict()["state"]) == []


def test_a_framework_that_copies_attributes_knows_where_it_is() -> None:
    """As Lightning's optimizer object does, whose methods are the optimizer's on attributes of its own."""
    w = parameter(1.0)
    optimizer = SAM([w], SGD, rho=0.5)
    other: Any = object.__new__(type("Other", (SAM,), {}))
    other.__dict__ = dict(optimizer.__dict__)
    w.square().sum().backward()
    other.ascend()
    with pytest.raises(RuntimeError, match="between"):
        optimizer.state_dict()
    other.descend()
    optimizer.step()
    assert w.item() == 0.96


# Errors


def test_a_step_without_a_closure_says_what_there_is() -> None:
    w = parameter(1.0)
    optimizer = SAM([w], SGD)
    w.grad = torch.ones_like(w)
    with pytest.raises(TypeError, match=r"needs step\(closure\).*calls loss.backward\(\).*GradScaler.*ascend\(\)"):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = None  # of one that has steps of its own
    with pytest.raises(TypeError, match="needs step"):
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"descend\(\) comes back .* ascend"):
        optimizer.descend()
    w.grad = None
    with pytest.raises(RuntimeError, match=r"ascend\(\) needs the gradients at θ.*backward\(\) first"):
        optimizer.ascend()
    assert w.item() == 1


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_distributed_checkpoint_reads_a_fresh_one() -> None:
    """torch makes its state by a step of lr 0, for which there is no closure."""
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    optimizer = SAM(model.parameters(), torch.optim.AdamW, lr=0.1)
    state = get_optimizer_state_dict(model, optimizer)["state"]
    assert state.keys() == {"weight", "bias"}
    assert differences(model.state_dict(), before) == []
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_closure_without_backward() -> None:
    """Gradients of an earlier step do not count."""
    w = parameter(1.0)
    optimizer = SAM([w], AdamW)
    w.square().sum().backward()
    with pytest.raises(RuntimeError, match=r"SAM: no parameter has a gradient after the closure.*loss.backward\(\)"):
        optimizer.step(lambda: w.square().sum())
    assert not optimizer.state
    assert w.item() == 1


def test_sparse_gradients_are_refused() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = SAM(embedding.named_parameters(), SGD)
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"dense gradients only; that of parameter 'weight' .*sparse=False"):
        optimizer.step(closure_for([embedding.weight], lambda: embedding(torch.tensor([1])).sum()))
    exactly(embedding.weight.detach(), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda params: SAM(params, rho=-0.1), r"SAM: rho must be a finite number >= 0, got -0.1"),
        (lambda params: SAM(params, eta=-1.0), r"SAM: eta must be a finite number >= 0, got -1.0"),
        (lambda params: SAM(params, adaptive=None), r"adaptive must be False or True, got None"),
        (lambda params: SAM([{"params": params, "sam_rho": "x"}]), r"sam_rho must be .* got 'x'"),
        (lambda params: SAM(SAM(params)), r"SAM around SAM: one SAM is enough; set rho, adaptive, eta there"),
        (lambda params: SAM(Lookahead(SAM(params))), "SAM around SAM"),
        (
            lambda params: SAM(params, PSGDNewton),
            "PSGDNewton, whose closure does not .*'finite_difference'",
        ),
        (
            lambda params: SAM(Lookahead(PSGDDense(params))),
            "Lookahead around PSGDDense, .* needs the gradients",
        ),
        (lambda params: SAM(Cautious(params, PSGDNewton)), "SAM around Cautious, .* SAM needs the gradients"),
        (lambda params: Cautious(SAM(params)), r"put Cautious inside: SAM\(Cautious"),
    ],
)
def test_what_it_cannot_be_made_of(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make([parameter(1.0)])


def test_by_name_around_any_name() -> None:
    model = nn.Linear(3, 2)
    optimizer = create_optimizer("sam", model, base="lion", rho=0.1, weight_decay=0.2)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert {group["sam_rho"] for group in optimizer.param_groups} == {0.1}
    before = model.weight.detach().clone()
    optimizer.step(closure_for(list(model.parameters()), lambda: model(torch.ones(2, 3)).square().sum()))
    assert not torch.equal(model.weight, before)
