"""Polynomial-decay averages: their weights, AveragedModel, low precision, resumption, and evaluation on them."""

from __future__ import annotations

import functools
import math
import pickle
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from optzoo.optimizers.averaging import (
    PolynomialDecayAverager,
    polynomial_decay_avg_fn,
    polynomial_decay_multi_avg_fn,
)
from support.checkpoints import saved
from support.problems import tensors

SHAPES = [(), (5,), (3, 4)]


def points(steps: int, dtype: torch.dtype = torch.float64) -> list[list[Tensor]]:
    return [tensors(SHAPES, dtype, seed=t) for t in range(steps)]


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(SHAPES, dtype, seed=99)]


@torch.no_grad()
def visit(averager: PolynomialDecayAverager, params: Sequence[Tensor], path: Sequence[Sequence[Tensor]]) -> None:
    """Move the parameters along the path, averaging."""
    for point in path:
        for p, x in zip(params, point, strict=True):
            p.copy_(x)
        averager.update()


def averages(averager: PolynomialDecayAverager) -> list[Tensor]:
    return list(averager.state_dict()["averages"].values())


# The weights


@pytest.mark.parametrize("gamma", [0.0, 1.0, 8.0])
def test_weights_are_binomial(gamma: float) -> None:
    """w_1 = 1, and x_t's weight after T steps is Γ(t+γ) / Γ(t) in proportion: equal for γ = 0, t for γ = 1."""
    path, params = points(20), parameters()
    averager = PolynomialDecayAverager(params, gamma)
    visit(averager, params, path[:1])
    assert all(torch.equal(a, x) for a, x in zip(averages(averager), path[0], strict=True))
    visit(averager, params, path[1:])
    weights = torch.tensor([math.gamma(t + gamma) / math.gamma(t) for t in range(1, 21)], dtype=torch.float64)
    weights /= weights.sum()
    expected = [sum(w * point[i] for w, point in zip(weights, path, strict=True)) for i in range(len(SHAPES))]
    torch.testing.assert_close(averages(averager), expected, rtol=0, atol=1e-14)


def test_the_first_point_replaces_whatever_was_there() -> None:
    p = nn.Parameter(torch.full((2,), math.nan))
    averager = PolynomialDecayAverager([p])
    visit(averager, [p], [[torch.ones(2)]])
    assert torch.equal(averages(averager)[0], torch.ones(2))


def test_complex_parameters() -> None:
    path = points(5)
    params, parts = parameters(torch.complex64), [parameters(torch.float32) for _ in range(2)]
    averager, apart = PolynomialDecayAverager(params), [PolynomialDecayAverager(part) for part in parts]
    visit(averager, params, [[x + 1j * x.square() for x in point] for point in path])
    for other, part, power in zip(apart, parts, (1, 2), strict=True):
        visit(other, part, [[x**power for x in point] for point in path])
    for z, x, y in zip(averages(averager), averages(apart[0]), averages(apart[1]), strict=True):
        assert z.dtype is torch.complex64
        torch.testing.assert_close(z, torch.complex(x, y), rtol=1e-6, atol=1e-7)


# AveragedModel


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def train(model: nn.Module, steps: int) -> Iterator[None]:
    """Train in float32, stopping after every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        (x,) = tensors([(16, 6)], torch.float32, seed=step)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        yield


def test_averaged_model_equals_the_formula_and_the_averager() -> None:
    """Parameters and BatchNorm's statistics to 2.4e-7 over 50 steps; what counts is copied."""
    model = network()
    single = AveragedModel(model, avg_fn=polynomial_decay_avg_fn(), use_buffers=True)
    multi = AveragedModel(model, multi_avg_fn=polynomial_decay_multi_avg_fn(), use_buffers=True)
    averager = PolynomialDecayAverager(model.named_parameters())
    expected = {name: torch.zeros_like(x, dtype=torch.float64) for name, x in model.state_dict().items()}
    for t, _ in enumerate(train(model, 50), start=1):
        single.update_parameters(model)
        multi.update_parameters(model)
        averager.update()
        w = 9 / (t + 8)
        for name, x in model.state_dict().items():
            expected[name] = (1 - w) * expected[name] + w * x if x.is_floating_point() else x.clone()
    assert single.module[1].num_batches_tracked == 50
    for name, x in single.module.state_dict().items():
        torch.testing.assert_close(x.double(), expected[name].double(), rtol=0, atol=2.4e-7)
        assert torch.equal(x, multi.module.state_dict()[name])
    for name, x in averager.state_dict()["averages"].items():
        torch.testing.assert_close(x.double(), expected[name], rtol=0, atol=2.4e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.int64], ids=str)
