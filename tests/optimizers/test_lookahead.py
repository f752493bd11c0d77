"""Lookahead does what its paper says, and not what other implementations of it are known to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optzoo.compare.toys import lookahead_variance, stationary_variance
from optzoo.optimizers import AdamW, Lion
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.lookahead import Lookahead
from reference import Reference
from reference import lookahead as paper
from support.problems import SHAPES, gradients, tensors, trajectory

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


def parameters(shapes: Any = SHAPES, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(shapes, dtype)]


def scalar(value: float, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=dtype))


def step(optimizer: torch.optim.Optimizer, *grads: float | None) -> list[float]:
    """One step on these gradients of all parameters, and where it gets to."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else torch.full_like(p, g)
    optimizer.step()
    return [p.item() for p in params]


# The paper

INNER: Mapping[str, tuple[Callable[[], Any], Any]] = {
    "SGD": (lambda: paper.Momentum(0.05, 0.9), partial(torch.optim.SGD, lr=0.05, momentum=0.9)),
    "AdamW": (lambda: Reference("adamw", lr=0.01, weight_decay=0.1), partial(AdamW, lr=0.01, weight_decay=0.1)),
    "torch AdamW": (
        lambda: Reference("adamw", lr=0.01, weight_decay=0.1),
        partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    ),
    "Lion": (lambda: Reference("lion", lr=0.01), partial(Lion, lr=0.01)),
    "CAdamW": (lambda: Reference("cadamw", lr=0.01), partial(Cautious, lr=0.01)),
}


@pytest.mark.filterwarnings("ignore:pullback_momentum='reset'")
@pytest.mark.parametrize("momentum", ["none", "reset", "pullback"])
@pytest.mark.parametrize(("k", "alpha"), list(product([1, 2, 5], [0.3, 0.5, 1.0])))
@pytest.mark.parametrize("inner", INNER)
def test_it_equals_the_paper(inner: str, k: int, alpha: float, momentum: str) -> None:
    """At every step; the third tensor has no gradient at some of them, among them steps that sync."""
    reference, make = INNER[inner]
    params, rows = parameters(), gradients(11)
    optimizer = Lookahead(params, make, k, alpha, pullback_momentum=momentum)
    expected = paper.run(reference(), [p.detach().numpy().copy() for p in params], rows, k, alpha, momentum)
    for ours, theirs in zip(trajectory(optimizer, params, rows), expected, strict=True):
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), q, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("base", [AdamW, partial(torch.optim.AdamW, fused=True), torch.optim.SGD], ids=str)
def test_with_alpha_1_it_is_the_base_bit_for_bit(base: Any, dtype: torch.dtype) -> None:
    ends = []
    for make in (base, partial(Lookahead, base=base, k=2, alpha=1.0, pullback_momentum="pullback")):
        params = parameters(dtype=dtype)
        ends.append(trajectory(make(params, lr=0.01), params, gradients(7, dtype=dtype)))
    exactly(*ends)


@pytest.mark.parametrize("eta", [0.1, 0.5])
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (5, 0.8), (10, 0.5)])
def test_variance_on_a_noisy_quadratic(eta: float, k: int, alpha: float) -> None:
    """f = (x - c)²/2 with c ~ N(0, 1): the stationary variance of 20,000 runs is the paper's within 3 %."""
    sgd, expected = lookahead_variance(eta, k, alpha)
    variance = stationary_variance(partial(Lookahead, base=torch.optim.SGD, k=k, alpha=alpha), eta)
    assert variance == pytest.approx(expected, rel=0.03)
    assert expected < 0.8 * sgd


# What other implementations got wrong


def test_it_syncs_after_steps_k_2k_3k() -> None:
    """timm starts k steps late; jettify syncs after steps 1, k+1, ... from the weights after step 1."""
    optimizer = Lookahead([scalar(8.0)], torch.optim.SGD, k=3, lr=1.0)
    path = [step(optimizer, 1.0)[0] for _ in range(7)]
    assert path == [7.0, 6.0, 6.5, 5.5, 4.5, 5.0, 4.0]


