"""Closures of Newton's methods: what they may return, what they see, and what a step leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers.psgd.dense import PSGDDense
from optzoo.optimizers.psgd.lra import PSGDLRA
from optzoo.optimizers.psgd.newton import Evaluation, hessian_vector_products
from support.checkpoints import differences
from support.psgd import Quartic

METHODS = ["exact", "finite_difference"]
methods = pytest.mark.parametrize("method", METHODS)
both = pytest.mark.parametrize("factory", [PSGDDense, PSGDLRA])


def ones(params: Sequence[Tensor]) -> list[Tensor]:
    return [torch.ones_like(p) for p in params]


def closure_for(method: str, params: Sequence[Tensor], loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """One that fits the method."""

    def closure() -> Tensor:
        value = loss()
        if method == "finite_difference":
            for p in params:
                p.grad = None
            value.backward()
        return value

    return closure


def products(method: str, params: Sequence[Tensor], loss: Callable[[], Tensor], probed: Any = None) -> Evaluation:
    with torch.no_grad():
        closure = closure_for(method, params, loss)
        return hessian_vector_products("PSGD", closure, params, probed or params, ones, method=method)


# Products


@methods
def test_products_gradient_and_loss(method: str) -> None:
    problem = Quartic()
    params = problem.params
    before = [p.detach().clone() for p in params]
    evaluation = products(method, params, problem.loss)
    x = torch.cat([p.detach().reshape(-1) for p in params])
    tolerance = 1e-12 if method == "exact" else 1e-6
    expected = torch.from_numpy(problem.hessian(x.numpy())).sum(1)
    found = torch.cat([evaluation.products[p].reshape(-1) for p in params])
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    gradient = torch.cat([evaluation.gradients[p].reshape(-1) for p in params])
    torch.testing.assert_close(gradient, torch.from_numpy(problem.gradient(x.numpy())), rtol=1e-12, atol=1e-12)
    assert evaluation.loss.item() == problem.loss().item()
    assert not differences([p.detach() for p in params], before)
    assert not differences([p.grad for p in params], list(evaluation.gradients.values()))


@methods
def test_parameters_the_gradient_does_not_depend_on(method: str) -> None:
    """A linear one has Hv = 0, one that is not in the loss no gradient, one that is not probed no Hv."""
    linear, square, unused, aside = (nn.Parameter(torch.tensor([2.0], dtype=torch.float64)) for _ in range(4))
    params = [linear, square, unused, aside]

    def loss() -> Tensor:
        return (3 * linear + square**2 + aside**2 * square).sum()

    evaluation = products(method, params, loss, probed=[linear, square, unused])
    assert list(evaluation.gradients) == [linear, square, aside]
    assert evaluation.products.keys() == evaluation.vectors.keys() == {linear, square}
    assert evaluation.products[linear].item() == pytest.approx(0, abs=1e-6)
    assert evaluation.products[square].item() == pytest.approx(2, rel=1e-6)
    only_linear = products(method, [linear], lambda: 3 * linear)
    assert only_linear.products[linear].item() == pytest.approx(0, abs=1e-6)


@methods
def test_products_of_complex_parameters_are_those_of_pairs(method: str) -> None:
    start = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, pairs = nn.Parameter(torch.view_as_complex(start.clone())), nn.Parameter(start.clone())

    def loss(x: Tensor) -> Tensor:
        return (x.pow(4) * torch.arange(1, 7).reshape(3, 2)).sum() + (x[0] * x[1]).sum()

    found = products(method, [z], lambda: loss(torch.view_as_real(z))).products[z]
    hessian: Any = torch.autograd.functional.hessian(loss, pairs.detach())
    v = torch.view_as_real(torch.ones(3, dtype=torch.complex128))
    torch.testing.assert_close(torch.view_as_real(found), (hessian * v).sum((2, 3)), rtol=1e-5, atol=1e-5)


def test_finite_differences_in_low_precision_are_taken_in_float32() -> None:
    p = nn.Parameter(torch.tensor([0.5, 1.0], dtype=torch.bfloat16))
    found = products("finite_difference", [p], lambda: (p.float() ** 2).sum()).products[p]
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, torch.tensor([2.0, 2.0]), rtol=0.1, atol=0)


# What a closure sees


@methods
@pytest.mark.parametrize(("probability", "due"), [(1.0, [1] * 6), (0.5, [1, 0, 1, 0, 1, 0])])
def test_steps_without_an_update_evaluate_once(method: str, probability: float, due: list[int]) -> None:
    problem, calls = Quartic(), 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        return problem.loss()

    optimizer = PSGDDense(problem.params, lr=0.01, hessian=method, precond_update_probability=probability)
    counts = []
    for _ in due:
        calls = 0
        optimizer.step(closure_for(method, problem.params, loss))
        counts.append(calls)
    assert counts == [1 + (method == "finite_difference" and d) for d in due]


def test_dropout_has_one_mask_in_both_evaluations() -> None:
    """And the generator ends up where a single evaluation leaves it."""
    layer, x = nn.Linear(50, 50), torch.ones(50)
    seen = []

    def loss() -> Tensor:
        mask = nn.functional.dropout(torch.ones(50), 0.5)
        seen.append(mask)
        return (layer(x) * mask).square().sum()

    params = list(layer.parameters())
    optimizer = PSGDLRA(params, lr=0.01, hessian="finite_difference")
    torch.manual_seed(0)
    for _ in range(2):
        optimizer.step(closure_for("finite_difference", params, loss))
    after = torch.get_rng_state()
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[1], seen[2])
    torch.manual_seed(0)
    for _ in range(2):
        nn.functional.dropout(torch.ones(50), 0.5)
    assert torch.equal(after, torch.get_rng_state())


@both
@methods
def test_the_global_generator_is_left_alone(factory: Any, method: str) -> None:
    problem = Quartic()
    optimizer = factory(problem.params, lr=0.01, hessian=method)
    before = torch.get_rng_state()
    optimizer.step(closure_for(method, problem.params, problem.loss))
    assert torch.equal(before, torch.get_rng_state())


def test_gradients_do_not_add_up() -> None:
    """A closure that leaves out zero_grad() has the gradient of one evaluation all the same."""
    ends = []
    for clears in (True, False):
        problem = Quartic()
        optimizer = PSGDDense(problem.params, lr=0.05, hessian="finite_difference")

        def closure(problem: Quartic = problem, clears: bool = clears) -> Tensor:
            if clears:
                return problem.backward()
            loss = problem.loss()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        ends.append(problem.params)
    assert not differences(*ends)


def test_an_error_in_the_second_evaluation_leaves_everything_as_it_was() -> None:
    problem, calls = Quartic(), 0
    optimizer = PSGDDense(problem.params, hessian="finite_difference")
    start = [p.detach().clone() for p in problem.params]

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            torch.rand(1)
            raise KeyError("batch")
        return problem.backward()

    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="batch"):
        optimizer.step(closure)
    assert not differences([p.detach() for p in problem.params], start)
    assert torch.equal(before, torch.get_rng_state())
    assert not optimizer.state


@both
@methods
def test_both_methods_go_the_same_way(factory: Any, method: str) -> None:
    exact, other = Quartic(), Quartic()
    ends = []
    for problem, name in ((exact, "exact"), (other, method)):
        optimizer = factory(problem.params, lr=0.05, hessian=name, init_scale=0.3)
        for _ in range(20):
            optimizer.step(closure_for(name, problem.params, problem.loss))
        ends.append([p.detach() for p in problem.params])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_hooks_are_called_once() -> None:
    problem, calls = Quartic(), []
    optimizer = PSGDLRA(problem.params, hessian="exact")
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.step(problem.loss)
    assert calls == ["before", "after"]


# Errors


@both
@methods
def test_a_step_without_a_closure(factory: Any, method: str) -> None:
    optimizer = factory(Quartic().params, hessian=method)
    with pytest.raises(TypeError, match=rf"{factory.__name__}: hessian='{method}' needs step\(closure\)"):
        optimizer.step()


@both
def test_a_grad_scaler_is_told_what_to_do(factory: Any) -> None:
    problem = Quartic(torch.float32)
    optimizer, scaler = factory(problem.params, hessian="finite_difference"), torch.amp.GradScaler("cpu")
    scaler.scale(problem.loss()).backward()
    with pytest.raises(TypeError, match=r"GradScaler calls step\(\) without one.*autocast with bfloat16"):
        scaler.step(optimizer)


@both
@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (lambda problem: None, TypeError, r"returned None.*returns the loss, without calling backward"),
        (lambda problem: problem.loss().item(), TypeError, r"the closure returned -?\d"),
        (lambda problem: problem.loss().detach(), RuntimeError, "no graph"),
        (lambda problem: problem.backward(), RuntimeError, r"has called backward\(\).*hessian='finite_difference'"),
        (lambda problem: problem.params[2] ** 2, RuntimeError, r"shape \(4,\), reduce it"),
    ],
)
def test_closures_that_do_not_fit_exact_products(factory: Any, closure: Any, error: Any, message: str) -> None:
    problem = Quartic()
    optimizer = factory(problem.params, hessian="exact")
    with pytest.raises(error, match=message):
        optimizer.step(lambda: closure(problem))
    assert not optimizer.state


@both
def test_closures_without_backward_do_not_fit_finite_differences(factory: Any) -> None:
    problem = Quartic()
    problem.backward()  # gradients of an earlier step do not count
    optimizer = factory(problem.params, hessian="finite_difference")
    with pytest.raises(RuntimeError, match=r"no parameter has a gradient after the closure.*hessian='exact'"):
        optimizer.step(problem.loss)
