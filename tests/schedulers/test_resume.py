"""Checkpoints of a scheduler: files on disk, other schedules than before, states of other libraries."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_lr
from transformers import get_linear_schedule_with_warmup

from optzoo.optimizers import AdamW, Lookahead
from optzoo.schedulers import WSD, Cosine, Linear, Schedule, Scheduler

TRACKS = {
    "weight_decay": {"mode": "scale", "schedule": [{"to": 0}]},
    "momentum": {"mode": "set", "schedule": "wsd,warmup=5"},
}


def sgd(lr: Any = 0.1, **options: Any) -> torch.optim.SGD:
    torch.manual_seed(0)
    return torch.optim.SGD([torch.nn.Parameter(torch.randn(3))], lr=lr, **options)


def run(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[float]:
    used = []
    for _ in range(steps):
        used.append(float(optimizer.param_groups[0]["lr"]))
        for p in optimizer.param_groups[0]["params"]:
            p.grad = p.detach().clone()
        optimizer.step()
        scheduler.step()
    return used


def saved(path: Path, optimizer: torch.optim.Optimizer, scheduler: Any) -> dict[str, Any]:
    """What a file gives back, read as Hugging Face does."""
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, path)
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


@pytest.mark.parametrize("clock", ["calls", "optimizer"])
def test_resumed_at_any_step_is_unbroken(clock: str, tmp_path: Path) -> None:
    def fresh() -> tuple[torch.optim.Optimizer, Scheduler]:
        optimizer = sgd(weight_decay=0.1, momentum=0.5)
        return optimizer, WSD(optimizer, 20, 3, tracks=TRACKS, clock=clock)

    whole, scheduler = fresh()
    expected = run(whole, scheduler, 20)
    for at in range(20):
        first, scheduler = fresh()
        run(first, scheduler, at)
        state = saved(tmp_path / "run.pt", first, scheduler)
        second, resumed = fresh()
        second.param_groups[0]["params"][0].data.copy_(first.param_groups[0]["params"][0].data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            second.load_state_dict(state["optimizer"])
            resumed.load_state_dict(state["scheduler"])
            assert run(second, resumed, 20 - at) == expected[at:]
        assert torch.equal(second.param_groups[0]["params"][0], whole.param_groups[0]["params"][0])
        assert resumed.get_last_values() == scheduler_values(whole)


def test_own_optimizers_and_wrappers(tmp_path: Path) -> None:
    def fresh() -> tuple[torch.optim.Optimizer, Scheduler]:
        torch.manual_seed(0)
        optimizer = Lookahead([torch.nn.Parameter(torch.randn(3))], AdamW, k=3, lr=0.1, weight_decay=0.1)
        tracks = {"betas[0]": {"mode": "set", "schedule": [{"start": 0.8, "to": 0.95, "space": "halflife"}]}}
        return optimizer, Linear(optimizer, 12, tracks={"weight_decay": "follow", **tracks})

    whole, scheduler = fresh()
    expected = run(whole, scheduler, 12)
    first, scheduler = fresh()
    run(first, scheduler, 5)
    state = saved(tmp_path / "run.pt", first, scheduler)
    second, resumed = fresh()
    second.param_groups[0]["params"][0].data.copy_(first.param_groups[0]["params"][0].data)
    second.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["scheduler"])
    assert run(second, resumed, 7) == expected[5:]
    assert torch.equal(second.param_groups[0]["params"][0], whole.param_groups[0]["params"][0])
    assert second.param_groups[0]["betas"] == whole.param_groups[0]["betas"] == (0.95, 0.999)


def scheduler_values(optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    keys = ("lr", "weight_decay", "momentum")
    return [{key: group[key] for key in keys} for group in optimizer.param_groups]


def test_state_is_plain_and_not_touched() -> None:
    optimizer = sgd(lr=torch.tensor(0.1), weight_decay=0.1)
    scheduler = WSD(optimizer, 20, 3, tracks=TRACKS, groups={0: "linear"})
    run(optimizer, scheduler, 4)
    state = scheduler.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert state["t"] == 4
    assert state["total"] == 20
    before = copy.deepcopy(state)
    other = sgd(weight_decay=0.1)
    with pytest.warns(UserWarning, match="schedule changed"):
        Cosine(other, 50, tracks=TRACKS).load_state_dict(state)
    assert state == before
    assert state is not scheduler.state_dict()


def test_loading_writes_the_lr() -> None:
    """torch: get_last_lr() says 0.05 while the group goes on with 0.1 (#29697, #65342, #119168)."""
    optimizer = sgd()
    scheduler = Linear(optimizer, 10)
    run(optimizer, scheduler, 5)
    fresh = sgd()
    resumed = Linear(fresh, 10)
    resumed.load_state_dict(scheduler.state_dict())  # and not the optimizer's
    assert fresh.param_groups[0]["lr"] == resumed.get_last_lr()[0] == 0.05


def test_loading_keeps_the_new_schedule_and_says_so(tmp_path: Path) -> None:
    """torch restores T_max and goes on with the old curve (#120532, #52911)."""
    optimizer = sgd()
    scheduler = Linear(optimizer, 10)
    run(optimizer, scheduler, 5)
    state = saved(tmp_path / "run.pt", optimizer, scheduler)
    fresh = sgd()
    longer = Linear(fresh, 20)
    fresh.load_state_dict(state["optimizer"])
    with pytest.warns(UserWarning, match=r"at step 5 group 0 lr 0.05 \(checkpoint\) -> 0.075 \(now\).*on_change='ok'"):
        longer.load_state_dict(state["scheduler"])
    assert run(fresh, longer, 15) == pytest.approx([0.1 * (1 - t / 20) for t in range(5, 20)])


def test_wsd_is_prolonged_without_a_word(tmp_path: Path) -> None:
    optimizer = sgd()
    scheduler = WSD(optimizer, 20, 2)
    run(optimizer, scheduler, 10)
    state = saved(tmp_path / "run.pt", optimizer, scheduler)
    fresh = sgd()
    longer = WSD(fresh, 100, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.load_state_dict(state["optimizer"])
        longer.load_state_dict(state["scheduler"])
        assert run(fresh, longer, 90) == pytest.approx([0.1] * 70 + [0.1 * (1 - s / 20) for s in range(20)])


def test_on_change() -> None:
    optimizer = sgd(weight_decay=0.1)
    scheduler = Linear(optimizer, 10, tracks={"weight_decay": "follow"}, groups={0: "linear"})
    run(optimizer, scheduler, 5)
    state = json.loads(json.dumps(scheduler.state_dict()))

    fresh = sgd(weight_decay=0.1)
    strict = Linear(fresh, 20, on_change="raise")
    groups = dict(fresh.param_groups[0])
    with pytest.raises(ValueError, match=r"lr 0.05 .*-> 0.075"):
        strict.load_state_dict(state)
    assert fresh.param_groups[0] == groups
    assert strict.last_epoch == 0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = Linear(fresh := sgd(weight_decay=0.1), 20, on_change="ok")
        silent.load_state_dict(state)
        assert fresh.param_groups[0]["lr"] == pytest.approx(0.075)
        as_saved = Cosine(fresh := sgd(weight_decay=0.1), 99, on_change="use_saved")
        as_saved.load_state_dict(state)
    assert as_saved.total == 10
    assert run(fresh, as_saved, 5) == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01])
    assert fresh.param_groups[0]["weight_decay"] == 0

    unnamed = Scheduler(sgd(), Schedule().to(0, 10, shape=lambda p: p))
    assert unnamed.state_dict()["plan"] is None
    with pytest.raises(ValueError, match="no schedule that was written down"):
        Linear(sgd(), 10, on_change="use_saved").load_state_dict(unnamed.state_dict())