@pytest.mark.parametrize("count", [1, torch.tensor(1), torch.tensor(20_000_000)], ids=["int", "tensor", "many"])
def test_multi_form_equals_the_single_form(dtype: torch.dtype, count: int | Tensor) -> None:
    average, current = (tensors(SHAPES, dtype, seed=seed) for seed in (0, 1))
    single = [polynomial_decay_avg_fn(3.0)(a, c, count) for a, c in zip(average, current, strict=True)]
    polynomial_decay_multi_avg_fn(3.0)(average, current, count)
    assert all(torch.equal(a, b) and a.dtype is dtype for a, b in zip(single, average, strict=True))


def test_the_average_of_bfloat16_parameters_moves_on_in_float32() -> None:
    """After 3000 steps w < 2⁻⁸: in bfloat16 the average cannot move by one step's share any more."""
    model = nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    averaged = AveragedModel(model, avg_fn=polynomial_decay_avg_fn())
    averager = PolynomialDecayAverager(model.parameters())
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(3000):
        averaged.update_parameters(model)
        averager.update()
    with torch.no_grad():
        model.weight.fill_(1.5)
    for _ in range(300):
        averaged.update_parameters(model)
        averager.update()
    assert (averaged.module.weight == 1.0).all()
    expected = 1.5 - 0.5 * math.prod(1 - 9 / (t + 8) for t in range(3001, 3301))
    assert expected == pytest.approx(1.288, abs=1e-3)
    torch.testing.assert_close(averages(averager)[0], torch.full((1, 4), expected), rtol=1e-4, atol=0)
    with averager.averaged_parameters():
        assert (model.weight == torch.tensor(expected, dtype=torch.bfloat16)).all()


def test_weights_of_float64_averages_are_float64() -> None:
    average, current = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for n in (1, 2, 2000):
        w = polynomial_decay_avg_fn(8.0)(average, current, torch.tensor(n))
        assert w.item() == pytest.approx(9 / (n + 9), rel=1e-15)


@pytest.mark.parametrize(
    ("of_params", "least", "expected"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float32, torch.float32),
        (torch.float64, torch.float32, torch.float64),
        (torch.float32, torch.float64, torch.float64),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.complex64, torch.float64, torch.complex128),
    ],
    ids=str,
)
def test_precision_of_averages(of_params: torch.dtype, least: torch.dtype, expected: torch.dtype) -> None:
    averager = PolynomialDecayAverager(parameters(of_params), dtype=least)
    assert {a.dtype for a in averages(averager)} == {expected}


def test_averaging_functions_can_be_pickled_with_the_model() -> None:
    for fn in (polynomial_decay_avg_fn(3.0), polynomial_decay_multi_avg_fn(3.0)):
        assert isinstance(fn, functools.partial)
        assert pickle.loads(pickle.dumps(fn)).keywords == {"gamma": 3.0}


# Evaluating on the average


def test_averaged_parameters_are_put_back_bit_for_bit() -> None:
    params, path = parameters(torch.bfloat16), points(7, torch.bfloat16)
    averager = PolynomialDecayAverager(params)
    visit(averager, params, path)
    trained = [p.detach().clone() for p in params]
    trained[1][0] = params[1].data[0] = math.nan
    homes = [p.data_ptr() for p in params]
    with averager.averaged_parameters():
        for p, a, x in zip(params, averages(averager), trained, strict=True):
            assert torch.equal(p, a.to(torch.bfloat16))
            assert not torch.equal(p, x)
            assert p.requires_grad
            p.data.add_(1)
    assert [p.data_ptr() for p in params] == homes
    assert all(torch.equal(p.view(torch.int16), x.view(torch.int16)) for p, x in zip(params, trained, strict=True))


