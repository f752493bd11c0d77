"""Errors found in other implementations of these optimizers (with the library that had each) are not made here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import AdamW, AdEMAMix, CAdamW, CLion, create_optimizer, list_optimizers, optimizer_info
from support.cases import facts
from support.problems import gradients, tensors, trajectory

each = pytest.mark.parametrize("name", list_optimizers())


def last_move(name: str, rows: Sequence[Sequence[float]], start: float = 0.0, **options: Any) -> Tensor:
    """How far the last of several steps moves a vector, in float64."""
    p = nn.Parameter(torch.full((len(rows[0]),), start, dtype=torch.float64))
    optimizer = create_optimizer(name, [p], **{"lr": 1.0, "weight_decay": 0.0, **options})
    path = trajectory(optimizer, [p], [[torch.tensor(row, dtype=torch.float64)] for row in rows])
    return path[-1][0] - (path[-2][0] if len(path) > 1 else start)


@pytest.mark.parametrize("foreach", [None, False])
def test_parameters_of_a_group_follow_one_schedule(foreach: bool | None) -> None:
    """bitsandbytes computed α(t) from itself inside the loop, so that the k-th parameter had α·(t/T)^k."""
    rows = [row * 3 for row in gradients(6, [(4,)])]
    params = [nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(3)]
    optimizer = AdEMAMix(params, lr=0.01, alpha_warmup=8, beta3_warmup=40, betas=(0.9, 0.999, 0.95), foreach=foreach)
    trajectory(optimizer, params, rows)
    assert torch.equal(params[0], params[1])
    assert torch.equal(params[0], params[2])


@pytest.mark.parametrize(
    ("name", "expected"), [("grams", 1.0), ("ademamix", 1 + 5 * 1e-4), ("adamw", 1.0), ("cadamw", 1.0), ("clion", 1.0)]
)
def test_size_of_the_first_step(name: str, expected: float) -> None:
    """kozistr's Grams made 50.6 lr; its AdEMAMix divided α·m2 by 1-β1^t: 1.0050 lr; the paper's C-Lion makes 2/3 lr."""
    move = last_move(name, [[3.0, -0.2]], **({"eps": 0.0} if "eps" in optimizer_info(name).defaults else {}))
    torch.testing.assert_close(move, torch.tensor([-expected, expected], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("name", [name for name in list_optimizers() if not facts(name).sign_of_gradient])
def test_masked_coordinates_stay(name: str, foreach: bool | None) -> None:
    """C-Optim's foreach path masked by m·m, so nothing stayed; HeavyBall's sign bits tell zeros of both signs apart."""
    rows = [[1.0] * 4] * 3 + [[1.0, -1e-3, 0.0, -0.0]]
    plain = last_move(name, rows, cautious=False, foreach=foreach)
    masked = last_move(name, rows, cautious=True, foreach=foreach)
    assert (plain < 0).all()
    torch.testing.assert_close(masked, plain * torch.tensor([4.0, 0.0, 0.0, 0.0]), rtol=1e-12, atol=0)


def test_the_mask_covers_the_whole_update_of_ademamix() -> None:
    """kozistr masked m1 alone. Here m1 agrees with the gradient, -1, and m̂1 + α m2 = -1 + 5·0.486 does not."""
    options = {"betas": (0.0, 0.999, 0.9), "cautious_scale": None}
    rows = [[1.0]] * 10 + [[-1.0]]
    assert last_move("ademamix", rows, cautious=False, **options) < -0.1
    assert last_move("ademamix", rows, cautious=True, **options) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("zeros", [0, 70_000])
def test_seventy_thousand_coordinates_are_counted(dtype: torch.dtype, zeros: int) -> None:
    """Counted in fp16 they overflow and nothing moves (C-Optim, kozistr); in bf16 the scale is up to 0.4 % off."""
    p = nn.Parameter(torch.zeros(70_000 + zeros, dtype=dtype))
    p.grad = torch.ones_like(p)
    p.grad[70_000:] = 0
    CLion([p], lr=2**-7).step()
    assert (p[:70_000] == -(2**-7) * (2 if zeros else 1)).all()
    assert not p[70_000:].any()


def test_agreement_is_seen_where_the_product_underflows() -> None:
    ends = []
    for optimizer_class in (AdamW, CAdamW):
        p = nn.Parameter(torch.zeros(3))
        p.grad = torch.full_like(p, 1e-30)
        optimizer_class([p]).step()
        ends.append(p.detach())
    assert (ends[0] < 0).all()
    assert torch.equal(*ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("name", [name for name in list_optimizers() if not optimizer_info(name).closure])
def test_gradients_belong_to_the_user(name: str, dtype: torch.dtype) -> None:
    """The authors' Grams leaves sign(g)|m| in ``p.grad``, all of kozistr's its decayed or negated gradient."""
    defaults = optimizer_info(name).defaults
    for cautious, decoupled, maximize in itertools.product([False, True], repeat=3):
        options = {"decoupled_weight_decay": decoupled} if "decoupled_weight_decay" in defaults else {}
        params = [nn.Parameter(t) for t in tensors([(), (3, 4)], dtype)]
        optimizer = create_optimizer(
            name, params, weight_decay=0.1 * decoupled, cautious=cautious, maximize=maximize, **options
        )
        for p, g in zip(params, tensors([(), (3, 4)], dtype, seed=1), strict=True):
            p.grad = g
        grads = [p.grad for p in params]
        before = [(g.clone(), g._version) for g in grads]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert all(
            torch.equal(g, bits) and g._version == version for g, (bits, version) in zip(grads, before, strict=True)
        )
        optimizer.zero_grad(set_to_none=False)
        assert all(p.grad is g and not g.any() for p, g in zip(params, grads, strict=True))


@each
def test_weight_decay_of_a_zero_gradient(name: str) -> None:
    """kozistr's AdEMAMix put λθ into the gradient, which the moments turn into a full lr."""
    options = {"decoupled_weight_decay": True} if "decoupled_weight_decay" in optimizer_info(name).defaults else {}
    move = last_move(name, [[0.0]], start=2.0, lr=0.1, weight_decay=0.1, **options)
    step_size = (1e-6 * (1 + 2)) / 1e-8**0.5 if facts(name).joint else 1  # which is what DoG decays by
    torch.testing.assert_close(move.item(), -0.1 * step_size * 0.1 * 2.0, rtol=1e-10, atol=0)