def test_base_of_checkpoint_or_configuration(tmp_path: Path) -> None:
    optimizer = sgd(lr=0.1)
    scheduler = Linear(optimizer, 10)
    run(optimizer, scheduler, 5)
    state = saved(tmp_path / "run.pt", optimizer, scheduler)
    for base, lr in (("saved", 0.05), ("config", 0.2)):
        fresh = sgd(lr=0.4)
        resumed = Linear(fresh, 10, base=base)
        fresh.load_state_dict(state["optimizer"])
        expected = {
            "saved": "base lr of group 0 is the checkpoint's 0.1, not 0.4 (base='config' takes it)",
            "config": "at step 5 group 0 lr 0.05 (checkpoint) -> 0.2 (now)",
        }
        with pytest.warns(UserWarning, match=re.escape(expected[base])):
            resumed.load_state_dict(state["scheduler"])
        assert resumed.get_last_lr() == pytest.approx([lr])
        assert run(fresh, resumed, 2)[1] == pytest.approx(lr * 0.8)


def test_groups_added_before_a_checkpoint() -> None:
    def two() -> torch.optim.SGD:
        optimizer = sgd()
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.7})
        return optimizer

    scheduler = Linear(sgd(), 10)
    run(scheduler.optimizer, scheduler, 5)
    more = two()
    resumed = Linear(more, 10)
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == pytest.approx([0.05, 0.35])
    with pytest.raises(ValueError, match="state has 2 groups, the optimizer 1"):
        Linear(sgd(), 10).load_state_dict(resumed.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch_lr.LambdaLR(o, lambda t: max(0.0, 1 - t / 10)),
        lambda o: get_linear_schedule_with_warmup(o, 0, 10),
        lambda o: torch_lr.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=10),
    ],
)
def test_from_other_schedulers(make: Any, tmp_path: Path) -> None:
    optimizer = sgd()
    scheduler = make(optimizer)
    run(optimizer, scheduler, 4)
    state = {"last_epoch": scheduler.state_dict()["last_epoch"], **scheduler.state_dict()}
    fresh = sgd()
    ours = Linear(fresh, 10)
    fresh.load_state_dict(optimizer.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.load_state_dict(state)
    assert run(fresh, ours, 6) == pytest.approx(run(optimizer, scheduler, 6))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "this has nothing"),
        ({"state": {}, "param_groups": []}, "this has 'state', 'param_groups'"),
        ({"t": 3, "version": 2, "base": [], "last": []}, "version 2, this release reads 1: update optzoo"),
    ],
)
def test_what_is_no_state(state: dict[str, Any], message: str) -> None:
    scheduler = Linear(sgd(), 10)
    with pytest.raises(ValueError, match=message):
        scheduler.load_state_dict(state)
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("at", [2, 4, 7])
def test_in_sequential(stage: int, at: int) -> None:
    def fresh() -> tuple[torch.optim.SGD, Any]:
        optimizer = sgd()
        warm = torch_lr.LinearLR(optimizer, start_factor=0.5, total_iters=5)
        ours = Cosine(optimizer, 10)
        order = [ours, warm] if stage == 1 else [warm, ours]
        return optimizer, torch_lr.SequentialLR(optimizer, order, milestones=[5])

    optimizer, whole = fresh()
    expected = run(optimizer, whole, 10)
    first, scheduler = fresh()
    run(first, scheduler, at)
    second, resumed = fresh()
    second.load_state_dict(first.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.load_state_dict(scheduler.state_dict())
    assert run(second, resumed, 10 - at) == pytest.approx(expected[at:])


SCRIPT = """
import sys, torch
from optzoo.schedulers import WSD
path, begin, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
p = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.AdamW([p], lr=0.1)
scheduler = WSD(optimizer, 12, 3, clock="optimizer", tracks={"weight_decay": "follow"})
if begin:
    state = torch.load(path, weights_only=True)
    p.data.copy_(state["p"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
for _ in range(begin, end):
    p.grad = p.detach().clone()
    optimizer.step()
torch.save({"p": p.data, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, path)
print(p.tolist(), scheduler.get_last_values())
"""


@pytest.mark.slow
def test_in_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def here(name: str, begin: int, end: int) -> str:
        monkeypatch.setattr(sys, "argv", ["script", str(tmp_path / name), str(begin), str(end)])
        exec(compile(SCRIPT, "script", "exec"), {})
        return capsys.readouterr().out

    whole = here("whole.pt", 0, 12)
    here("parts.pt", 0, 7)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "parts.pt"), "7", "12"]
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout == whole
