"""Scheduler in plain loops: what it writes, what it counts, and what of torch's schedulers does not happen here."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_lr

import optzoo.schedulers as schedulers
from optzoo.optimizers import AdamW, AdEMAMix, Lookahead
from optzoo.schedulers import WSD, Cosine, CosineRestarts, Linear, OneCycle, Schedule, Scheduler, Track
from support.scheduled import EXACT, EXACT_SCHEDULE, parameter, run, sgd


def test_the_exact_list() -> None:
    optimizer = sgd()
    assert run(optimizer, Scheduler(optimizer, EXACT_SCHEDULE, 10), 10) == pytest.approx(EXACT, abs=5e-5)


def test_no_wasted_first_step() -> None:
    optimizer = sgd()
    assert run(optimizer, WSD(optimizer, 100, 4), 5) == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


# Groups


def test_groups_keep_their_proportions() -> None:
    optimizer = torch.optim.SGD(
        [{"params": [parameter()], "lr": 1.0, "lr_scale": 0.5}, {"params": [parameter()], "lr": 0.01, "name": "head"}]
    )
    scheduler = Linear(
        optimizer, 10, end=0.1, groups={"head": [{"start": 0, "hold": 4}, {"jump": 1}, {"hold": "rest"}]}
    )
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.5 * 0.55, 0.01])
    assert scheduler.value_at(3) == pytest.approx([0.5 * 0.73, 0])
    assert scheduler.base_lrs == [1.0, 0.01]


def test_overrides_by_index_and_by_key() -> None:
    optimizer = sgd(groups=3, weight_decay=0.1)
    scheduler = Scheduler(
        optimizer,
        "linear",
        10,
        tracks={"weight_decay": "follow"},
        groups={
            0: "constant",
            "1": {"lr": "cosine", "weight_decay": {"mode": "set", "schedule": [{"start": 0.3, "hold": "rest"}]}},
        },
    )
    assert scheduler.value_at(2) == pytest.approx([0.1, 0.1 * 0.9045084972, 0.08])
    assert scheduler.value_at(2, "weight_decay") == pytest.approx([0.1, 0.3, 0.08])


@pytest.mark.parametrize("seed", range(10))
def test_groups_added_at_any_time_join(seed: int) -> None:
    """torch's LambdaLR fails with "zip() argument 2 is shorter"."""
    rng, optimizer = random.Random(seed), sgd()
    scheduler = Linear(optimizer, 20, tracks={"momentum": Track("scale", Schedule().to(0))})
    at = rng.randint(0, 15)
    run(optimizer, scheduler, at)
    optimizer.add_param_group({"params": [parameter()], "lr": 0.5, "momentum": 0.9})
    run(optimizer, scheduler, 3)
    t = at + 3
    assert scheduler.get_last_lr() == pytest.approx([0.1 * (1 - t / 20), 0.5 * (1 - t / 20)])
    assert optimizer.param_groups[1]["momentum"] == pytest.approx(0.9 * (1 - t / 20))


def test_tensor_lr_stays_the_tensor_it_is() -> None:
    lr = torch.tensor(0.1)
    optimizer = sgd(lr=lr)
    held = optimizer.param_groups[0]["lr"]
    scheduler = Linear(optimizer, 10)
    run(optimizer, scheduler, 5)
    assert optimizer.param_groups[0]["lr"] is held
    assert float(held) == pytest.approx(0.05)
    last = scheduler.get_last_lr()[0]
    assert isinstance(last, torch.Tensor)
    assert last is not held


# Tracks


