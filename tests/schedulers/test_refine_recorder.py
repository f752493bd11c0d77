"""The recorder sees the gradients the optimizer steps with, and costs the host nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optzoo.optimizers import AdamW, Cautious, Lookahead
from optzoo.schedulers.recorder import GradNormRecorder
from optzoo.schedulers.recording import load
from optzoo.schedulers.refine import refine

sgd = partial(refine, kind="sgd")


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64).to(dtype)


def backward(model: nn.Module, step: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    model.zero_grad()
    x = batch(step, dtype)
    loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    loss.backward()
    return loss


def l1_l2(model: nn.Module) -> tuple[float, float]:
    g = torch.cat([p.grad.double().reshape(-1) for p in model.parameters() if p.grad is not None])
    return g.abs().sum().item(), g.norm().item()


def assert_recorded(recorder: GradNormRecorder, expected: list[tuple[float, float]], rtol: float = 1e-6) -> None:
    norms = recorder.recording.norms
    np.testing.assert_allclose(np.stack([norms["l1"], norms["l2"]], 1), np.array(expected), rtol=rtol)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "fused Adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "AdamW": lambda p: AdamW(p, lr=0.01),
    "Lookahead": lambda p: Lookahead(p, torch.optim.SGD, lr=0.1, k=2),
    "Lookahead of Cautious": lambda p: Lookahead(Cautious(p, torch.optim.SGD, lr=0.01)),
}


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_at_the_step(name: str, closure: bool) -> None:
    """With accumulated and clipped gradients; a closure makes them inside of the step."""
    model, other = network(), network()
    optimizer, plain = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](other.parameters())
    recorder = GradNormRecorder(optimizer)
    expected = []

    def gradients(step: int) -> torch.Tensor:
        loss = backward(model, step)
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        expected.append(l1_l2(model))
        return loss

    for step in range(70):
        if closure:
            assert optimizer.step(lambda step=step: gradients(step)) is not None
        else:
            gradients(step)
            optimizer.step()
        backward(other, step)
        nn.utils.clip_grad_norm_(other.parameters(), 3.0)
        plain.step()
    assert_recorded(recorder, expected)
    assert recorder.recording.total == 70
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)  # the recorder changes nothing


def test_a_closure_that_is_evaluated_often_counts_once() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    recorder = GradNormRecorder(optimizer)
    firsts = []
    for step in range(3):
        seen: list[tuple[float, float]] = []

        def closure(step: int = step, seen: list[tuple[float, float]] = seen) -> float:
            loss = backward(model, step)
            seen.append(l1_l2(model))
            return float(loss.detach())

        optimizer.step(closure)
        firsts.append(seen[0])
        assert len(seen) > 1
    assert_recorded(recorder, firsts)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(fused: bool, unscale: bool) -> None:
    """True norms with scaled gradients; steps that overflow are nan where the fused step runs, absent where none is."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    recorder = GradNormRecorder(optimizer, norms=("l1", "l2", "update"))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    expected, updates = [], []
    for step in range(12):
        backward(model, step)
        true, before = l1_l2(model), [p.detach().clone() for p in model.parameters()]
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        x = batch(step)
        scaler.scale(nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))).backward()
        overflow = step == 5
        if overflow:
            model[0].weight.grad[0, 0] = math.inf
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if not overflow:
            expected.append(true)
            pairs = zip(grads, before, model.parameters(), strict=True)
            updates.append(sum((g * (b - p)).sum().item() for g, b, p in pairs) / 0.01)
        elif fused:
            expected.append((math.nan, math.nan))
            updates.append(math.nan)
    assert_recorded(recorder, expected, rtol=1e-5)
    np.testing.assert_allclose(recorder.recording.norms["update"], updates, rtol=1e-4)
    assert (None in recorder.state_dict()["l2"]) == fused


