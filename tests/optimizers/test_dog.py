"""DoG and L-DoG: what they promise, and what other implementations of them get wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from optzoo.compare.toys import suboptimality
from optzoo.optimizers.averaging import PolynomialDecayAverager, polynomial_decay_avg_fn
from optzoo.optimizers.dog import DoG, LDoG
from support.checkpoints import differences, parameters, saved
from support.problems import SHAPES, gradients, tensors, trajectory

FIRST_HALF, STEPS = 7, 14
scopes = pytest.mark.parametrize("scope", ["all", "group", "param"])
either = pytest.mark.parametrize("factory", [DoG, LDoG])


def step(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], *grads: Any) -> None:
    """One step on the given gradients; a number stands for all coordinates of a tensor."""
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else torch.as_tensor(g, dtype=p.dtype).expand_as(p).clone()
    optimizer.step()


def vector(*values: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


# No learning rate is to be tuned: logistic regression, with the average of the iterates.


@cache
def best_tuned_sgd() -> float:
    averages = {lr: suboptimality(torch.optim.SGD, lr=lr)[0] for lr in (0.3, 1.0, 3.0)}
    assert min(averages, key=averages.__getitem__) == 1.0
    return averages[1.0]


@pytest.mark.parametrize(
    "reps_rels",
    [(1e-8, 1e-4, 1.0), pytest.param([10.0**-k for k in range(9)], marks=pytest.mark.slow)],
    ids=["three", "nine decades"],
)
def test_dog_needs_no_tuning(reps_rels: Sequence[float]) -> None:
    """Its average is as good as that of SGD at the best lr, whatever the first step."""
    assert best_tuned_sgd() == pytest.approx(0.00086, rel=0.02)
    runs = [suboptimality(DoG, reps_rel=reps_rel) for reps_rel in reps_rels]
    averages = [average for average, _ in runs]
    assert max(averages) <= 1.3 * best_tuned_sgd()
    assert max(averages) <= 1.2 * min(averages)
    assert all(0.0056 < last < 0.0069 for _, last in runs)  # which is why the average is what counts


@pytest.mark.parametrize(
    "reps_rels",
    [(1e-8, 1.0), pytest.param([10.0**-k for k in range(9)], marks=pytest.mark.slow)],
    ids=["two", "nine decades"],
)
def test_ldog_needs_no_tuning(reps_rels: Sequence[float]) -> None:
    averages = [suboptimality(LDoG, reps_rel=reps_rel)[0] for reps_rel in reps_rels]
    assert max(averages) <= 1.3 * best_tuned_sgd()
    assert min(averages) >= 0.0006


@either
def test_averaged_model_of_a_run(factory: type[DoG]) -> None:
    """torch's AveragedModel gives the averager's parameters, and BatchNorm's buffers too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = factory(model.parameters(), reps_rel=1e-4)
    averaged = AveragedModel(model, avg_fn=polynomial_decay_avg_fn(), use_buffers=True)
    averager = PolynomialDecayAverager(model.parameters())
    for i in range(50):
        (x,) = tensors([(16, 6)], torch.float32, seed=i)
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
        averager.update()
    with averager.averaged_parameters():
        for ours, theirs in zip(model.parameters(), averaged.module.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2.4e-7)
    assert averaged.module[1].num_batches_tracked == 50


# Blocks


def test_groups_are_one_block() -> None:
    """The authors' block is a group, so that their DoG changes when biases get a group of their own."""
    whole, split = parameters(), parameters()
    one = DoG(whole, reps_rel=0.01)
    two = DoG([{"params": split[:3]}, {"params": split[3:], "cautious_floor": 0.5}], reps_rel=0.01)
    trajectory(one, whole, gradients(STEPS))
    trajectory(two, split, gradients(STEPS))
    assert all(map(torch.equal, whole, split))