def test_tracks() -> None:
    optimizer = torch.optim.AdamW([parameter()], lr=0.1, weight_decay=0.2)
    scheduler = Linear(
        optimizer,
        10,
        end=0.5,
        tracks={
            "weight_decay": {"mode": "follow", "power": -1},
            "betas[0]": {"mode": "set", "schedule": Schedule(0.95).to(0.85, space="halflife")},
            "eps": {"mode": "scale", "schedule": [{"start": 100, "to": 1, "space": "log"}]},
        },
    )
    run(optimizer, scheduler, 5)
    group = optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.075)
    assert group["weight_decay"] == pytest.approx(0.2 / 0.75)
    assert group["lr"] * group["weight_decay"] == pytest.approx(0.1 * 0.2)
    assert group["eps"] == pytest.approx(1e-7)
    assert isinstance(group["betas"], tuple)
    half = [0.95, 0.85]
    expected = 1 / (0.5 / torch.log(torch.tensor(half, dtype=torch.float64))).sum().neg().mul(-1)
    assert group["betas"] == pytest.approx((float(torch.exp(expected)), 0.999))
    assert scheduler.get_last_values()[0].keys() == {"lr", "weight_decay", "betas[0]", "eps"}


def test_one_cycle_with_momentum_is_torchs() -> None:
    theirs, ours = sgd(momentum=0.9), sgd(momentum=0.9)
    reference = torch_lr.OneCycleLR(theirs, 0.1, total_steps=50)
    momentum = OneCycle.schedule(start=0.95, peak=0.85, end=0.95)
    scheduler = OneCycle(ours, 50, tracks={"momentum": {"mode": "set", "schedule": momentum}})
    for _ in range(49):
        for key in ("lr", "momentum"):
            assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key], rel=1e-12)
        theirs.step(), ours.step()
        reference.step(), scheduler.step()


def test_ademamix_tracks_are_its_own_warmups() -> None:
    """Both count the first step as 1, so the grid is "right"; the parameters stay together bit for bit nearly."""
    generator = torch.Generator().manual_seed(0)
    own, tracked = (torch.nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))
    betas = (0.9, 0.999, 0.9999)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a short warm-up
        first = AdEMAMix([own], lr=1e-2, betas=betas, alpha=8.0, beta3_warmup=40, alpha_warmup=40)
    second = AdEMAMix([tracked], lr=1e-2, betas=betas, alpha=8.0)
    scheduler = Scheduler(
        second,
        Schedule().hold(),
        tracks={
            "betas[2]": {
                "mode": "set",
                "schedule": Schedule(0.9).to(0.9999, 40, space="halflife", grid="right").hold(),
            },
            "alpha": {"mode": "scale", "schedule": Schedule(0).to(1, 40, grid="right").hold()},
        },
    )
    for _ in range(60):
        own.grad = torch.randn(4, generator=generator, dtype=torch.float64)
        tracked.grad = own.grad.clone()
        first.step()
        second.step()
        scheduler.step()
    torch.testing.assert_close(tracked, own, rtol=1e-9, atol=1e-12)
    long = Schedule(0.9).to(0.9999, 1000, space="halflife", grid="right").hold().resolve()
    assert [long(t - 1) for t in (1, 100, 500, 900, 1000)] == pytest.approx(
        [0.94996374, 0.99900891, 0.9998002, 0.9998889, 0.9999], abs=5e-9
    )


