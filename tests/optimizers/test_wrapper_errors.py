"""Wrappers refuse what they cannot do, with the argument, its value and a remedy, and change nothing then."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from optzoo.optimizers import AdamW
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.lookahead import Lookahead
from support.checkpoints import differences


class Needy(torch.optim.SGD):
    def __init__(self, params: Any, lr: float, *, horizon: int) -> None:
        super().__init__(params, lr)


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(list_of_one(), lr=0.1)


def list_of_one() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


ERRORS: Mapping[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "k": (lambda: Lookahead(list_of_one(), k=0), ValueError, "Lookahead: k must be an integer >= 1, got 0"),
    "k a float": (lambda: Lookahead(list_of_one(), k=5.0), ValueError, "k must be an integer >= 1, got 5.0"),
    "k a bool": (lambda: Lookahead(list_of_one(), k=True), ValueError, "k must be an integer >= 1, got True"),
    "alpha": (lambda: Lookahead(list_of_one(), alpha=0.0), ValueError, r"alpha must be a number in \(0, 1\], got 0.0"),
    "alpha above": (lambda: Lookahead(list_of_one(), alpha=1.5), ValueError, "alpha must be .* got 1.5"),
    "pullback": (
        lambda: Lookahead(list_of_one(), pullback_momentum="back"),
        ValueError,
        "pullback_momentum must be 'none', 'reset' or 'pullback', got 'back'",
    ),
    "keys": (lambda: Lookahead(list_of_one(), momentum_keys=()), ValueError, "momentum_keys must be a tuple of one"),
    "a key": (lambda: Lookahead(list_of_one(), momentum_keys="exp_avg"), ValueError, "momentum_keys .* 'exp_avg'"),
    "group": (
        lambda: Lookahead([{"params": list_of_one(), "lookahead_k": 0}]),
        ValueError,
        "lookahead_k must be an integer >= 1, got 0",
    ),
    "scale": (lambda: Cautious(list_of_one(), cautious_scale="eps"), ValueError, "cautious_scale must be .* got 'eps'"),
    "floor": (lambda: Cautious(list_of_one(), cautious_floor=0), ValueError, r"cautious_floor must be .*\(0, 1\], got"),
    "floor of a group": (
        lambda: Cautious([{"params": list_of_one(), "cautious_floor": 2}], torch.optim.SGD),
        ValueError,
        r"cautious_floor must be .*\(0, 1\], got 2",
    ),
    "option": (lambda: Lookahead(list_of_one(), bettas=(0.9, 0.99)), TypeError, "did you mean 'betas'"),
    "option of torch": (lambda: Lookahead(list_of_one(), torch.optim.SGD, lrr=1), TypeError, "'lrr'"),
    "name": (lambda: Lookahead(list_of_one(), "sgd"), TypeError, "such as torch.optim.SGD, got 'sgd'"),
    "instance as base": (
        lambda: Lookahead(list_of_one(), sgd()),
        TypeError,
        r"got a SGD; to wrap it, Lookahead\(optimizer\)",
    ),
    "nothing made": (lambda: Lookahead(list_of_one(), list), TypeError, "base must make .*Optimizer, list made list"),
    "missing": (
        lambda: Lookahead(list_of_one(), Needy, lr=0.1),
        TypeError,
        r"Needy needs horizon, .* Lookahead\(params, Needy, horizon=...\), or bind it",
    ),
    "missing in a partial": (
        lambda: Cautious(list_of_one(), partial(Needy, horizon=3)),
        TypeError,
        "base Needy needs lr, which it has no default for",
    ),
    "no parameters": (lambda: Lookahead([]), ValueError, "params is empty"),
    "no parameters for torch": (lambda: Lookahead([], torch.optim.SGD), ValueError, "empty parameter list"),
    "a tensor": (lambda: Lookahead(torch.zeros(2)), TypeError, "iterable of Tensors"),
}


@pytest.mark.parametrize(("make", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


REFUSED: Mapping[str, tuple[Callable[[Any], Any], Callable[[], Any], type[Exception], str]] = {
    "base": (lambda o: Lookahead(o, AdamW), sgd, TypeError, "base is for making .* SGD is made already"),
    "options": (lambda o: Cautious(o, lr=1.0), sgd, TypeError, "lr is for making .* or leave lr out"),
    "k": (lambda o: Lookahead(o, k=-1), sgd, ValueError, "k must be an integer >= 1, got -1"),
    "twice": (
        lambda o: Lookahead(o, k=3),
        lambda: Lookahead(sgd()),
        ValueError,
        "one Lookahead is enough; set k, alpha, pullback_momentum, momentum_keys there",
    ),
    "twice with one between": (
        Lookahead,
        lambda: Lookahead(Cautious(sgd())),
        ValueError,
        "Lookahead around Lookahead: one Lookahead is enough",
    ),
    "cautious twice": (Cautious, lambda: Cautious(AdamW(list_of_one())), ValueError, "one Cautious is enough"),
    "cautious outside": (
        Cautious,
        lambda: Lookahead(sgd()),
        ValueError,
        r"put Cautious inside: Lookahead\(Cautious\(...\)\)",
    ),
    "shared": (
        Lookahead,
        lambda: Lookahead(sgd()).base_optimizer,
        ValueError,
        "SGD has an option 'lookahead_k' already, its own or that of another Lookahead",
    ),
    "cautious shared": (Cautious, lambda: Cautious(sgd()).base_optimizer, ValueError, "an option 'cautious' already"),
    "group": (
        Lookahead,
        lambda: torch.optim.SGD([{"params": list_of_one(), "lookahead_alpha": 2}]),
        ValueError,
        "lookahead_alpha must be .* got 2",
    ),
}


@pytest.mark.parametrize(("wrap", "make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_an_optimizer_that_is_refused_is_not_changed(
    wrap: Callable[[Any], Any], make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    optimizer = make()
    defaults, state = dict(optimizer.defaults), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=message):
        wrap(optimizer)
    assert optimizer.defaults == defaults
    assert differences(optimizer.state_dict(), state) == []


def test_an_added_group_gets_the_options_or_changes_nothing() -> None:
    optimizer = Lookahead(list_of_one(), torch.optim.SGD, k=7)
    with pytest.raises(ValueError, match="lookahead_k must be an integer >= 1, got 0"):
        optimizer.add_param_group({"params": list_of_one(), "lookahead_k": 0})
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group(list_of_one())
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": list_of_one(), "lookahead_alpha": 0.25})
    assert [(group["lookahead_k"], group["lookahead_alpha"]) for group in optimizer.param_groups] == [
        (7, 0.5),
        (7, 0.25),
    ]
