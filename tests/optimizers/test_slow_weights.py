"""Evaluating and saving on Lookahead's slow weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from optzoo.optimizers.lookahead import Lookahead
from support.checkpoints import differences, parameters, walk
from support.problems import tensors

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


def running(dtype: torch.dtype = torch.float64) -> tuple[Lookahead, list[nn.Parameter]]:
    """Two steps after a sync."""
    params = parameters(dtype)
    optimizer = Lookahead(params, k=3, lr=0.1)
    walk(optimizer, params, last=5)
    return optimizer, params


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters_hold_the_slow_weights_for_a_while(dtype: torch.dtype) -> None:
    """Then all is as before, bit for bit, also the float32 slow weights of parameters that cannot hold them."""
    optimizer, params = running(dtype)
    before, fast = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
    slow = [optimizer.state[p]["lookahead_slow"].clone() for p in params]
    with optimizer.slow_weights():
        exactly([p.detach() for p in params], [t.to(dtype) for t in slow])
    assert not any(torch.equal(a.to(dtype), b) for a, b in zip(slow, fast, strict=True))
    exactly([p.detach() for p in params], fast)
    assert differences(optimizer.state_dict(), before) == []


def test_they_are_exchanged_in_place_without_a_copy_of_the_model() -> None:
    optimizer, params = running()
    tensors_before = [(p.data_ptr(), optimizer.state[p]["lookahead_slow"].data_ptr()) for p in params]
    fast = [p.detach().clone() for p in params]
    with optimizer.slow_weights():
        exactly([optimizer.state[p]["lookahead_slow"] for p in params], fast)
        assert [(p.data_ptr(), optimizer.state[p]["lookahead_slow"].data_ptr()) for p in params] == tensors_before


def test_autograd_sees_that_parameters_change() -> None:
    optimizer, params = running()
    loss = (params[3] ** 2).sum()
    with optimizer.slow_weights(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_may_be_taken_within() -> None:
    optimizer, params = running()
    slow = optimizer.state[params[3]]["lookahead_slow"].clone()
    with optimizer.slow_weights():
        (g,) = torch.autograd.grad((params[3] ** 2).sum(), params[3])
    exactly(g, 2 * slow)


FORBIDDEN: Mapping[str, Callable[[Lookahead], Any]] = {
    r"step\(\)": lambda o: o.step(),
    r"sync_now\(\)": lambda o: o.sync_now(),
    r"evaluation_weights\(\)": lambda o: o.slow_weights().__enter__(),
    r"state_dict\(\)": lambda o: o.state_dict(),
    r"load_state_dict\(\)": lambda o: o.load_state_dict({}),
    "a copy": copy.deepcopy,
}


@pytest.mark.parametrize("action", FORBIDDEN)
def test_what_is_forbidden_within_does_nothing_and_all_is_restored(action: str) -> None:
    """An exception leaves the block, so this is also how errors of an evaluation end."""
    optimizer, params = running()
    before, fast = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    message = f"Lookahead: {action} within evaluation_weights.*leave the with block"
    with pytest.raises(RuntimeError, match=message), optimizer.slow_weights():
        FORBIDDEN[action](optimizer)
    exactly([p.detach() for p in params], fast)
    assert differences(optimizer.state_dict(), before) == []
    optimizer.step()
    with optimizer.slow_weights():
        pass


def test_before_the_first_step_they_are_the_parameters() -> None:
    params = parameters()
    optimizer = Lookahead(params)
    with optimizer.slow_weights():
        exactly([p.detach() for p in params], tensors())
    assert not optimizer.state


def test_the_running_statistics_may_be_made_within() -> None:
    """The batch norm of an evaluation on slow weights, say: buffers of the model are not exchanged."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = Lookahead(model.parameters(), torch.optim.SGD, k=2, lr=0.1)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    with optimizer.slow_weights():
        model(torch.ones(4, 3))
    assert model[1].num_batches_tracked == 2


def test_sync_now() -> None:
    optimizer, params = running()
    fast = [p.detach().clone() for p in params]
    slow = [optimizer.state[p]["lookahead_slow"].clone() for p in params]
    optimizer.sync_now()
    exactly([p.detach() for p in params], [torch.lerp(a, b, 0.5) for a, b in zip(slow, fast, strict=True)])
    assert optimizer.param_groups[0]["lookahead_step"] == 0
    optimizer.sync_now()
    exactly([optimizer.state[p]["lookahead_slow"] for p in params], [p.detach() for p in params])