@pytest.mark.parametrize(
    ("make", "tau"),
    [
        (lambda p: torch.optim.AdamW(p), 2000),
        (lambda p: torch.optim.AdamW(p, betas=(0.9, 0.99)), 200),
        (lambda p: AdamW(p, betas=(0.9, 0.98)), 100),
        (lambda p: AdamW(p, betas=(0.9, 0.95)), 40),
        (lambda p: AdamW(p, betas=(0.9, 0.9)), 20),
        (lambda p: AdEMAMix(p), 2000),  # beta2, not beta3
        (lambda p: torch.optim.RMSprop(p, alpha=0.99), 200),
        (lambda p: Lookahead(p, torch.optim.AdamW), 2000),
        (lambda p: AdamW([{"params": p, "betas": (0.9, 0.95)}, {"params": [parameter()]}]), 2000),
    ],
)
def test_untuned_warmup(make: Callable[[Any], torch.optim.Optimizer], tau: int) -> None:
    scheduler = Scheduler(make([parameter()]), Schedule(0).to(1, "untuned", grid="right").hold())
    assert scheduler.resolved.segments[1].begin == tau
    assert scheduler.resolved(tau // 2 - 1) == pytest.approx(0.5)


# In torch's own


@pytest.mark.parametrize("stage", [1, 2])
def test_in_sequential(stage: int) -> None:
    optimizer = sgd()
    warm = torch_lr.LinearLR(optimizer, start_factor=0.5, total_iters=4)
    ours = Cosine(optimizer, 10)
    order = [ours, warm] if stage == 1 else [warm, ours]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The epoch parameter")  # SequentialLR of torch 2.8 sets it itself
        used = run(optimizer, torch_lr.SequentialLR(optimizer, order, milestones=[5]), 9)
    cosine = [float(0.05 * (1 + torch.cos(torch.tensor(t / 10, dtype=torch.float64) * torch.pi))) for t in range(9)]
    linear = [0.05, 0.0625, 0.075, 0.0875, 0.1]
    assert used == pytest.approx(cosine[:5] + linear[:4] if stage == 1 else linear + cosine[:4])


def test_copies_go_on_alone() -> None:
    for clone in (copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))):
        for clock in ("calls", "optimizer"):
            optimizer = sgd()
            optimizer.param_groups[0] |= {"lr_scale": 0.5, "weight_decay": 0.2}
            scheduler = WSD(optimizer, 20, 2, clock=clock, tracks={"weight_decay": "follow"})
            run(optimizer, scheduler, 7)
            twin = clone(scheduler)
            assert run(twin.optimizer, twin, 13) == pytest.approx(run(optimizer, scheduler, 13))
            assert twin.optimizer is not optimizer
            assert twin.value_at(18) == pytest.approx([0.1 * 0.5 * 0.5])
            assert twin.value_at(18, "weight_decay") == pytest.approx([0.1])


# Edge values at which torch fails or goes wrong


def test_torchs_traps() -> None:
    restarts = CosineRestarts(sgd(1.0), None, first=3, stretch=3)
    restarts.step(363)
    assert restarts.get_last_lr() == [1.0]  # T7: torch says 0
    run(optimizer := sgd(1.0), scheduler := OneCycle(optimizer, 10, 0.1), 10)  # T5: torch divides by zero, and
    assert scheduler.get_last_lr() == pytest.approx([4e-6])  # T6: raises at the last step()
    optimizer = sgd()
    Scheduler(optimizer, Schedule(0.0).to(1, 0).hold())
    assert optimizer.param_groups[0]["lr"] == 0.1
    ours, ramp = sgd(), Cosine
    first = ramp(ours, 10)
    run(ours, first, 5)
    ours.param_groups[0]["lr"] = 77.0  # T1: a change from outside bends the rest of torch's curve
    ours.step()
    first.step()
    assert first.get_last_lr() == first.value_at(6) == pytest.approx([0.0345491503])


# What is refused, before anything has changed