def test_dtypes_groups_and_parameters_without_gradient() -> None:
    half, double = network(0, torch.bfloat16), network(1, torch.float64)
    idle = nn.Parameter(torch.ones(3))
    sparse = nn.Embedding(10, 3, sparse=True)
    groups = [{"params": [*half.parameters(), idle]}, {"params": list(double.parameters()), "lr": 0.2}]
    optimizer = torch.optim.SGD([*groups, {"params": sparse.parameters()}], lr=0.1)
    recorder = GradNormRecorder(optimizer)
    expected = []
    for step in range(5):
        backward(half, step, torch.bfloat16)
        backward(double, step, torch.float64)
        sparse.zero_grad()
        sparse(torch.tensor([1, 1, 4])).square().sum().backward()
        dense = sparse.weight.grad.to_dense()
        parts = [l1_l2(half), l1_l2(double), (dense.abs().sum().item(), dense.norm().item())]
        expected.append((sum(l1 for l1, _ in parts), math.sqrt(sum(l2**2 for _, l2 in parts))))
        optimizer.step()
    assert_recorded(recorder, expected)
    optimizer.zero_grad()
    optimizer.step()  # without any gradient
    assert np.isnan(recorder.recording.norms["l2"][-1])


@pytest.mark.parametrize("name", ["SGD", "AdamW", "maximize"])
def test_update_is_the_gradient_along_the_step(name: str) -> None:
    """⟨g, g⟩ for SGD; without decoupled weight decay; of the sign of a descent."""
    model = network()
    if name == "SGD":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    else:
        optimizer = AdamW(model.parameters(), lr=torch.tensor(0.01), weight_decay=0.5, maximize=name == "maximize")
    recorder = GradNormRecorder(optimizer, norms=("update", "l2"))
    expected = []
    for step in range(6):
        backward(model, step)
        if name == "SGD":
            expected.append(l1_l2(model)[1] ** 2)
            optimizer.step()
            continue
        without = copy.deepcopy(model)
        for p, q in zip(model.parameters(), without.parameters(), strict=True):
            q.grad = p.grad.clone()
        twin = AdamW(without.parameters(), lr=0.01, weight_decay=0.0, maximize=name == "maximize")
        twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        twin.param_groups[0]["weight_decay"] = 0.0
        before = [p.detach().clone() for p in without.parameters()]
        twin.step()
        moved = sum(((b - q) * q.grad).sum().item() for b, q in zip(before, without.parameters(), strict=True))
        expected.append(abs(moved) / 0.01)
        optimizer.step()
    found = recorder.recording.norms
    assert list(found) == ["l2", "update"]
    np.testing.assert_allclose(found["update"], expected, rtol=2e-3)
    assert refine(np.tile(found["update"], 3), "update").multipliers[0] > 0


