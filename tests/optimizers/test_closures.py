"""What a second evaluation of a closure sees, and what it leaves behind: nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import (
    PSGDLRA,
    SAM,
    Cautious,
    Lookahead,
    PSGDDense,
    PSGDNewton,
    create_optimizer,
    list_optimizers,
)
from optzoo.optimizers.core.closures import Evaluations, calls_backward, evaluated
from support.checkpoints import differences


class Noisy(nn.Module):
    """Dropout, averages of batch norm, and a buffer that is another's view of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(4, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.5),
            nn.Linear(6, 1),
        )
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        self.register_buffer("positions", torch.arange(8).expand(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.spectral(self.drop(self.norm(self.first(x)))))  # type: ignore[no-any-return]


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def closure_of(model: nn.Module, seen: list[float] | None = None, run: Any = None) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        model.zero_grad()
        loss = (model if run is None else run)(X).square().mean()
        loss.backward()
        if seen is not None:
            seen.append(loss.item())
        return loss  # type: ignore[no-any-return]

    return closure


def again(model: nn.Module, closure: Callable[[], Any], *, keep: bool, moves: float = 0.0) -> None:
    params = list(model.parameters())
    with torch.no_grad():
        evaluations = Evaluations(closure, params)
        evaluations.first("Test", "")
        with evaluations.again(params, keep_gradients=keep):
            for p in params:
                p.add_(moves)
            evaluated(closure)


def left(model: nn.Module) -> list[Any]:
    return [model.state_dict(), [p.grad for p in model.parameters()], torch.get_rng_state()]


@pytest.mark.filterwarnings("ignore:Using .torch.compile")  # which says that the hook is called for both modules
@pytest.mark.parametrize("compiled", [False, True])
def test_what_two_evaluations_leave_is_what_one_leaves(compiled: bool) -> None:
    """Averages, spectral norm's vectors, random numbers, gradients and weights; and both compute the same."""
    once, twice, seen = Noisy(), Noisy(), []
    runs = [torch.compile(m, backend="aot_eager") if compiled else m for m in (once, twice)]
    torch.manual_seed(2)
    closure_of(once, run=runs[0])()
    expected = left(once)
    torch.manual_seed(2)
    again(twice, closure_of(twice, seen, runs[1]), keep=True)
    assert differences(left(twice), expected) == []
    assert once.norm.num_batches_tracked == 1
    if not compiled:
        assert torch.nn.modules.module._global_forward_pre_hooks == {}
    (first, second), last = seen, twice.spectral.parametrizations.weight[0]
    assert last.training
    assert first == pytest.approx(second, rel=0.2)  # power iteration has gone on by one
    twice.spectral.eval()
    again(twice, closure_of(twice, seen, runs[1]), keep=True)
    assert seen[2] == seen[3]


@pytest.mark.parametrize("keep", [True, False])
def test_an_error_leaves_what_the_first_evaluation_left(keep: bool) -> None:
    once, twice, calls = Noisy(), Noisy(), []
    torch.manual_seed(2)
    closure_of(once)()
    expected = left(once)

    def closure() -> Tensor:
        calls.append(closure_of(twice)())
        if len(calls) == 2:
            raise KeyError("batch")
        return calls[0]  # type: ignore[no-any-return]

    torch.manual_seed(2)
    with pytest.raises(KeyError, match="batch"):
        again(twice, closure, keep=keep, moves=0.3)
    assert differences(left(twice), expected) == []


def test_weights_come_back_by_copy() -> None:
    """1e8 would swallow them in a sum and a difference."""
    model = nn.Linear(4, 3)
    before = [p.detach().clone() for p in model.parameters()]
    again(model, closure_of(model), keep=False, moves=1e8)
    assert differences([p.detach() for p in model.parameters()], before) == []


def test_modules_that_do_not_run_are_not_looked_at() -> None:
    model, idle = nn.Linear(4, 3), nn.BatchNorm1d(3)
    closure, calls = closure_of(model), []

    def also_writes() -> Tensor:
        calls.append(idle.running_mean.add_(1))  # type: ignore[union-attr]
        return closure()

    again(model, also_writes, keep=False)
    assert idle.running_mean.tolist() == [2.0] * 3  # type: ignore[union-attr, operator]


def test_generators_of_devices_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of the CPU: back to where they were at first, and on to where the first evaluation left them."""

    class Device:
        state = 0

        def get_rng_state(self, device: Any) -> int:
            assert device == torch.device("cuda", 1)
            return self.state

        def set_rng_state(self, state: int, device: Any) -> None:
            self.state = state

    device, seen = Device(), []
    monkeypatch.setattr(torch, "get_device_module", lambda _: device)
    monkeypatch.setattr(Evaluations, "_devices_of", staticmethod(lambda params: [torch.device("cuda", 1)]))
    model = nn.Linear(4, 3)

    def closure() -> Tensor:
        seen.append(device.state)
        device.state += 5
        return closure_of(model)()

    again(model, closure, keep=False)
    again(model, closure, keep=True)
    assert (seen, device.state) == ([0, 0, 5, 5], 10)


def test_autocast_does_not_keep_the_weights_from_before() -> None:
    """Within autocast weights are cast once: without care the second evaluation has those of the first."""
    model, seen = nn.Linear(4, 3), []
    with torch.autocast("cpu", torch.bfloat16):
        again(model, closure_of(model, seen), keep=False, moves=1.0)
        assert seen[0] != seen[1]
        assert closure_of(model, seen)().item() == seen[0]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (torch.optim.SGD, None),
        (torch.optim.LBFGS, True),
        (Lookahead, None),
        (lambda params: Lookahead(params, torch.optim.LBFGS), True),
        (lambda params: Cautious(params, PSGDNewton), False),
        (lambda params: PSGDNewton(params, hessian="finite_difference"), True),
        (PSGDDense, False),
        (PSGDLRA, None),
        (SAM, True),
        (lambda params: Lookahead(SAM(params)), True),
    ],
)
def test_an_optimizer_says_what_closure_it_needs(make: Any, expected: bool | None) -> None:
    assert calls_backward(make([nn.Parameter(torch.ones(2))])) is expected


def test_it_is_the_same_for_each_of_these() -> None:
    params: Sequence[Tensor] = [nn.Parameter(torch.ones(2))]
    assert {calls_backward(create_optimizer(name, params)) for name in list_optimizers()} == {None, True, False}
