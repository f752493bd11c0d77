"""Cautious around any optimizer: the option's own results where both apply, and its rules elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import lion_pytorch
import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import Adam, CAdamW, CLion
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.lookahead import Lookahead
from support.checkpoints import differences
from support.features import needs, needs_option
from support.problems import SHAPES, gradients, tensors, trajectory

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
closely = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def parameters(dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(shapes, dtype)]


def run(make: Any, steps: int = 8, dtype: torch.dtype = torch.float64, **options: Any) -> list[Tensor]:
    params = parameters(dtype)
    return trajectory(make(params, **options), params, gradients(steps, dtype=dtype))[-1]


# Where the option applies too

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "decay": {"weight_decay": 0.3},
    "large floor": {"cautious_floor": 0.75, "weight_decay": 0.1},
    "xi": {"cautious_scale": "xi", "weight_decay": 0.1},
    "unscaled": {"cautious_scale": None, "weight_decay": 0.1},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "lr tensor": {"lr": torch.tensor(0.02, dtype=torch.float64), "weight_decay": 0.3},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_around_adamw_of_torch_it_is_cadamw(options: Mapping[str, Any]) -> None:
    options = {"lr": 0.02, **options}
    closely(run(partial(Cautious, base=torch.optim.AdamW), **options), run(CAdamW, **options))
    if not isinstance(options["lr"], Tensor):
        closely(run(partial(Cautious, base=torch.optim.AdamW, fused=True), **options), run(CAdamW, **options))


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("decoupled_weight_decay", [False, True])
def test_around_adam_of_torch_it_is_cautious_adam(decoupled_weight_decay: bool, options: Mapping[str, Any]) -> None:
    """Coupled decay enters the gradient that the mask compares with."""
    needs_option(torch.optim.Adam, "decoupled_weight_decay")
    options = {"lr": 0.02, **options, "decoupled_weight_decay": decoupled_weight_decay}
    closely(run(partial(Cautious, base=torch.optim.Adam), **options), run(partial(Adam, cautious=True), **options))


def test_around_lion_of_others_it_is_clion() -> None:
    """lucidrains' Lion has no key that says how it decays: a group may."""
    lion = lion_pytorch.Lion
    closely(run(partial(Cautious, base=lion), lr=0.01, betas=(0.9, 0.99)), run(CLion, lr=0.01))
    params = parameters()
    optimizer = Cautious([{"params": params, "weight_decouple": True}], lion, lr=0.01, weight_decay=0.3)
    closely(trajectory(optimizer, params, gradients(8))[-1], run(CLion, lr=0.01, weight_decay=0.3))


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_decay_is_neither_masked_nor_scaled_where_it_is_decoupled(name: str) -> None:
    """With zero gradients all of the step is masked and only the decay remains."""
    needs(f"torch.optim.{name}", hasattr(torch.optim, name))
    (p,) = parameters(shapes=[(3, 4)])
    start = p.detach().clone()
    optimizer = Cautious([p], getattr(torch.optim, name), lr=0.1, weight_decay=0.5)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    exactly(p.detach(), start * (1 - 0.1 * 0.5))


COUPLED = ["SGD", "Adam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD"]


@pytest.mark.parametrize("name", COUPLED)
def test_the_mask_compares_with_the_gradient_of_the_penalty_where_it_is_coupled(name: str) -> None:
    """g = 0.1 and λθ = -0.5 have opposite signs, and it is the latter that these optimizers follow."""
    p = nn.Parameter(torch.tensor([-5.0, 5.0], dtype=torch.float64))
    plain = nn.Parameter(p.detach().clone())
    for w, wrap in ((p, Cautious), (plain, lambda optimizer: optimizer)):
        optimizer = wrap(getattr(torch.optim, name)([w], lr=0.1, weight_decay=0.1))
        w.grad = torch.full_like(w, 0.1)
        optimizer.step()
    exactly(p.detach(), plain.detach())
    assert plain[0] > -5.0


def test_all_of_the_step_is_compared_where_decay_is_unknown() -> None:
    class Decaying(torch.optim.Optimizer):
        """θ ← θ - lr (g + λθ), which is no optimizer Cautious knows."""

        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1, "weight_decay": 0.1})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad + 0.1 * p, alpha=0.1)

    p = nn.Parameter(torch.tensor([-5.0, 5.0], dtype=torch.float64))
    p.grad = torch.full_like(p, 0.1)
    Cautious([p], Decaying, cautious_scale=None).step()
    exactly(p.detach(), torch.tensor([-5.0, 5 - 0.1 * 0.6], dtype=torch.float64))


def test_around_an_optimizer_of_the_library_it_is_the_option() -> None:
    """Bit for bit, per group as well; nothing is copied."""
    ends = []
    for make in (partial(Cautious, base=Adam), partial(Adam, cautious=True)):
        params = parameters()
        groups = [{"params": params[:3], "cautious": False}, {"params": params[3:], "cautious_scale": "xi"}]
        optimizer = make(groups, lr=0.02, cautious_floor=0.5)
        assert [group["cautious_floor"] for group in optimizer.param_groups] == [0.5, 0.5]
        ends.append(trajectory(optimizer, params, gradients(5))[-1])
    assert differences(*ends) == []
    optimizer = Cautious(Adam(parameters()))
    assert optimizer.before_step({}) == []
    assert optimizer.param_groups[0]["cautious"] is optimizer.defaults["cautious"] is True


