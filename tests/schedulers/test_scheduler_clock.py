"""The clock of a Scheduler: what it counts, whoever steps, and what it warns of."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_lr

from optzoo.optimizers import AdamW, Cautious, Lookahead
from optzoo.schedulers import WSD, Linear, OneCycle, Schedule, Scheduler
from support.scheduled import EXACT, EXACT_SCHEDULE, parameter, run, sgd


def test_clock_of_the_optimizer() -> None:
    optimizer = sgd()
    scheduler = Scheduler(optimizer, EXACT_SCHEDULE, 10, clock="optimizer")
    used = []
    for _ in range(10):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for _ in range(3):
            scheduler.step()  # as Accelerate with three processes
    assert used == pytest.approx(EXACT, abs=5e-5)


def test_skipped_steps_of_a_scaler_do_not_count() -> None:
    p = parameter()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(torch.ones(1))
    for make in (torch.optim.SGD, torch.optim.Adam):
        for fused in (False, True):  # fused optimizers are stepped, and skip by themselves
            optimizer = make([p], lr=0.1, fused=fused)
            scheduler = Linear(optimizer, 10, clock="optimizer")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for value in (float("inf"), 1.0, float("nan"), 1.0):
                    p.grad = torch.full_like(p, value)
                    scaler.step(optimizer)
                    scaler.update()
                    scheduler.step()
            assert scheduler.last_epoch == 2
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.08)


def test_clock_in_tokens() -> None:
    optimizer = sgd()
    scheduler = Linear(optimizer, 1000, clock="tokens")
    scheduler.step()
    assert scheduler.get_last_lr() == [0.1]
    scheduler.advance(250)
    scheduler.advance(0.5)
    assert scheduler.get_last_lr() == pytest.approx([0.1 * 0.7495])
    scheduler.step_to(500)
    assert scheduler.get_last_lr() == pytest.approx([0.05])
    with pytest.raises(ValueError, match="the clock goes forward"):
        scheduler.advance(-1)


def test_called_once_an_epoch() -> None:
    optimizer = sgd()
    scheduler = Scheduler(optimizer, EXACT_SCHEDULE, 10)
    for _ in range(5):
        optimizer.step()
    with pytest.warns(
        UserWarning, match=r"once per 5 optimizer steps, and total is 10.*'interval': 'step'.*clock='epochs'"
    ):
        scheduler.step()
    for clock, total in (("epochs", 10), ("calls", 3)):
        optimizer = sgd()
        scheduler = Linear(optimizer, total, clock=clock)
        for _ in range(5):
            optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler.step()


def test_no_warning_of_the_order_of_calls() -> None:
    optimizer = sgd()
    scheduler = Linear(optimizer, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
        scheduler.step()
        optimizer.step()


def test_the_end_is_said_once() -> None:
    optimizer = sgd()
    scheduler = Linear(optimizer, 3, end=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(optimizer, scheduler, 3)
    with pytest.warns(UserWarning, match="ended at 3 with value 0: this and later updates do nothing") as caught:
        run(optimizer, scheduler, 5)
    assert len(caught) == 1
    assert optimizer.param_groups[0]["lr"] == 0


@pytest.mark.parametrize(
    "wrap",
    [
        lambda p: Lookahead(p, torch.optim.SGD, lr=0.1),
        lambda p: Cautious(p, AdamW, lr=0.1),
        lambda p: Lookahead(AdamW(p, lr=0.1)),
    ],
)
@pytest.mark.parametrize("clock", ["calls", "optimizer"])
def test_wrappers(wrap: Callable[[Any], torch.optim.Optimizer], clock: str) -> None:
    optimizer = wrap([parameter()])
    assert run(optimizer, Linear(optimizer, 10, clock=clock), 5) == pytest.approx([0.1, 0.09, 0.08, 0.07, 0.06])


def test_optimizer_step_is_not_replaced() -> None:
    """torch's schedulers wrap it, and fail on a compiled one, which has no ``__func__``."""
    optimizer = sgd()
    step = optimizer.step
    optimizer.step = lambda *a, **k: step(*a, **k)  # type: ignore[method-assign]
    mine = optimizer.step
    with pytest.raises(AttributeError, match="__func__"):
        torch_lr.LinearLR(sgd_with(step=mine))
    run(optimizer, Linear(optimizer, 10), 3)
    assert optimizer.step is mine


def sgd_with(step: Any) -> torch.optim.SGD:
    optimizer = sgd()
    optimizer.step = step
    return optimizer


@pytest.mark.compiled
@pytest.mark.slow
@pytest.mark.parametrize("clock", ["calls", "optimizer"])
def test_compiled_step(clock: str) -> None:
    p = parameter()
    optimizer = torch.optim.SGD([p], lr=torch.tensor(0.1))
    scheduler = Linear(optimizer, 10, clock=clock)
    p.grad = torch.ones_like(p)

    @torch.compile(backend="eager")
    def step() -> None:
        optimizer.step()

    used = []
    for _ in range(6):
        used.append(float(optimizer.param_groups[0]["lr"]))
        step()
        scheduler.step()
    assert used == pytest.approx([0.1, 0.09, 0.08, 0.07, 0.06, 0.05])
    assert p.tolist() == pytest.approx([1 - 0.45] * 2)


