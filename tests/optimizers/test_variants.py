"""Where the authors' code does something else than their paper: by how much, as the docstrings say."""

from __future__ import annotations

import inspect
from math import log

import pytest
import torch

from optzoo.optimizers import Adafactor, AdEMAMix, Lookahead
from optzoo.optimizers.core.scalars import Namespace


def says(cls: type, *parts: str) -> None:
    text = " ".join((inspect.getdoc(cls) or "").split())
    assert all(part in text for part in parts)


@pytest.mark.parametrize(("beta3", "off"), [(0.999, 1e-5), (0.9999, 1e-4)])
def test_the_authors_warm_up_of_beta3(beta3: float, off: float) -> None:
    """Half-lives ln(1/2) / ln(β + 1e-8) - 1, between which they interpolate."""

    def half_life(beta: float) -> float:
        return log(0.5) / log(beta + 1e-8) - 1

    worst = 0.0
    for step in range(1, 1000):
        h = Namespace()
        h.step, h.alpha, h.alpha_warmup, h.beta3_warmup, h.schedule_start = step, 5.0, None, 1000, 0
        h.beta1, h.beta2, h.beta3, h.eps = 0.9, 0.999, beta3, 1e-8
        AdEMAMix.scalars(h)
        middle = (1 - step / 1000) * half_life(0.9) + step / 1000 * half_life(beta3)
        worst = max(worst, abs((1 - 0.5 ** (1 / (middle + 1))) / h.slow_weight - 1))
    assert worst == pytest.approx(off, rel=0.02)
    says(AdEMAMix, "ln(β + 1e-8) for ln β", f"{off:.0e}".replace("e-0", "e-"), f"{beta3}")


def test_the_authors_pullback() -> None:
    """Their slow momentum is the momentum itself, which a sync multiplies in place before it adds a part of it."""
    w = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    sgd = {"lr": 0.0, "momentum": 0.9}
    optimizer = Lookahead([w], torch.optim.SGD, k=5, alpha=0.5, pullback_momentum="pullback", **sgd)
    theirs, cached = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for step in range(1, 501):
        w.grad = torch.ones_like(w)
        optimizer.step()
        theirs.mul_(0.9).add_(1)
        if step % 5 == 0:
            theirs.mul_(0.5).add_(cached, alpha=0.5)
            cached = theirs
    ours = optimizer.state[w]["momentum_buffer"].item()
    assert ours == pytest.approx(10.0)
    assert 1 - theirs.item() / ours == pytest.approx(0.45, abs=0.005)
    says(Lookahead, "b ← α (2 - α) b", "0.45 less")


def test_the_decay_of_t5x_and_optax() -> None:
    """(1 - λ) θ there, (1 - ρ λ) θ here."""
    w = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = Adafactor([w], weight_decay=1e-2)  # at ρ = 1e-2
    w.grad = torch.zeros_like(w)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full_like(w, 1 - 1e-4), rtol=1e-15, atol=0)
    says(Adafactor, "T5X and optax have (1 - λ) θ: 1e-4 there, at ρ = 1e-2, is 1e-2 here")