ADAMW = dict(lr=0.1, betas=(0.9, 0.999))
REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda o: Scheduler(torch.nn.Linear(1, 1), "linear", 10), "Linear is not an Optimizer"),  # type: ignore[arg-type]
    (lambda o: Scheduler(o, "linear", 0), "total must be a positive int .* got 0"),
    (lambda o: Scheduler(o, "linear"), "give steps, or the run's total"),
    (lambda o: WSD(o, 100, 90, 0.2), "phases need 110 steps but total is 100"),
    (lambda o: Scheduler(o, [{"start": 1, "to": -0.5, "steps": 10}]), "must not be negative; it comes to -0.5"),
    (lambda o: Scheduler(o, 3), "a schedule is a list of phases"),  # type: ignore[arg-type]
    (lambda o: Linear(o, 10, clock="optimiser"), "unknown clock 'optimiser'; did you mean 'optimizer'"),
    (lambda o: Linear(o, 10, on_change="warm"), "did you mean 'warn'"),
    (lambda o: Linear(o, 10, base="safed"), "did you mean 'saved'"),
    (lambda o: Linear(o, 10, compat="torch"), "unknown compat 'torch'"),
    (lambda o: Linear(o, 10, tracks={"lr": "follow"}), "the lr is what the schedule itself is for"),
    (lambda o: Linear(o, 10, tracks={"betas[2]": "follow"}), r"'betas\[2\]', but betas of group 0 has 2 entries"),
    (lambda o: Linear(o, 10, tracks={"eps[0]": "follow"}), "which has no entries"),
    (lambda o: Linear(o, 10, tracks={"wd": "follow"}), "group 0 has no 'wd'.*weight_decay.*missing='skip'"),
    (lambda o: Linear(o, 10, tracks={"betas": "follow"}), "needs a number in group 0, there is"),
    (lambda o: Linear(o, 10, tracks={"amsgrad": "follow"}), "needs a number in group 0, there is False"),
    (lambda o: Linear(o, 10, tracks={"weight_decay": Schedule().to(0)}), "must say what its schedule is"),
    (lambda o: Linear(o, 10, tracks={"eps": {"mode": "sett", "schedule": "linear"}}), "did you mean 'set'"),
    (lambda o: Linear(o, 10, tracks={"eps": {"mode": "set"}}), "needs a schedule"),
    (lambda o: Linear(o, 10, tracks={"eps": {"mode": "follow", "schedule": "linear"}}), "takes no schedule"),
    (lambda o: Linear(o, 10, tracks={"eps": {"mode": "set", "shedule": "linear"}}), "did you mean 'schedule'"),
    (lambda o: Linear(o, 10, tracks={"weight_decay": {"mode": "follow", "power": -1}}), "the lr comes to 0"),
    (lambda o: Linear(o, 10, groups={"head": "constant"}), r"no group 'head'; .*groups 0 to 0, names 'body'"),
    (lambda o: Linear(o, 10, groups={1: "constant"}), "no group 1"),
    (lambda o: Linear(o, 10, last_epoch=5), "load the optimizer's state first"),
    (lambda o: Scheduler(o, [{"to": 1, "steps": "3ep"}, {"hold": "rest"}], 10), "'3ep' needs steps_per_epoch"),
    (lambda o: Linear(o, 10, "untuned", groups={0: "constant"}), "phases need 2000 steps"),
    (lambda o: Linear(torch.optim.SGD([parameter()], lr=0.1), 10, "untuned"), "SGD has no beta2"),
    (lambda o: Linear(torch.optim.RAdam([parameter()]), 10, "untuned"), "RAdam warms up by itself"),
    (lambda o: Linear(o, 10, warmups=3), "warmups"),  # type: ignore[call-arg]
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused(make: Callable[[Any], Any], message: str) -> None:
    optimizer = torch.optim.AdamW([{"params": [parameter()], "name": "body"}], **ADAMW)
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    with pytest.raises((ValueError, TypeError), match=message):
        make(optimizer)
    assert {key: value for key, value in optimizer.param_groups[0].items() if key != "params"} == before
    assert not optimizer._optimizer_step_post_hooks


def test_missing_skip_leaves_groups_out() -> None:
    optimizer = sgd(groups=2)
    optimizer.param_groups[1]["extra"] = 2.0
    scheduler = Linear(optimizer, 10, tracks={"extra": {"mode": "follow", "missing": "skip"}})
    run(optimizer, scheduler, 5)
    assert "extra" not in optimizer.param_groups[0]
    assert optimizer.param_groups[1]["extra"] == pytest.approx(1.0)


def test_every_name_is_there() -> None:
    for name in schedulers.__all__:
        assert getattr(schedulers, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Lineer'"):
        schedulers.Lineer  # noqa: B018
