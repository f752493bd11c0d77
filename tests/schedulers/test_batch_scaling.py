"""The rules for another batch size, in numbers and on the optimizers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optzoo.optimizers import DoG, Lookahead, create_optimizer, list_optimizers
from optzoo.optimizers.core.closures import step_on_gradients
from optzoo.schedulers import Schedule
from optzoo.schedulers.batch_scaling import batch_scaling

ADAM = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("kappa", "rule", "betas"),
    [
        (4, "sde", (0.6, 0.996)),
        (4, "halflife", (0.6561, 0.996006)),
        (4, "keep", (0.9, 0.999)),
        (0.25, "sde", (0.975, 0.99975)),
        (0.25, "halflife", (0.974, 0.99975)),
        (16, "halflife", (0.9**16, 0.999**16)),
        (1, "sde", (0.9, 0.999)),
    ],
)
def test_adam(kappa: float, rule: str, betas: tuple[float, float]) -> None:
    new = batch_scaling(ADAM, kappa, betas=rule).settings
    assert new["betas"] == pytest.approx(betas, abs=5e-6)
    assert new["lr"] == pytest.approx(1e-3 * math.sqrt(kappa), rel=1e-12)
    assert new["eps"] == pytest.approx(1e-8 / math.sqrt(kappa), rel=1e-12)


def test_a_memory_that_cannot_be_so_short() -> None:
    with pytest.raises(ValueError, match=r"betas\[0\]=0.9 at 16 times .* would become -0.6.*halflife'.* 0.185302"):
        batch_scaling(ADAM, 16)
    with pytest.raises(ValueError, match=r"momentum=0.5 at 2 times"):
        batch_scaling(dict(lr=1.0, momentum=0.5, dampening=0), 2, betas="sde")


SETTINGS = dict(
    lr=0.1,
    betas=(0.0, 0.99, 0.999),
    eps=1e-6,
    weight_decay=0.1,
    decoupled_weight_decay=True,
    ema_decay=0.999,
    batch_size=32,
    total=1001,
    warmup=100,
    cooldown=0.2,
    total_steps=None,
    alpha=5.0,
    beta3_warmup=10,
    amsgrad=False,
    name="run",
    schedule=Schedule(0).to(1, 100).hold().to(0, 0.2),
)


def test_settings() -> None:
    given = copy.deepcopy(SETTINGS)
    scaled = batch_scaling(given, 4)
    assert given == SETTINGS
    new = scaled.settings
    expected = dict(
        lr=0.2, eps=5e-7, weight_decay=0.2, ema_decay=0.999**4, batch_size=128, total=250, warmup=25, cooldown=0.2,
        total_steps=None, alpha=5.0, beta3_warmup=3, amsgrad=False, name="run", decoupled_weight_decay=True,
        schedule=Schedule(0).to(1, 25).hold().to(0, 0.2),
    )  # fmt: skip
    assert new.pop("betas") == pytest.approx((0.0, 0.96, 0.996))
    assert new == {key: pytest.approx(value) if type(value) is float else value for key, value in expected.items()}
    assert scaled.table == str(scaled)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in scaled.table.splitlines()[1:]}
    assert rows["total"] == "1001 -> 250 / 4 = 250.25, rounded"
    assert rows["betas"] == "(0, 0.99, 0.999) -> (0, 0.96, 0.996) 1 - β x 4"
    assert rows["ema_decay"] == "0.999 -> 0.996006 ρ^4"
    assert scaled.table.endswith("unchanged: alpha, amsgrad, cooldown, decoupled_weight_decay, name, total_steps")


def test_linear_rule() -> None:
    sgd = dict(lr=0.1, momentum=0.9, dampening=0, weight_decay=1e-4, nesterov=True, eps=1e-8, warmup=10)
    new = batch_scaling(sgd, 4).settings
    assert new == {**sgd, "lr": pytest.approx(0.4), "warmup": 3}
    assert batch_scaling(sgd, 1e-3).settings["warmup"] == 10_000
    assert batch_scaling(sgd, 1e3).settings["warmup"] == 1


@pytest.mark.parametrize("betas", ["sde", "halflife"])
def test_momentum_that_is_a_sum_takes_lr_along(betas: str) -> None:
    """SGD's steps add up to lr / (1-μ) times a gradient: this is what the rule is for."""
    new = batch_scaling(dict(lr=0.1, momentum=0.9, dampening=0), 4, betas=betas)
    assert new.settings["momentum"] == pytest.approx(0.6 if betas == "sde" else 0.6561)
    assert new.settings["lr"] / (1 - new.settings["momentum"]) == pytest.approx(4 * 0.1 / (1 - 0.9))
    assert "for momentum" in new.table
    rmsprop = dict(lr=0.01, momentum=0.9, alpha=0.99, centered=False, eps=1e-8)
    new = batch_scaling(rmsprop, 4, betas=betas)
    assert new.settings["lr"] / (1 - new.settings["momentum"]) == pytest.approx(2 * 0.01 / (1 - 0.9))
    assert new.settings["alpha"] == pytest.approx(0.96 if betas == "sde" else 0.99**4)