def test_weights_loaded_after_construction_stay() -> None:
    """The authors' class takes its slow weights in the constructor, and pulls 10 back to 5 on zero gradients."""
    w = scalar(0.0)
    optimizer = Lookahead([w], torch.optim.SGD, lr=0.1)
    w.data.fill_(10.0)
    assert [step(optimizer, 0.0)[0] for _ in range(5)] == [10.0] * 5


def test_pullback_brings_momentum_back_to_a_copy() -> None:
    """The authors' slow momentum is the buffer itself from the first sync on, and nothing is pulled back again."""
    w = scalar(0.0)
    optimizer = Lookahead([w], torch.optim.SGD, k=1, pullback_momentum="pullback", lr=1.0, momentum=0.5)
    momenta = []
    for _ in range(3):
        step(optimizer, 1.0)
        momenta.append(optimizer.state[w]["momentum_buffer"].item())
    # b ← b/2 + 1, then half-way back to the b of the sync before: 1 -> 1/2, 5/4 -> 7/8, 23/16 -> 37/32
    assert momenta == [0.5, 0.875, 1.15625]
    state = optimizer.state[w]
    assert state["lookahead_slow_momentum_buffer"].data_ptr() != state["momentum_buffer"].data_ptr()


def test_a_parameter_without_gradient_at_a_sync_takes_part() -> None:
    """timm and kozistr leave it ahead of the others."""
    optimizer = Lookahead([scalar(4.0), scalar(4.0)], torch.optim.SGD, k=2, lr=1.0)
    step(optimizer, 1.0, 1.0)
    assert step(optimizer, 1.0, None) == [3.0, 3.5]


def test_no_momentum_is_put_into_optimizers_without() -> None:
    """kozistr puts a zero momentum_buffer into the state of every optimizer."""
    params = parameters()
    optimizer = Lookahead(params, torch.optim.RMSprop, k=2, pullback_momentum="pullback")
    trajectory(optimizer, params, gradients(3))
    assert {key for state in optimizer.state.values() for key in state} == {"step", "square_avg", "lookahead_slow"}


def test_zero_grad_before_the_first_step() -> None:
    """kozistr/pytorch_optimizer#122: without the hooks torch makes in its constructor the step after it fails."""
    w = scalar(1.0)
    optimizer = Lookahead([w], torch.optim.SGD, lr=1.0)
    w.grad = torch.ones_like(w)
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.item() == 0.0
    optimizer.zero_grad()
    assert w.grad is None
    optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["lookahead_step"] == 1


# Groups, momentum, precision


def test_groups_have_options_of_their_own_which_may_change() -> None:
    slow, fast = scalar(8.0), scalar(8.0)
    groups = [{"params": [slow], "lookahead_k": 3}, {"params": [fast], "lookahead_alpha": 1.0}]
    optimizer = Lookahead(groups, torch.optim.SGD, k=2, lr=1.0)
    assert [step(optimizer, 1.0, 1.0) for _ in range(3)] == [[7.0, 7.0], [6.0, 6.0], [6.5, 5.0]]
    optimizer.param_groups[0]["lookahead_k"] = 1
    assert step(optimizer, 1.0, 1.0) == [6.0, 4.0]


def test_an_added_group_syncs_with_the_others() -> None:
    first, added = scalar(8.0), scalar(8.0)
    optimizer = Lookahead([first], torch.optim.SGD, k=3, lr=1.0)
    step(optimizer, 1.0)
    optimizer.add_param_group({"params": [added]})
    assert [group["lookahead_step"] for group in optimizer.param_groups] == [1, 1]
    assert [step(optimizer, 1.0, 1.0) for _ in range(2)] == [[6.0, 7.0], [6.5, 7.0]]