# What it leaves as it is


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [None, "floor"])
def test_masked_coordinates_keep_their_bits_and_kept_ones_those_of_the_base(
    scale: str | None, dtype: torch.dtype
) -> None:
    """Where nothing is scaled: without a scale, or in a tensor that is kept whole."""
    params, plain = parameters(dtype), parameters(dtype)
    optimizer = Cautious(params, torch.optim.SGD, lr=0.01, momentum=0.9, cautious_scale=scale)
    base = torch.optim.SGD(plain, lr=0.01, momentum=0.9)
    kept = masked = 0
    for row in gradients(6, dtype=dtype):
        with torch.no_grad():
            torch._foreach_copy_(plain, params)
        before = [p.detach().clone() for p in params]
        trajectory(optimizer, params, [row])
        trajectory(base, plain, [row])
        for p, q, start, g in zip(params, plain, before, row, strict=True):
            agree = torch.zeros_like(q, dtype=torch.bool) if g is None else (start - q).sign() * g.sign() > 0
            exactly(p.detach()[~agree], start[~agree])
            masked += int((~agree).sum())
            if scale is None or agree.all():
                exactly(p.detach()[agree], q.detach()[agree])
                kept += int(agree.sum())
    assert masked > 500
    assert kept > (1000 if scale is None else 3)


def test_gradients_state_and_parameters_without_gradient_are_left_alone() -> None:
    params = parameters()
    optimizer = Cautious(params, torch.optim.RMSprop, lr=0.01, weight_decay=0.1)
    for row in gradients(3):
        for p, g in zip(params, row, strict=True):
            p.grad = None if g is None else g.clone()
        idle = params[2].detach().clone()
        optimizer.step()
        if row[2] is None:
            exactly(params[2].detach(), idle)
        exactly([p.grad for p in params], row)
    assert {key for state in optimizer.state.values() for key in state} == {"step", "square_avg"}


def test_a_group_may_be_left_out() -> None:
    """And switched on in the run."""
    params, plain = parameters(), parameters()
    optimizer = Cautious(
        [{"params": params[:3]}, {"params": params[3:], "cautious": False}], torch.optim.SGD, lr=0.01, momentum=0.9
    )
    base = torch.optim.SGD(plain, lr=0.01, momentum=0.9)
    ours, theirs = (trajectory(o, ps, gradients(4))[-1] for o, ps in ((optimizer, params), (base, plain)))
    exactly(ours[3:], theirs[3:])
    assert not torch.equal(ours[2], theirs[2])
    optimizer.param_groups[1]["cautious"] = True
    ours, theirs = (trajectory(o, ps, gradients(4))[-1] for o, ps in ((optimizer, params), (base, plain)))
    assert not torch.equal(ours[4], theirs[4])


def test_sparse_gradients_are_refused_before_anything_moves() -> None:
    embedding, weight = nn.Embedding(5, 2, sparse=True), nn.Parameter(torch.ones(2))
    groups = [{"params": [weight]}, {"params": embedding.parameters()}]
    optimizer = Cautious(groups, torch.optim.SGD, lr=1.0)
    start = embedding.weight.detach().clone()
    (embedding(torch.tensor([1])) * weight).sum().backward()
    with pytest.raises(RuntimeError, match=r"parameter 0 of its group \(shape \(5, 2\)\) is torch.sparse_coo.*False"):
        optimizer.step()
    exactly(weight.detach(), torch.ones(2))
    exactly(embedding.weight.detach(), start)
    optimizer.param_groups[1]["cautious"] = False
    optimizer.step()
    assert not torch.equal(embedding.weight.detach(), start)
    assert not torch.equal(weight.detach(), torch.ones(2))


def test_complex_parameters_are_pairs_of_reals() -> None:
    z, *grads = (torch.complex(*tensors([(5, 3), (5, 3)], seed=seed)) for seed in range(6))
    ends = []
    for view in (lambda t: t, torch.view_as_real):
        p = nn.Parameter(view(z.clone()))
        optimizer = Cautious([p], torch.optim.AdamW, lr=0.01, weight_decay=0.1)
        ends.append(trajectory(optimizer, [p], [[view(g)] for g in grads])[-1][0])
    exactly(torch.view_as_real(ends[0]), ends[1])


def test_tiny_gradients_agree_too() -> None:
    """Their product with the step underflows; signs do not."""
    p = nn.Parameter(torch.zeros(2))
    optimizer = Cautious([p], torch.optim.SGD, lr=1.0)
    p.grad = torch.tensor([1e-30, -1e-30])
    optimizer.step()
    exactly(p.detach(), torch.tensor([-1e-30, 1e-30]))


def test_decay_in_low_precision_is_not_taken_for_a_step() -> None:
    """lr λ below the precision of bfloat16 changes nothing in the base, so nothing is there to be masked or scaled."""
    p = nn.Parameter(torch.full((4,), 3.0, dtype=torch.bfloat16))
    optimizer = Cautious([p], torch.optim.AdamW, lr=1e-4, weight_decay=0.1)
    p.grad = torch.full_like(p, -1.0)
    optimizer.step()
    exactly(p.detach(), torch.full((4,), 3.0, dtype=torch.bfloat16))


def test_inside_lookahead() -> None:
    """Slow weights follow the masked steps."""
    params, plain = parameters(), parameters()
    optimizer = Lookahead(Cautious(torch.optim.AdamW(params, lr=0.02)), k=4, alpha=1.0)
    exactly(
        trajectory(optimizer, params, gradients(8)),
        trajectory(Cautious(torch.optim.AdamW(plain, lr=0.02)), plain, gradients(8)),
    )