def test_reading_waits_for_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No number of a step is read on the host before 64 are there."""
    reads = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor, *args: reads.append(len(tensor)) or original(tensor))
    for name in ("item", "tolist", "__float__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, name=name: reads.append(name))
    w = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([w], lr=0.1)
    GradNormRecorder(optimizer)
    for _ in range(200):
        w.grad = torch.ones(3)
        optimizer.step()
    assert reads == [64, 64, 64]


def run(steps: int, **options: Any) -> tuple[GradNormRecorder, torch.optim.Optimizer, nn.Parameter]:
    """l2 norms 1, 2, 3, ... at lr 1/1, 1/2, 1/3, ..."""
    w = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([w], lr=1.0)
    recorder = GradNormRecorder(optimizer, **options)
    go_on(optimizer, w, range(steps))
    return recorder, optimizer, w


def go_on(optimizer: torch.optim.Optimizer, w: nn.Parameter, steps: range) -> None:
    for step in steps:
        optimizer.param_groups[0]["lr"] = 1 / (step + 1)
        w.grad = torch.full((1,), step + 1.0)
        optimizer.step()


@pytest.mark.parametrize(("every", "max_points", "expected"), [(1, 50, 4), (3, 50, 6), (5, 1000, 5)])
def test_few_points_of_a_long_run(every: int, max_points: int, expected: int) -> None:
    recorder, _, _ = run(200, every=every, max_points=max_points)
    found = recorder.recording
    assert (found.every, found.total) == (expected, 200)
    np.testing.assert_array_equal(found.norms["l2"], np.arange(0, 200, expected) + 1)
    np.testing.assert_allclose(found.lrs, 1 / (np.arange(0, 200, expected) + 1))
    np.testing.assert_allclose(found.multipliers[::expected], 1 / (np.arange(0, 200, expected) + 1))
    assert len(found.multipliers) == 200


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 1), ("update", 2)])
def test_one_norm_alone(name: str, power: int) -> None:
    norms = run(70, norms=name)[0].recording.norms
    assert list(norms) == [name]
    np.testing.assert_allclose(norms[name], np.arange(1.0, 71) ** power, rtol=1e-3)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_save_and_go_on(tmp_path: Path, suffix: str) -> None:
    whole, _, _ = run(150)
    first, _, _ = run(90)
    first.save(tmp_path / f"norms{suffix}")
    second, optimizer, w = run(0)
    second.load_state_dict(load(tmp_path / f"norms{suffix}").state())
    go_on(optimizer, w, range(90, 150))
    assert second.state_dict() == whole.state_dict()
    assert whole.state_dict().keys() == {"version", "T", "every", "optimizer", "clip", "l1", "l2", "lr"}
    np.testing.assert_array_equal(sgd(second).multipliers, sgd(whole.state_dict()).multipliers)


def test_remove() -> None:
    recorder, optimizer, w = run(10)
    recorder.remove()
    go_on(optimizer, w, range(10, 20))
    assert recorder.recording.total == 10
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_clipping_is_noticed(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    recorder = GradNormRecorder(optimizer)
    for step in range(40):
        backward(model, step)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    with pytest.warns(UserWarning, match=r"the l2 norm is at its largest value in \d+% of the steps, as clipping"):
        recorder.save(tmp_path / "norms.json")
    assert "Clipping was active" in sgd(tmp_path / "norms.json").advice
    assert "Clipping" not in refine(tmp_path / "norms.json", "adam").advice


W = nn.Parameter(torch.zeros(1))
SGD = torch.optim.SGD([W], lr=0.1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GradNormRecorder([W]), TypeError, "optimizer must be a torch.optim.Optimizer, got list"),
        (lambda: GradNormRecorder(SGD, norms=("l3",)), ValueError, r"norms must be some of 'l1', .*, got \('l3',\)"),
        (lambda: GradNormRecorder(SGD, norms=()), ValueError, "norms must be some of"),
        (lambda: GradNormRecorder(SGD, every=0), ValueError, "every must be a whole number >= 1, got 0"),
        (lambda: GradNormRecorder(SGD, every=True), ValueError, "every must be a whole number >= 1, got True"),
        (lambda: GradNormRecorder(SGD, max_points=7), ValueError, "max_points must be a whole number >= 8, got 7"),
        (lambda: run(9)[0].save("norms.txt"), ValueError, "path must end in .json or .npz, got 'norms.txt'"),
        (
            lambda: run(9, norms="l2")[0].load_state_dict(run(9)[0].state_dict()),
            ValueError,
            "this recorder l2; make it",
        ),
        (lambda: run(9)[0].load_state_dict({}), ValueError, "not a recording of gradient norms: it has no 'T'"),
        (lambda: sgd(run(9, norms=["l1"])[0]), ValueError, "has l1 and no 'l2'"),
        (lambda: sgd(run(3)[0]), ValueError, "at least 8 finite numbers, got 3; record a longer run"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    hooks = len(SGD._optimizer_step_pre_hooks)
    with pytest.raises(error, match=message):
        call()
    assert len(SGD._optimizer_step_pre_hooks) == hooks
