"""One protocol for all that have weights to evaluate beside those they train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import (
    AdamW,
    Cautious,
    Lookahead,
    PolynomialDecayAverager,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    evaluation_weights,
    has_evaluation_weights,
)
from support.checkpoints import differences, parameters, walk

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)
Holder = Callable[[list[nn.Parameter]], Any]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def averaged(params: list[nn.Parameter]) -> Any:
    """An average of two points."""
    averager = PolynomialDecayAverager(params, gamma=1.0)
    for factor in (0.7, -1.3):
        with torch.no_grad():
            torch._foreach_mul_(params, factor)
        averager.update()
    return averager


def trained(make: Callable[..., Any], params: list[nn.Parameter], **options: Any) -> Any:
    """Five steps."""
    optimizer = make(params, **options)
    walk(optimizer, params, last=5)
    return optimizer


HOLDERS: Mapping[str, Holder] = {
    "Lookahead": partial(trained, Lookahead, k=3, lr=0.1),
    "Lookahead around Cautious": partial(trained, Lookahead, base=Cautious, k=3, lr=0.1),
    "average": averaged,
    "Schedule-Free": partial(trained, ScheduleFreeAdamW, lr=0.1),
    "Cautious around Schedule-Free": partial(trained, Cautious, base=ScheduleFreeSGD, lr=0.1),
}


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", HOLDERS)
def test_the_trained_weights_come_back_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    """However often they are exchanged, in inference mode and out of it; and nothing of the state changes."""
    params = parameters(dtype)
    holder = HOLDERS[name](params)
    state, before, seen = copy.deepcopy(holder.state_dict()), values(params), []
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad, torch.inference_mode):
        with mode(), evaluation_weights(holder):
            seen.append(values(params))
        exactly(values(params), before)
    assert not any(torch.equal(a, b) for a, b in zip(seen[0], before, strict=True))
    exactly(seen, seen[:1] * 4)
    assert differences(holder.state_dict(), state) == []


@pytest.mark.parametrize("name", HOLDERS)
def test_frozen_and_replaced_within(name: str) -> None:
    """What is trained comes back to the parameter that was there; one that has taken its place is left alone."""
    params = parameters()
    model = nn.ParameterList(params)
    holder, before = HOLDERS[name](params), values(params)
    with evaluation_weights(holder):
        params[3].requires_grad_(False)
        params[4].data = params[4].data.clone()
        model[2] = nn.Parameter(torch.full((5,), 7.0, dtype=torch.float64))
    exactly(values(params), before)
    exactly(model[2].detach(), torch.full_like(model[2], 7.0))


@pytest.mark.parametrize("name", HOLDERS)
def test_entered_twice(name: str) -> None:
    params = parameters()
    holder, before = HOLDERS[name](params), values(params)
    message = r"evaluation_weights\(\) within evaluation_weights\(\), where the parameters hold the weights to eval"
    with evaluation_weights(holder):
        within = values(params)
        with pytest.raises(RuntimeError, match=message):
            evaluation_weights(holder).__enter__()
        exactly(values(params), within)
    exactly(values(params), before)


def test_an_evaluation_that_raises_and_one_that_does_not_begin() -> None:
    """Also where putting the weights in fails half-way."""
    params = parameters()
    holder, before = HOLDERS["Lookahead"](params), values(params)
    with pytest.raises(KeyError), evaluation_weights(holder):
        raise KeyError
    exactly(values(params), before)
    slow = holder.state[params[-1]]["lookahead_slow"]
    holder.state[params[-1]]["lookahead_slow"] = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="size of tensor"), evaluation_weights(holder):
        pytest.fail("there are no weights of that shape")
    holder.state[params[-1]]["lookahead_slow"] = slow
    exactly(values(params), before)
    walk(holder, params, last=1)


def test_before_the_first_step_the_block_is_there_too() -> None:
    """A step within it is refused, although there is nothing to put back."""
    params = parameters()
    optimizer = Lookahead(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with evaluation_weights(optimizer), pytest.raises(RuntimeError, match=r"step\(\) within evaluation_weights"):
        optimizer.step()


def test_within_autocast() -> None:
    """Which keeps the copies of parameters that it has made."""
    model, x = nn.Linear(6, 4), torch.ones(2, 6)
    optimizer = Lookahead(model.parameters(), torch.optim.SGD, k=2, lr=1.0)
    model(x).sum().backward()
    optimizer.step()
    with torch.autocast("cpu", torch.bfloat16):
        trained = model(x)
        with evaluation_weights(optimizer):
            within = model(x)
        after = model(x)
    assert not torch.equal(within, trained)
    exactly(after, trained)


def test_lookahead_around_schedule_free() -> None:
    """Its slow weights are those of y; x is there by eval(), and they do not mix."""
    params = parameters()
    optimizer = Lookahead(params, ScheduleFreeSGD, k=3, lr=0.1)
    walk(optimizer, params, last=5)
    before, slow = values(params), [optimizer.state[p]["lookahead_slow"].clone() for p in params]
    with evaluation_weights(optimizer):
        exactly(values(params), slow)
        optimizer.eval()  # as a framework may
        exactly(values(params), slow)
    exactly(values(params), before)
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"Lookahead: evaluation_weights\(\) within"):
        optimizer.evaluation_weights().__enter__()
    with pytest.raises(RuntimeError, match=r"step\(\) within"):
        optimizer.step()
    optimizer.train()
    exactly(values(params), before)


def test_without_such_weights() -> None:
    params = parameters()
    for optimizer in (AdamW(params), torch.optim.SGD(params), Cautious(params)):
        assert not has_evaluation_weights(optimizer)
        with pytest.raises(TypeError, match=r"has none to evaluate but those it trains; wrap it, Lookahead"):
            evaluation_weights(optimizer)
    with pytest.raises(TypeError, match="AdamW has none"):
        Cautious(params).evaluation_weights()


def test_optimizers_of_other_packages_that_have_modes() -> None:
    calls = []

    class Modes(torch.optim.SGD):
        eval = staticmethod(lambda: calls.append("eval"))
        train = staticmethod(lambda: calls.append("train"))

    for optimizer in (Modes(parameters()), Cautious(Modes(parameters()))):
        with evaluation_weights(optimizer):
            assert calls == ["eval"]
        with pytest.raises(KeyError), evaluation_weights(optimizer):
            raise KeyError
        assert calls == ["eval", "train"] * 2
        calls.clear()