def test_averaged_parameters_are_put_back_after_an_exception() -> None:
    params, path = parameters(), points(3)
    averager = PolynomialDecayAverager(params)
    visit(averager, params, path)
    with pytest.raises(KeyError), averager.averaged_parameters():
        raise KeyError
    assert all(torch.equal(p, x) for p, x in zip(params, path[-1], strict=True))
    averager.update()
    with averager.averaged_parameters():
        assert not torch.equal(params[1], path[-1][1])


def test_evaluation_leaves_no_trace_in_training() -> None:
    """Also without gradients, in inference mode, and with gradients in it."""
    ends = []
    for evaluate in (False, True):
        model = network()
        averager = PolynomialDecayAverager(model.parameters())
        for _ in train(model, 6):
            averager.update()
            if evaluate:
                with torch.inference_mode(), averager.averaged_parameters():
                    model.eval()(torch.ones(1, 6))
                with averager.averaged_parameters():
                    assert model(torch.ones(1, 6)).requires_grad
                model.train()
        ends.append([*model.parameters(), *averages(averager)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_what_would_spoil_the_average_is_refused_inside() -> None:
    params = parameters()
    averager = PolynomialDecayAverager(params)
    visit(averager, params, points(3))
    state = saved(averager.state_dict())
    nested = averager.averaged_parameters()
    with averager.averaged_parameters():
        for action in (averager.update, averager.reset, nested.__enter__, lambda: averager.load_state_dict(state)):
            with pytest.raises(RuntimeError, match=r"within evaluation_weights\(\).*leave the with block first"):
                action()
    averager.update()


def test_before_the_first_update_parameters_stay() -> None:
    params = parameters()
    averager = PolynomialDecayAverager(params)
    with torch.no_grad():
        params[0].fill_(7.0)  # weights loaded after the averager was made, say
    with averager.averaged_parameters():
        assert params[0] == 7.0


def test_reset_starts_over() -> None:
    params, path = parameters(), points(5)
    averager = PolynomialDecayAverager(params)
    visit(averager, params, path)
    averager.reset()
    visit(averager, params, path[:2])
    fresh = PolynomialDecayAverager(params)
    visit(fresh, params, path[:2])
    assert all(torch.equal(a, b) for a, b in zip(averages(averager), averages(fresh), strict=True))


@pytest.mark.distributed
def test_sharded_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """DTensors, on a mesh of one rank: averages are placed as their parameters are."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        x, y = tensors([(3, 4)], torch.bfloat16, seed=1) + tensors([(3, 4)], torch.bfloat16, seed=2)
        p = nn.Parameter(distribute_tensor(x, mesh, [Shard(0)]))
        averager, resumed = PolynomialDecayAverager([p], gamma=0.0), PolynomialDecayAverager([p])
        averager.update()
        with torch.no_grad():
            p.copy_(distribute_tensor(y, mesh, [Shard(0)]))
        averager.update()
        resumed.load_state_dict(averager.state_dict())
        for (average,) in (averages(averager), averages(resumed)):
            assert average.placements == p.placements
            torch.testing.assert_close(average.full_tensor(), (x.float() + y.float()) / 2)
        with resumed.averaged_parameters():
            assert torch.equal(p.full_tensor(), average.full_tensor().bfloat16())
        assert torch.equal(p.full_tensor(), y)
        mixed = PolynomialDecayAverager([x, p])
        with pytest.raises(RuntimeError, match="DTensor"):  # a full tensor for a sharded one; the first would fit
            mixed.load_state_dict({"step": 1, "gamma": 1.0, "averages": {"0": x + 1, "1": y}})
        assert torch.equal(averages(mixed)[0], x.float())
    finally:
        dist.destroy_process_group()


# Checkpoints


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("named", [False, True])
def test_resumes_bit_for_bit(named: bool, dtype: torch.dtype) -> None:
    def make(params: list[nn.Parameter], **options: Any) -> PolynomialDecayAverager:
        return PolynomialDecayAverager(zip("abc", params, strict=True) if named else params, **options)

    params, path = parameters(dtype), points(10, dtype)
    averager = make(params, gamma=3.0)
    visit(averager, params, path[:5])
    state = saved(averager.state_dict())
    assert list(state["averages"]) == (["a", "b", "c"] if named else ["0", "1", "2"])
    visit(averager, params, path[5:])
    others = parameters(dtype)
    resumed = make(others)
    resumed.load_state_dict(state)
    visit(resumed, others, path[5:])
    assert resumed.gamma == 3.0
    assert all(torch.equal(a, b) for a, b in zip(averages(averager), averages(resumed), strict=True))


def test_loading_shares_no_memory() -> None:
    params = parameters()
    averager, other = PolynomialDecayAverager(params), PolynomialDecayAverager(params)
    visit(averager, params, points(2))
    other.load_state_dict(averager.state_dict())
    before = [a.clone() for a in averages(averager)]
    visit(other, params, points(3))
    assert all(torch.equal(a, b) for a, b in zip(before, averages(averager), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["averages"].update(bias=torch.zeros(2)), r"average of parameter 'bias' has shape \(2,\).*\(4,\)"),
        (lambda s: s["averages"].pop("bias"), "the checkpoint has none of parameter 'bias'.*one here"),
        (lambda s: s["averages"].update(gain=torch.zeros(4)), "the checkpoint has one of parameter 'gain'.*none here"),
        (lambda s: s.pop("step"), "this has no 'step'"),
        (lambda s: s.update(gamma=-1.0), "gamma must be a finite number >= 0, got -1.0"),
    ],
    ids=["shape", "missing", "unknown", "no step", "gamma"],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(change: Any, message: str) -> None:
    model = nn.Linear(3, 4)
    averager = PolynomialDecayAverager(model.named_parameters(), gamma=2.0)
    averager.update()
    before, state = saved(averager.state_dict()), saved(averager.state_dict())
    state["averages"]["weight"] += 1
    state["step"] = 9
    change(state)
    with pytest.raises(ValueError, match=message):
        averager.load_state_dict(state)
    after = averager.state_dict()
    assert (after["step"], after["gamma"]) == (before["step"], before["gamma"])
    assert all(torch.equal(a, before["averages"][name]) for name, a in after["averages"].items())


# Errors


@pytest.mark.parametrize("make", [polynomial_decay_avg_fn, polynomial_decay_multi_avg_fn], ids=lambda f: f.__name__)
@pytest.mark.parametrize("gamma", [-1.0, math.nan, math.inf, "8", None, True])
def test_gamma_out_of_range_is_named(make: Any, gamma: Any) -> None:
    for factory in (make, functools.partial(PolynomialDecayAverager, [nn.Parameter(torch.zeros(1))])):
        with pytest.raises(ValueError, match="gamma must be a finite number >= 0") as error:
            factory(gamma=gamma)
        assert repr(gamma) in str(error.value)


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        ([], {}, ValueError, "params is empty"),
        (iter(()), {}, ValueError, "params is empty"),
        ([torch.zeros(2)], {"dtype": torch.int64}, ValueError, "dtype must be a floating-point dtype.*int64"),
        ([torch.zeros(2)], {"dtype": torch.complex64}, ValueError, "dtype must be a floating-point dtype.*complex64"),
        ([torch.zeros(2)], {"dtype": "float32"}, ValueError, "dtype must be a floating-point dtype.*'float32'"),
        ([("w", torch.arange(2))], {}, ValueError, "parameter 'w' is torch.int64.*leave it out"),
        ([("w", torch.zeros(2)), ("w", torch.zeros(2))], {}, ValueError, "two parameters are called 'w'"),
        (nn.Linear(1, 1), {}, TypeError, r"model.named_parameters\(\), got one Linear"),
        (torch.zeros(2), {}, TypeError, "got one Tensor"),
        ([{"params": [torch.zeros(2)]}], {}, TypeError, "tensors or .name, tensor. pairs, got dict"),
    ],
)
def test_bad_parameters(params: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PolynomialDecayAverager(params, **options)