def test_scopes() -> None:
    """``"group"`` is one DoG per group, ``"param"`` and LDoG one per tensor; bit for bit, and none is another."""
    rows = gradients(STEPS)

    def ends(*optimizers: Callable[[Any], DoG]) -> list[Tensor]:
        """Where each optimizer takes its share of the parameters."""
        params = parameters()
        share = len(params) // len(optimizers)
        for k, make in enumerate(optimizers):
            part = slice(k * share, (k + 1) * share)
            trajectory(make(params[part]), params[part], [row[part] for row in rows])
        return params

    def dog(scope: str) -> Callable[[Any], DoG]:
        return lambda params: DoG(params, reps_rel=0.01, scope=scope)

    def two_groups(params: list[Tensor]) -> DoG:
        return DoG([{"params": params[:3]}, {"params": params[3:]}], reps_rel=0.01, scope="group")

    runs = {
        "all": ends(dog("all")),
        "group": ends(two_groups),
        "param": ends(dog("param")),
    }
    assert not differences(runs["group"], ends(dog("all"), dog("all")))
    assert not differences(runs["param"], ends(*[dog("all")] * len(SHAPES)))
    assert not differences(runs["param"], ends(lambda params: LDoG(params, reps_rel=0.01)))
    assert differences(runs["all"], runs["group"])
    assert differences(runs["group"], runs["param"])


@pytest.mark.parametrize("foreach", [None, False])
def test_without_a_gradient_only_the_distance_counts(foreach: bool | None) -> None:
    """The authors' code raises AttributeError. Here r̄ = 5, of which 4 are the second tensor's, and G = 4 + 21."""
    params = [vector(3.0, 4.0), vector(12.0)]
    optimizer = DoG(params, reps_rel=1 / 14, eps=1.0, foreach=foreach)
    step(optimizer, params, 1.0, 1.0)
    with torch.no_grad():
        params[0].copy_(torch.tensor([3.0, 1.0]))
        params[1].fill_(8.0)
    step(optimizer, params, [0.0, 21**0.5], None)
    torch.testing.assert_close(params[0].tolist(), [3.0, 1.0 - 21**0.5])
    assert params[1] == 8.0
    assert optimizer.state[params[1]]["step"] == 1


def test_who_waits_for_a_gradient_is_part_of_the_block_from_its_start() -> None:
    """Frozen parameters are not: neither their size nor what moves them counts."""
    params = [vector(3.0, 4.0), vector(12.0), vector(99.0).requires_grad_(False)]
    optimizer = DoG(params, reps_rel=1 / 14, eps=1.0)
    for optimizer_steps in (1, 2):
        step(optimizer, params, 0.0, None, None)
        params[2].fill_(-99.0)
        assert optimizer.state[params[0]]["max_distance"] == pytest.approx(1.0, rel=1e-15)
        assert optimizer.state[params[0]]["step"] == optimizer_steps
    with torch.no_grad():
        params[1].fill_(10.0)
    step(optimizer, params, 0.0, None, None)
    assert optimizer.state[params[0]]["max_distance"] == pytest.approx(2.0, rel=1e-15)
    assert params[2] not in optimizer.state


def test_steps_without_any_gradient_make_no_difference() -> None:
    rows, ends = gradients(STEPS), []
    for idle in ([], [[None] * len(SHAPES)]):
        params = parameters()
        optimizer = DoG(params, reps_rel=0.1)
        trajectory(optimizer, params, [*idle, *rows[:FIRST_HALF], *idle, *rows[FIRST_HALF:]])
        ends.append({"params": params, "state": optimizer.state_dict()["state"]})
    assert not differences(*ends)


