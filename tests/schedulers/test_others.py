"""Schedules after and beside others: whose base counts, and what becomes of an lr that somebody else sets."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_lr

from optzoo.optimizers import AdamW
from optzoo.schedulers import WSD, Cosine, Linear, Scheduler
from support.scheduled import parameter, run, sgd

# A second stage


def first_stage(make: Any = Linear, **options: Any) -> torch.optim.SGD:
    optimizer = sgd(1e-3, **options)
    run(optimizer, make(optimizer, total=10), 10)
    return optimizer


def lr_of(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def test_an_lr_that_was_lowered_by_hand() -> None:
    """torch goes on with the first stage's, 100 times too large, without a word."""
    optimizer = first_stage()
    optimizer.param_groups[0]["lr"] = 1e-5
    with pytest.warns(UserWarning, match=r"is 0.001, initial_lr of .*not 1e-05.*base='current'.*on_change='ok'"):
        Linear(optimizer, 10)
    assert lr_of(optimizer) == 1e-3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options, lr in (({"base": "current"}, 1e-5), ({"on_change": "ok"}, 1e-3)):
            optimizer = first_stage()
            optimizer.param_groups[0]["lr"] = 1e-5
            second = Linear(optimizer, 10, **options)
            assert run(optimizer, second, 3) == pytest.approx([lr, 0.9 * lr, 0.8 * lr])
            assert second.base_lrs == [lr]

    optimizer = first_stage()
    optimizer.param_groups[0]["lr"] = 1e-5
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    with pytest.raises(ValueError, match="base='current' takes it"):
        Linear(optimizer, 10, on_change="raise")
    assert {key: value for key, value in optimizer.param_groups[0].items() if key != "params"} == before


def test_a_value_with_a_track_that_was_changed_by_hand() -> None:
    optimizer = sgd(weight_decay=0.1)
    run(optimizer, Linear(optimizer, 10, tracks={"weight_decay": "follow"}), 5)
    optimizer.param_groups[0]["weight_decay"] = 0.3
    with pytest.warns(UserWarning, match="the base weight_decay of group 0 is 0.1.*and not 0.3"):
        Linear(optimizer, 10, tracks={"weight_decay": "follow"})
    optimizer.param_groups[0]["weight_decay"] = 0.3
    Linear(optimizer, 10, tracks={"weight_decay": "follow"}, base="current")
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


def test_a_second_stage_at_the_lr_of_the_first_is_torchs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = first_stage()
        assert run(optimizer, WSD(optimizer, 10), 1) == [1e-3]


@pytest.mark.parametrize("order", ["schedule first", "checkpoint first"])
def test_an_optimizer_from_a_checkpoint(order: str) -> None:
    """Its lr is not the base; that is as it should be where the scheduler's state is loaded too."""
    optimizer = sgd()
    scheduler = Cosine(optimizer, 10)
    run(optimizer, scheduler, 5)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    fresh = sgd()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if order == "checkpoint first":
            fresh.load_state_dict(saved[0])
        resumed = Cosine(fresh, 10)
        fresh.load_state_dict(saved[0])
        resumed.load_state_dict(saved[1])
        assert run(fresh, resumed, 5) == run(optimizer, scheduler, 5)

    fresh = sgd()
    fresh.load_state_dict(saved[0])
    fresh.param_groups[0]["lr"] = 1e-4  # a second stage
    second = Linear(fresh, 10)
    fresh.step()
    with pytest.warns(UserWarning, match="base='current' takes it"):
        second.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.step()


def test_current_and_last_epoch() -> None:
    with pytest.raises(ValueError, match=r"last_epoch=3 goes on .*base='current' begins"):
        Linear(first_stage(), 10, last_epoch=3, base="current")