def test_noise_dominated_adam_moves_alike() -> None:
    """Adam on gradients that are all noise, of 1/√κ the size and 1/κ of the steps: the same deviation in the end."""
    rng = torch.Generator().manual_seed(0)
    spread = {}
    for kappa in (1, 4):
        options = batch_scaling({**ADAM, "eps": 1e-2}, kappa).settings if kappa > 1 else {**ADAM, "eps": 1e-2}
        w = nn.Parameter(torch.zeros(4000))
        optimizer = torch.optim.Adam([w], **options)
        for _ in range(2000 // kappa):
            w.grad = torch.randn(4000, generator=rng) / math.sqrt(kappa)
            optimizer.step()
        spread[kappa] = w.std().item()
    assert spread[4] == pytest.approx(spread[1], rel=0.05)


@pytest.mark.parametrize("name", [*list_optimizers(), "torch Adam", "torch SGD", "torch RMSprop", "torch AdamW"])
def test_optimizers(name: str) -> None:
    """Ours and torch's: changed by ``apply()`` alone, steps and loads as one made with the new settings."""
    of_torch = name.partition(" ")[2]
    make: Callable[..., Any] = (
        getattr(torch.optim, of_torch) if of_torch else lambda p, **o: create_optimizer(name, p, **o)
    )
    params = parameters()
    optimizer = make(params, lr=0.01, weight_decay=0.1)
    before = copy.deepcopy(optimizer.state_dict()["param_groups"])
    rule = None if {"betas", "dampening", "centered"} & set(before[0]) else "sqrt"
    if rule:
        with pytest.raises(ValueError, match=rf"no rule is known for {type(optimizer).__name__}; choose"):
            batch_scaling(optimizer, 2)
    scaled = batch_scaling(optimizer, 2, rule)
    assert optimizer.state_dict()["param_groups"] == before
    scaled.apply()
    scaled.apply()  # which changes no more
    group, old = optimizer.param_groups[0], before[0]
    linear = "dampening" in old
    assert group["lr"] == pytest.approx(0.01 * (2 if linear else math.sqrt(2)))
    assert scaled.settings[0] == {k: v for k, v in group.items() if k != "params"}
    decoupled = old.get("decoupled_weight_decay", of_torch == "AdamW") and not linear  # said from torch 2.7 on
    assert group["weight_decay"] == pytest.approx(0.1 * (math.sqrt(2) if decoupled else 1))
    if "betas" in old:
        assert group["betas"] == pytest.approx([1 - 2 * (1 - beta) for beta in old["betas"]])
        assert type(group["betas"]) is type(old["betas"])
    if isinstance(old.get("eps"), float) and not linear:
        assert group["eps"] == pytest.approx(old["eps"] / math.sqrt(2))
    for option in ("lr", "betas", "eps"):
        assert optimizer.defaults.get(option) == group.get(option)
    for p in params:
        p.grad = torch.ones_like(p)
    step_on_gradients(optimizer)
    assert all(torch.isfinite(p).all() for p in params)


def test_groups_schedules_and_tensors() -> None:
    """Each group from its own values; under a scheduler the base lr too; a Tensor lr stays the same Tensor."""
    a, b = parameters()
    lr = torch.tensor(0.01)
    optimizer = torch.optim.AdamW([{"params": [a], "lr": lr}, {"params": [b], "betas": (0.5, 0.9)}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5)
    scaled = batch_scaling(optimizer, 4, betas="halflife")
    assert float(lr) == pytest.approx(0.005)
    scaled.apply()
    first, second = optimizer.param_groups
    assert first["lr"] is lr
    assert [float(first["lr"]), second["lr"]] == pytest.approx([0.01, 0.1])
    assert [float(first["initial_lr"]), second["initial_lr"]] == pytest.approx([0.02, 0.2])
    assert second["betas"] == pytest.approx((0.5**4, 0.9**4))
    assert "group 1 betas" in scaled.table
    assert "x √4" in scaled.table
    assert scheduler.get_last_lr()


def test_around_another_optimizer() -> None:
    """Lookahead's period is a length; both share the groups."""
    optimizer = Lookahead(parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, k=10)
    batch_scaling(optimizer, 4).apply()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.4)
    assert optimizer.param_groups[0]["lookahead_k"] == 3
    assert optimizer.param_groups[0]["lookahead_alpha"] == 0.5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: batch_scaling(ADAM, 0), ValueError, "factor must be new batch size / old, a finite number > 0, got 0"),
        (lambda: batch_scaling(ADAM, math.nan), ValueError, "got nan"),
        (lambda: batch_scaling(ADAM, True), ValueError, "got True"),
        (lambda: batch_scaling(ADAM, "2"), ValueError, "got '2'"),
        (lambda: batch_scaling(ADAM, 2, "square"), ValueError, "rule must be 'linear', 'sqrt' or None, got 'square'"),
        (lambda: batch_scaling(ADAM, 2, betas="ema"), ValueError, "betas must be 'sde', .* or None, got 'ema'"),
        (lambda: batch_scaling([ADAM], 2), TypeError, "takes an optimizer or a dict of settings, got list"),
        (
            lambda: batch_scaling({"lr": 1.0}, 2),
            ValueError,
            "no rule is known for settings with lr; choose rule='linear'",
        ),
        (lambda: batch_scaling(DoG(parameters()), 2), ValueError, "no rule is known for DoG; choose"),
        (lambda: batch_scaling({**ADAM, "weight_decay": 0.1}, 2), ValueError, "weight_decay=0.1 may be AdamW's or L2"),
        (
            lambda: batch_scaling({**ADAM, "lr": "1e-3"}, 2),
            ValueError,
            r"lr must be a number in \[0, inf\), got '1e-3'",
        ),
        (lambda: batch_scaling({**ADAM, "lr": -1}, 2), ValueError, "lr must be a number .* got -1"),
        (
            lambda: batch_scaling({"betas": (0.9, 1.0)}, 2),
            ValueError,
            r"betas\[1\] must be a number in \[0, 1\), got 1.0",
        ),
        (
            lambda: batch_scaling({**ADAM, "ema_decay": 2}, 2),
            ValueError,
            r"ema_decay must be a number in \[0, 1\), got 2",
        ),
        (lambda: batch_scaling(ADAM, 2).apply(), TypeError, r"apply\(\) is for optimizers"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