def test_a_group_joins_a_block_where_it_is() -> None:
    """The authors' code raises KeyError. θ_0 of the new member is its present value; r̄ and G go on, for both."""
    first, second = vector(3.0, 4.0), vector(7.0)
    optimizer = DoG([first], reps_rel=1 / 6, eps=1.0)
    step(optimizer, [first], [0.0, 3**0.5])  # r̄ = 1 and G = 4
    optimizer.add_param_group({"params": [second]})
    with torch.no_grad():
        second.fill_(100.0)
    step(optimizer, [first, second], 0.0, 5.0)  # G = 29
    assert second.item() == pytest.approx(100 - 5 / 29**0.5, rel=1e-15)
    with torch.no_grad():
        second.fill_(110.0)
    step(optimizer, [first, second], 0.0, 0.0)
    for p in (first, second):
        distance = (10**2 + 0.75) ** 0.5  # the first one's first step was √3/2
        assert optimizer.state[p]["max_distance"] == pytest.approx(distance, rel=1e-15)
        assert optimizer.state[p]["grad_sq_sum"] == pytest.approx(29, rel=1e-15)


# Precision


@pytest.mark.parametrize(("dtype", "gradient"), [(torch.bfloat16, 1.0), (torch.float16, 300.0)], ids=str)
@scopes
def test_the_sum_of_squares_of_low_precision_gradients(scope: str, dtype: torch.dtype, gradient: float) -> None:
    """Summed in bfloat16 ones stop at 256 (the authors, optax); in float16 300² overflows."""
    params = [vector(1.0, dtype=torch.float32), vector(1.0, 1.0, dtype=dtype)]
    optimizer = DoG(params, scope=scope)
    for _ in range(500):
        step(optimizer, params, None, gradient)
    state = optimizer.state[params[1]]
    assert state["grad_sq_sum"].item() == 500 * 2 * gradient**2
    assert {t.dtype for name, t in state.items() if name != "step"} == {torch.float32}
    assert state["step"].dtype is torch.float64


@pytest.mark.parametrize("first_gradient", [0.0, 1.0])
def test_zero_gradients_at_first(first_gradient: float) -> None:
    """They leave G at eps, and the next gradient enters G before it is used: the step is r_ε at most."""
    x = vector(0.0)
    optimizer = DoG([x], reps_rel=1e-6)
    step(optimizer, [x], first_gradient * 0.0)
    step(optimizer, [x], 1e3)
    assert x.item() == pytest.approx(-1e-6, rel=1e-6)


# Options


def test_the_first_step_is_init_eta() -> None:
    """If the first gradients are zero, it waits; the authors' r̄ stays 0 for ever then."""
    x = vector(0.0, 0.0)
    optimizer = DoG([x], init_eta=0.5)
    step(optimizer, [x], 0.0)
    step(optimizer, [x], [3.0, 4.0])
    torch.testing.assert_close(x.tolist(), [-1.5, -2.0], rtol=1e-15, atol=0)
    step(optimizer, [x], [0.0, 12.0])
    torch.testing.assert_close(x.tolist(), [-1.5, -2.0 - 2.5 / 13 * 12])