def test_current_counts_until_a_state_is_loaded() -> None:
    optimizer = first_stage()
    optimizer.param_groups[0]["lr"] = 1e-5
    scheduler = Linear(optimizer, 10, base="current")
    run(optimizer, scheduler, 4)
    state = scheduler.state_dict()
    fresh = sgd(1e-5)
    fresh.load_state_dict(optimizer.state_dict())
    resumed = Linear(fresh, 10, base="current")
    with pytest.warns(UserWarning, match="base lr of group 0 is the checkpoint's 1e-05"):
        resumed.load_state_dict(state)
    assert run(fresh, resumed, 6) == pytest.approx([1e-5 * (1 - t / 10) for t in range(4, 10)])


# Others at the same time


def plateau(optimizer: torch.optim.Optimizer) -> torch_lr.ReduceLROnPlateau:
    return torch_lr.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)


def with_plateau(make: Any, steps: int, load: Any = None, at: int = 0, **options: Any) -> tuple[list[float], Any]:
    """Used lrs when the loss stands still from step 4 to 6."""
    optimizer = make()
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.zeros_like(p)
    ours, theirs = Linear(optimizer, 20, **options), plateau(optimizer)
    if load:
        optimizer.load_state_dict(load[0]), ours.load_state_dict(load[1]), theirs.load_state_dict(load[2])
    used = []
    for step in range(at, steps):
        used.append(lr_of(optimizer))
        optimizer.step()
        ours.step()
        theirs.step(1.0 if step in (4, 5) else -step)
    return used, copy.deepcopy((optimizer.state_dict(), ours.state_dict(), theirs.state_dict()))


def test_an_lr_that_others_set_is_overruled_and_said() -> None:
    with pytest.warns(UserWarning, match="set to 0.075 by Linear and is 0.0375 now.*others='multiply'") as caught:
        used, _ = with_plateau(sgd, 10)
    assert len(caught) == 1
    expected = [0.1 * (1 - t / 20) for t in range(10)]
    expected[5], expected[6] = expected[5] / 2, expected[6] / 2  # until the next step
    assert used == pytest.approx(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_plateau(sgd, 10, others="overrule")[0] == used


@pytest.mark.parametrize("make", [sgd, lambda: AdamW([parameter()], lr=torch.tensor(0.1))])
def test_a_plateau_beside_a_schedule(make: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        used, _ = with_plateau(make, 10, others="multiply")
        factors = [1.0] * 5 + [0.5] + [0.25] * 4
        assert used == pytest.approx([0.1 * (1 - t / 20) * factor for t, factor in enumerate(factors)], rel=1e-6)
        for at in range(10):
            load = with_plateau(make, at, others="multiply")[1]
            assert with_plateau(make, 10, load, at, others="multiply")[0] == used[at:]


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_chained_with_torchs(order: slice) -> None:
    optimizer = sgd()
    ours = WSD(optimizer, 20, 3, others="multiply")
    chained = torch_lr.ChainedScheduler([ours, torch_lr.ExponentialLR(optimizer, 0.9)][order], optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        used = run(optimizer, chained, 19)
    f = WSD.schedule(3).resolve(20)
    assert used == pytest.approx([0.1 * f(t) * 0.9**t for t in range(19)])

    optimizer = sgd()
    ours = WSD(optimizer, 20, 3)
    chained = torch_lr.ChainedScheduler([ours, torch_lr.ExponentialLR(optimizer, 0.9)], optimizer)
    with pytest.warns(UserWarning, match="something else sets it too"):
        run(optimizer, chained, 3)


def test_ours_are_multiplied_as_schedules() -> None:
    optimizer = sgd()
    run(optimizer, Scheduler(optimizer, Linear.schedule() * Cosine.schedule(), 10), 5)
    assert lr_of(optimizer) == pytest.approx(0.1 * 0.5 * 0.5)

    optimizer = sgd()
    chained = torch_lr.ChainedScheduler([Linear(optimizer, 10, others="multiply"), Cosine(optimizer, 10)], optimizer)
    with pytest.warns(UserWarning, match=r"another schedule sets it too.*a \* b"):
        run(optimizer, chained, 5)
    assert "lr_scale" not in optimizer.param_groups[0]


def test_an_lr_of_float32_is_nobody_elses() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        optimizer = AdamW([parameter()], lr=torch.tensor(0.1, dtype=dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(optimizer, Cosine(optimizer, 10), 10)