@each
def test_warm_up_from_zero(name: str) -> None:
    """lucidrains' Lion refuses lr = 0, and multiplies λ by the lr it was made with."""
    p = nn.Parameter(torch.full((2,), 2.0, dtype=torch.float64))
    options = {"decoupled_weight_decay": True} if "decoupled_weight_decay" in optimizer_info(name).defaults else {}
    optimizer = create_optimizer(name, [p], lr=0.0, weight_decay=0.1, **options)
    trajectory(optimizer, [p], gradients(3, [(2,)]))
    assert (p == 2.0).all()
    optimizer.param_groups[0]["lr"] = 0.01
    trajectory(optimizer, [p], gradients(4, [(2,)])[3:])
    assert optimizer.state[p]["step"] == 4
    assert (p != 2.0).all()


@pytest.mark.parametrize("betas", [(0.9, 0.999, 0.95), (0.0, 0.999, 0.95)], ids=str)
def test_schedules_of_ademamix_at_their_edges(betas: tuple[float, float, float]) -> None:
    """With β1 = 0 kozistr and bitsandbytes take log(0), with T = 0 they divide by it."""
    rows = [[1.0, -2.0], [0.5, 1.0], [-1.0, 0.1]]
    assert last_move("ademamix", rows, betas=betas, beta3_warmup=40).isfinite().all()
    without = last_move("ademamix", rows, betas=betas)
    assert torch.equal(last_move("ademamix", rows, betas=betas, alpha_warmup=0, beta3_warmup=0), without)