def test_slow_weights_start_at_the_first_gradient() -> None:
    """Frozen and changed from outside until then."""
    early, late = scalar(4.0), scalar(4.0)
    optimizer = Lookahead([early, late], torch.optim.SGD, k=2, lr=1.0)
    step(optimizer, 1.0, None)
    late.data.fill_(100.0)
    assert step(optimizer, 1.0, None) == [3.0, 100.0]
    assert step(optimizer, 1.0, 2.0) == [2.0, 98.0]
    assert step(optimizer, 1.0, 2.0) == [2.0, 98.0]


def test_resetting_the_momentum_of_adam_warns_once() -> None:
    params = parameters()
    optimizer = Lookahead(params, k=2, pullback_momentum="reset")
    with pytest.warns(UserWarning, match="zeroes exp_avg of AdamW, whose bias correction") as caught:
        trajectory(optimizer, params, gradients(5))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trajectory(Lookahead(params, Lion, k=2, pullback_momentum="reset"), params, gradients(3))


def test_momentum_is_what_has_the_shape_of_the_parameter() -> None:
    """Adafactor's statistics are of rows and columns; momentum_keys may name other state."""
    params = parameters()
    keys = ("row_var", "col_var", "variance")
    make = partial(Lookahead, base=torch.optim.Adafactor, k=2, momentum_keys=keys)
    optimizer = make(params, pullback_momentum="pullback")
    trajectory(optimizer, params, gradients(4))
    slow = [[key for key in optimizer.state[p] if key.startswith("lookahead_slow_")] for p in params]
    assert slow == [["lookahead_slow_variance"] if p.dim() < 2 else [] for p in params]


def test_slow_weights_of_bfloat16_are_float32() -> None:
    """What moves by less than an ulp at every sync adds up: 512 steps of 1/256 of the way to 1 + 2 ulp."""
    w = scalar(1.0, torch.bfloat16)
    optimizer = Lookahead([w], torch.optim.SGD, k=1, alpha=2**-8, lr=1.0)
    up = 2**-6
    for _ in range(512):
        step(optimizer, w.item() - 1 - up)  # to 1 + 2 ulp
    assert optimizer.state[w]["lookahead_slow"].dtype == torch.float32
    assert optimizer.state[w]["lookahead_slow"].item() == pytest.approx(1 + up * (1 - (1 - 2**-8) ** 512), rel=1e-4)
    assert w.item() == 1 + up


def test_complex_parameters() -> None:
    z = nn.Parameter(torch.complex(*tensors([(5, 3), (5, 3)])))
    pair = nn.Parameter(torch.view_as_real(z.detach().clone()))
    for p in (z, pair):
        optimizer = Lookahead([p], k=2, lr=0.1, pullback_momentum="pullback")
        for seed in range(5):
            (g,) = tensors([(5, 3, 2)], seed=seed)
            p.grad = torch.view_as_complex(g) if p is z else g
            optimizer.step()
    exactly(torch.view_as_real(z.detach()), pair.detach())


def test_a_base_that_needs_its_closure() -> None:
    """L-BFGS evaluates it many times in a step: the slow weights are those from before all of them."""
    target = tensors([(6,)], seed=1)[0]
    start, params = parameters([(6,)]), parameters([(6,)])
    plain = torch.optim.LBFGS(start, lr=0.3, max_iter=3)
    optimizer = Lookahead(params, torch.optim.LBFGS, k=1, alpha=0.25, lr=0.3, max_iter=3)
    calls = 0

    def closure(w: Tensor) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            nonlocal calls
            calls += 1
            w.grad = None
            loss = ((w - target) ** 4).sum()
            loss.backward()
            return loss

        return evaluate

    before = params[0].detach().clone()
    first = plain.step(closure(start[0]))
    assert optimizer.step(closure(params[0])) == first
    assert calls > 4
    torch.testing.assert_close(params[0].detach(), torch.lerp(before, start[0].detach(), 0.25), rtol=1e-14, atol=1e-14)
    for _ in range(200):
        last = optimizer.step(closure(params[0]))
    assert last < 1e-4 * first