@either
def test_lr_other_than_one_is_warned_about_at_construction(factory: type[DoG]) -> None:
    params = [vector(1.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = factory(params)
        factory(params, lr=torch.tensor(0.5))  # whose value is not read
    with pytest.warns(UserWarning, match=f"{factory.__name__}: lr=0.5") as caught:
        optimizer = factory(params, lr=0.5)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(optimizer, params, 1.0)


@either
def test_schedules_multiply_the_step_size(factory: type[DoG]) -> None:
    """With lr = 0 nothing moves and r̄ stays r_ε, while G grows."""
    params = [vector(0.0)]
    optimizer = factory(params, reps_rel=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.0 if t < 3 else 0.5)
    for _ in range(3):
        step(optimizer, params, 2.0)
        scheduler.step()
        assert params[0] == 0.0
    step(optimizer, params, 2.0)
    assert params[0].item() == pytest.approx(-0.5 * 0.1 / 4 * 2)


@scopes
def test_effective_lr_is_what_the_last_step_multiplied_gradients_by(scope: str) -> None:
    params = parameters()
    grads = [torch.full_like(p, 2.0) for p in params]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    optimizer = DoG(groups, reps_rel=0.1, scope=scope)
    assert all(size.isnan().all() for size in optimizer.effective_lr())
    for _ in range(3):
        before = [p.detach().clone() for p in params]
        step(optimizer, params, *grads)
    moves = [((b - p) / 2).mean().item() for b, p in zip(before, params, strict=True)]
    sizes = optimizer.effective_lr()
    assert [size.shape for size in sizes] == ([(2,), (4,)] if scope == "param" else [(), ()])
    expected = [moves[:2], moves[2:]] if scope == "param" else [moves[0], moves[2]]
    for size, move in zip(sizes, expected, strict=True):
        torch.testing.assert_close(size.tolist(), move, rtol=1e-10, atol=0)


# State


def test_gradients_are_left_alone_and_nothing_is_hidden_in_groups() -> None:
    """The authors decay in ``p.grad``, keep tensors in ``param_groups`` and a string key in ``state``."""
    params = parameters()
    optimizer = DoG(params, weight_decay=0.1, maximize=True)
    for p, g in zip(params, tensors(), strict=True):
        p.grad = g.clone()
    optimizer.step()
    for p, g in zip(params, tensors(), strict=True):
        assert torch.equal(p.grad, g)
        assert p.grad._version == 0
    assert optimizer.state.keys() == set(params)
    assert {name for state in optimizer.state.values() for name in state} == {
        *("x0", "max_distance", "grad_sq_sum", "step")
    }
    (group,) = optimizer.param_groups
    assert not any(isinstance(value, Tensor) for name, value in group.items() if name != "params")


@scopes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resumes_bit_for_bit(scope: str, dtype: torch.dtype) -> None:
    """Also where the third parameter has had no gradient yet."""
    rows = gradients(STEPS, dtype=dtype)
    for row in rows[:FIRST_HALF]:
        row[2] = None
    params = parameters(dtype)
    optimizer = DoG(params, reps_rel=0.1, scope=scope, weight_decay=0.1)
    trajectory(optimizer, params, rows[:FIRST_HALF])
    checkpoint = saved({"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()})
    trajectory(optimizer, params, rows[FIRST_HALF:])
    resumed = [nn.Parameter(p) for p in checkpoint["params"]]
    other = DoG(resumed, reps_rel=1e-3)
    other.load_state_dict(checkpoint["optimizer"])
    trajectory(other, resumed, rows[FIRST_HALF:])
    assert not differences(params, resumed)
    assert not differences(optimizer.state_dict(), other.state_dict())


@scopes
def test_reset_is_a_fresh_start(scope: str) -> None:
    """After weights are loaded in the middle of a run their jump would count as distance."""
    rows, params = gradients(STEPS), parameters()
    optimizer = DoG(params, reps_rel=0.1, scope=scope)
    trajectory(optimizer, params, rows[:FIRST_HALF])
    fresh = parameters()
    with torch.no_grad():
        for p, q in zip(params, fresh, strict=True):
            p.copy_(q)
    optimizer.reset()
    other = DoG(fresh, reps_rel=0.1, scope=scope)
    trajectory(optimizer, params, rows)
    trajectory(other, fresh, rows)
    assert not differences(params, fresh)
    assert not differences(optimizer.state_dict()["state"], other.state_dict()["state"])


def test_complex_and_empty_parameters() -> None:
    """A complex tensor counts as its real view; an empty one neither moves nor breaks a norm."""
    (z, dz), empty = tensors([(3,), (3,)], torch.complex128), torch.zeros(0, dtype=torch.float64)
    params = [nn.Parameter(z.clone()), nn.Parameter(empty)]
    real = [nn.Parameter(torch.view_as_real(z).clone())]
    ours, theirs = DoG(params, reps_rel=0.1), DoG(real, reps_rel=0.1)
    for _ in range(5):
        step(ours, params, dz, 0.0)
        step(theirs, real, torch.view_as_real(dz))
    torch.testing.assert_close(torch.view_as_real(params[0].detach()), real[0].detach(), rtol=1e-15, atol=1e-15)