class Foreign(torch.optim.Optimizer):
    """An optimizer around another, made without torch's constructor, so without hooks."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.inner.step()


def test_optimizers_without_hooks() -> None:
    optimizer = Foreign(sgd())
    assert run(optimizer, Linear(optimizer, 10), 3) == pytest.approx([0.1, 0.09, 0.08])
    with pytest.raises(ValueError, match=r"Foreign has no step hooks.*clock='calls'"):
        Linear(optimizer, 10, clock="optimizer")


def test_one_cycle_as_a_later_stage() -> None:
    """T4: torch's rewrites initial_lr when it is made, so that the first stage runs at a 25th of its lr."""
    optimizer = sgd()
    stages = [torch_lr.LinearLR(optimizer, start_factor=0.5, total_iters=3), OneCycle(optimizer, 10)]
    used = run(optimizer, torch_lr.SequentialLR(optimizer, stages, milestones=[3]), 6)
    assert used == pytest.approx([0.05, 0.2 / 3, 0.25 / 3, 0.004, 0.052, 0.1])


def test_a_scheduler_that_nobody_holds_is_kept_by_its_optimizer() -> None:
    optimizer = sgd()
    Linear(optimizer, 10, clock="optimizer")
    gc.collect()
    used = []
    for _ in range(6):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert used == pytest.approx([0.1, 0.09, 0.08, 0.07, 0.06, 0.05])


def test_what_an_optimizer_keeps_goes_with_it() -> None:
    optimizer = sgd()
    gone = weakref.ref(optimizer), weakref.ref(Linear(optimizer, 10, clock="optimizer"))
    del optimizer
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_the_hook_of_a_scheduler_that_is_gone_leaves() -> None:
    optimizer = sgd()
    gone = weakref.ref(Linear(optimizer, 10))
    assert gone() is None
    assert not optimizer._optimizer_step_post_hooks
    kept = [Linear(optimizer, 10) for _ in range(3)]
    assert len(optimizer._optimizer_step_post_hooks) == 3
    kept.pop(1)
    assert len(optimizer._optimizer_step_post_hooks) == 2


def test_remove() -> None:
    optimizer = sgd()
    scheduler = Linear(optimizer, 10, clock="optimizer")
    optimizer.step()
    scheduler.remove()
    scheduler.remove()
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.09)
    assert scheduler.last_epoch == 1
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("make", [torch.optim.SGD, AdamW, lambda p, lr: Lookahead(p, AdamW, lr=lr)])
def test_copies_of_an_optimizer_count_once(make: Any) -> None:
    """Hooks are not copied, as in torch: a scheduler that is copied too finds the copy, else the copy has none."""
    optimizer = make([parameter()], lr=0.1)
    scheduler = Linear(optimizer, 10, clock="optimizer")
    optimizer.step()
    twin, counting = copy.deepcopy((optimizer, scheduler))
    assert twin is counting.optimizer
    alone = copy.deepcopy(optimizer)
    for stepped in (twin, alone):
        stepped.step()
    assert counting.last_epoch == 2
    assert [o.param_groups[0]["lr"] for o in (optimizer, twin, alone)] == pytest.approx([0.09, 0.08, 0.09])


def test_a_new_schedule_takes_the_place_of_one_that_counts_itself() -> None:
    """As a cell of a notebook that is run again."""
    optimizer = sgd(weight_decay=0.1)
    first = Linear(optimizer, 10, clock="optimizer", tracks={"weight_decay": "follow"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = Linear(optimizer, 10, clock="optimizer", tracks={"weight_decay": "follow"})  # nothing is lost
        assert len(optimizer._optimizer_step_post_hooks) == 1
        optimizer.step()
    with pytest.warns(UserWarning, match="Linear, which counted.*ends at step 1 of 10: WSD takes its place"):
        second = WSD(optimizer, 20, 4, clock="optimizer", tracks={"weight_decay": "follow"})
    optimizer.step()
    assert (first.last_epoch, second.last_epoch) == (1, 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    for _ in range(19):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Linear(optimizer, 10, tracks={"weight_decay": "follow"})  # a second stage after the end of the first
    assert second.last_epoch == 20


def test_a_schedule_with_further_keys_stays() -> None:
    optimizer = sgd(weight_decay=0.1)
    decay = Linear(optimizer, 10, clock="optimizer", tracks={"weight_decay": "follow"})
    lr = Linear(optimizer, 20, clock="optimizer")
    with pytest.warns(UserWarning, match="another schedule sets it too, and the last one wins"):
        run(optimizer, lr, 5)
    assert decay.last_epoch == 5
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.075)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.05)


def test_two_schedulers_on_one_optimizer() -> None:
    optimizer = sgd(weight_decay=0.1)
    lr = Linear(optimizer, 10)
    decay = Scheduler(
        optimizer, Schedule().hold(), tracks={"weight_decay": {"mode": "scale", "schedule": Schedule().to(0, 5).hold()}}
    )
    for _ in range(3):
        optimizer.step()
        decay.step()
        lr.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.07)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.04)


def test_no_total_steps() -> None:
    """Accelerate stops calling step() of what has an attribute of this name."""
    assert not hasattr(Linear(sgd(), 10), "total_steps")
