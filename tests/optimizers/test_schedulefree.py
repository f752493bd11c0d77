"""Schedule-Free: numbers of the authors' code, which weights are where, and checkpoints in either mode."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from optzoo.optimizers import AdamW, Cautious, ScheduleFreeAdamW, ScheduleFreeSGD, adopt, evaluation_weights
from reference import Reference
from support.checkpoints import differences, parameters, saved, walk
from support.problems import gradients, tensors, trajectory

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
MAKES = {
    "AdamW": partial(ScheduleFreeAdamW, lr=0.02, weight_decay=0.1, warmup_steps=3),
    "SGD": partial(ScheduleFreeSGD, lr=0.1, weight_decay=0.1, warmup_steps=3),
}
each = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def averages(optimizer: Any, params: list[nn.Parameter]) -> list[Tensor]:
    with optimizer.evaluation_weights():
        return values(params)


def quartic(make: Any) -> tuple[Tensor, Tensor]:
    """x and z after four steps on 1/2 Σ a w² + 1/4 Σ w⁴."""
    w = nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).cos())
    optimizer = make([w])
    for _ in range(4):
        w.grad = torch.tensor([1.0, 10.0, 30.0], dtype=torch.float64) * w.detach() + w.detach() ** 3
        optimizer.step()
    return averages(optimizer, [w])[0], optimizer.state[w]["z"]


def test_numbers_of_the_authors_code() -> None:
    """schedulefree 1.4.1, in float64."""
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)
    x, z = quartic(partial(ScheduleFreeAdamW, lr=0.01, weight_decay=0.1))
    close(x, torch.tensor([0.5142470847, -0.3903809684, -0.9626541229], dtype=torch.float64))
    close(z, torch.tensor([0.4987996127, -0.3750951263, -0.9463378145], dtype=torch.float64))
    x, _ = quartic(partial(ScheduleFreeSGD, lr=0.02, weight_decay=0.1))
    close(x, torch.tensor([0.5038822823, -0.2369211243, -0.1058296656], dtype=torch.float64))


@pytest.mark.parametrize("name", ["schedulefreeadamw", "schedulefreesgd"])
def test_x_is_the_weighted_average_of_z_under_any_schedule(name: str) -> None:
    """The largest lr so far is what an iterate counts by; an lr of 0 at first counts for nothing."""
    make, reference = (
        {"schedulefreeadamw": ScheduleFreeAdamW, "schedulefreesgd": ScheduleFreeSGD}[name],
        Reference(name),
    )
    params, theta = parameters(), [t.numpy() for t in tensors()]
    optimizer = make(params)
    for lr, row in zip((0.0, 0.1, 0.3, 0.2, 0.05, 0.4), gradients(6), strict=True):
        optimizer.param_groups[0]["lr"] = reference.h.lr = lr
        trajectory(optimizer, params, [row])
        theta = reference.step(theta, [None if g is None else g.numpy() for g in row])
    for i, x in enumerate(averages(optimizer, params)):
        torch.testing.assert_close(x, torch.as_tensor(reference.states[i]["x"]), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(optimizer.state[params[i]]["z"], torch.as_tensor(reference.states[i]["z"]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each
def test_a_hundred_swaps_change_nothing(make: Any, dtype: torch.dtype) -> None:
    """In both ways, repeated or not, and the next steps are as without them."""
    (params, others), ends = (parameters(dtype) for _ in range(2)), []
    optimizer, plain = make(params), make(others)
    walk(optimizer, params, last=5)
    walk(plain, others, last=5)
    before, x = values(params), averages(optimizer, params)
    for _ in range(50):
        optimizer.eval()
        optimizer.eval()
        exactly(values(params), x)
        optimizer.train()
        optimizer.train()
        ends.append(averages(optimizer, params))
    exactly(ends, [x] * 50)
    exactly(values(params), before)
    assert not any(torch.equal(a, b) for a, b in zip(x, before, strict=True))
    exactly(walk(optimizer, params, 5), walk(plain, others, 5))
    assert differences(optimizer.state_dict(), plain.state_dict()) == []


@each
def test_low_precision_follows_float32(make: Any) -> None:
    """Given the same gradients y is that of float32, and the parameters are its rounding to bfloat16."""
    low = parameters(torch.bfloat16)
    high = [nn.Parameter(p.detach().float()) for p in low]
    ours, theirs = make(low), make(high)
    for row in gradients(20, dtype=torch.bfloat16):
        trajectory(ours, low, [row])
        trajectory(theirs, high, [[None if g is None else g.float() for g in row]])
    for p, q in zip(low, high, strict=True):
        torch.testing.assert_close(ours.state[p]["y"], q.detach(), rtol=1e-6, atol=1e-6)
        exactly(p.detach(), ours.state[p]["y"].bfloat16())
    for x, y in zip(averages(ours, low), averages(theirs, high), strict=True):
        torch.testing.assert_close(x, y.bfloat16(), rtol=2**-8, atol=1e-6)


def test_what_is_written_into_a_low_precision_parameter_counts() -> None:
    """Weights that are clipped, say: y is where they are, not where it was."""
    w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    optimizer = ScheduleFreeSGD([w], lr=0.125)
    for _ in range(3):
        w.grad = torch.ones_like(w)
        optimizer.step()
    y = optimizer.state[w]["y"].clone()
    with torch.no_grad():
        w[1] = 1.0
    w.grad = torch.zeros_like(w)
    optimizer.param_groups[0]["lr"] = 0.0
    z = optimizer.state[w]["z"]
    optimizer.step()
    torch.testing.assert_close(optimizer.state[w]["y"], torch.lerp(torch.tensor([y[0], 1.0]), z, 0.25))


@each
def test_a_step_in_evaluation_mode_is_refused(make: Any) -> None:
    params = parameters()
    optimizer = make(params)
    walk(optimizer, params, last=3)
    before, state = values(params), copy.deepcopy(optimizer.state_dict())
    asked = []
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.eval()
    for enter in (optimizer.step, lambda: optimizer.step(lambda: asked.append(1))):
        with pytest.raises(RuntimeError, match=r"step\(\) within evaluation_weights.*or call train\(\), first"):
            enter()
    with pytest.raises(RuntimeError, match=r"evaluation_weights\(\) within"), optimizer.evaluation_weights():
        pass
    optimizer.train()
    assert asked == []
    exactly(values(params), before)
    assert differences(optimizer.state_dict(), state) == []


def test_in_wrappers() -> None:
    params = parameters()
    optimizer = Cautious(params, ScheduleFreeSGD, lr=0.1)
    walk(optimizer, params, last=3)
    trained = values(params)
    with optimizer.evaluation_weights():
        x = values(params)
        with pytest.raises(RuntimeError, match=r"ScheduleFreeSGD: step\(\) within"):
            optimizer.step()
    optimizer.eval()
    exactly(values(params), x)
    optimizer.train()
    exactly(values(params), trained)
    assert not any(torch.equal(a, b) for a, b in zip(x, trained, strict=True))


@pytest.mark.parametrize("order", ["optimizer first", "model first"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each
def test_saved_in_evaluation_mode(make: Any, dtype: torch.dtype, order: str) -> None:
    """The model's file has x, the optimizer's has y: after train() the run goes on bit for bit."""
    params = parameters(dtype)
    optimizer = make(params)
    walk(optimizer, params, last=4)
    optimizer.eval()
    model_file, optimizer_file = values(params), saved(optimizer.state_dict())
    optimizer.train()
    twins = parameters(dtype)
    resumed = make(twins)

    def load_model() -> None:
        for p, value in zip(twins, model_file, strict=True):
            p.data.copy_(value)

    steps = [load_model, lambda: resumed.load_state_dict(optimizer_file)]
    for load in steps if order == "model first" else steps[::-1]:
        load()
    exactly(values(twins), model_file)
    with pytest.raises(RuntimeError, match="call train"):
        resumed.step()
    resumed.train()
    exactly(walk(resumed, twins, 4), walk(optimizer, params, 4))
    assert differences(resumed.state_dict(), optimizer.state_dict()) == []


@each
def test_copies_in_evaluation_mode(make: Any) -> None:
    model = nn.ParameterList(parameters())
    optimizer = make(list(model))
    walk(optimizer, list(model), last=4)
    trained = values(list(model))
    optimizer.eval()
    for copied in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        twin, second = copied((model, optimizer))
        second.train()
        exactly(values(list(twin)), trained)


def test_a_distributed_checkpoint_in_evaluation_mode(tmp_path: Any) -> None:
    """For an optimizer that is in that mode as well: it has room for y."""
    runs = []
    for last in (4, 0):
        model = nn.Linear(3, 2).double()
        optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.1)
        for step in range(last):
            optimizer.zero_grad()
            model(tensors([(5, 3)], seed=step)[0]).square().sum().backward()
            optimizer.step()
        optimizer.init_state()
        optimizer.eval()
        state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
        if last:
            dcp.save(state, checkpoint_id=tmp_path)
        else:
            dcp.load(state, checkpoint_id=tmp_path)
            model.load_state_dict(state["model"])
            set_optimizer_state_dict(model, optimizer, state["optimizer"])
        runs.append((model, optimizer))
    (first, ours), (second, theirs) = runs
    exactly(second.state_dict(), first.state_dict())
    ours.train()
    theirs.train()
    exactly(second.state_dict(), first.state_dict())
    assert differences(theirs.state_dict()["state"], ours.state_dict()["state"]) == []


def test_options_of_todays_checkpoints_have_no_mode() -> None:
    params = parameters()
    optimizer = ScheduleFreeSGD(params)
    walk(optimizer, params, last=2)
    assert "evaluating" not in optimizer.state_dict()["param_groups"][0]
    assert sorted(optimizer.state[params[0]]) == ["lr_max", "step", "weight_sum", "z"]


def test_parameters_with_histories_of_their_own_share_a_step() -> None:
    """As many steps, at other rates: the weights of the average are of each parameter."""
    rows = gradients(4, [(4,)])
    early, late = (nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))
    alone = [nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2)]
    optimizer, others = ScheduleFreeAdamW([early, late]), [ScheduleFreeAdamW([p]) for p in alone]
    for lr, mine, yours in ((0.1, True, False), (0.3, False, True), (0.1, True, True), (0.2, True, True)):
        (row,) = rows[0]
        given = [row if mine else None, row if yours else None]
        for each_one in (optimizer, *others):
            each_one.param_groups[0]["lr"] = lr
        trajectory(optimizer, [early, late], [given])
        for p, g, other in zip(alone, given, others, strict=True):
            trajectory(other, [p], [[g]])
    torch.testing.assert_close([early, late], alone, rtol=1e-15, atol=1e-15)
    sums = [optimizer.state[p]["weight_sum"].item() for p in (early, late)]
    assert sums == pytest.approx([0.01 + 0.01 + 0.04, 0.09 * 3])


@each
def test_without_interpolation_there_is_no_average_to_find(make: Any) -> None:
    option, value = ("betas", (0.0, 0.999)) if make.func is ScheduleFreeAdamW else ("momentum", 0.0)
    with pytest.raises(ValueError, match=rf"{option} must be .*β1 not 0, as x = .* got"):
        make(parameters(), **{option: value})


def test_an_average_begins_where_adamw_was() -> None:
    """What is adopted from AdamW is its second moment; z and x begin at the parameters."""
    params = parameters()
    before = AdamW(params, lr=0.01)
    walk(before, params, last=3)
    optimizer = ScheduleFreeAdamW(params, lr=0.01)
    with pytest.raises(ValueError, match="needs 'z'"):
        adopt(optimizer, before)
    with evaluation_weights(optimizer):
        pass
    assert not optimizer.state


def test_reset_begins_again_from_what_was_loaded() -> None:
    params, fresh = parameters(), parameters()
    optimizer = ScheduleFreeAdamW(params, lr=0.1)
    walk(optimizer, params, last=4)
    optimizer.state[params[3]]["of the user"] = 1
    for p, q in zip(params, fresh, strict=True):
        p.data.copy_(q)
    with optimizer.evaluation_weights(), pytest.raises(RuntimeError, match=r"reset\(\) within"):
        optimizer.reset()
    optimizer.reset()
    exactly(averages(optimizer, params), values(fresh))
    exactly(walk(optimizer, params), walk(ScheduleFreeAdamW(fresh, lr=0.1), fresh))
    assert optimizer.state[params[3]]["of the user"] == 1
