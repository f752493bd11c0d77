"""What is compared: the classics under short names, and the spaces a search draws from."""

import pytest
import torch

from optzoo.compare import UsageError, compare
from optzoo.compare.candidates import BASELINES, get_candidate, get_candidates
from optzoo.compare.protocol import make_protocol
from optzoo.compare.spaces import points, space_of
from optzoo.optimizers import list_optimizers


@pytest.mark.parametrize(
    ("name", "kind", "lr", "options"),
    [
        ("sgd", torch.optim.SGD, 0.1, {"momentum": 0, "nesterov": False}),
        ("sgdm", torch.optim.SGD, 0.1, {"momentum": 0.9, "nesterov": False}),
        ("nesterov", torch.optim.SGD, 0.1, {"momentum": 0.9, "nesterov": True}),
        ("nadamw", torch.optim.NAdam, 2e-3, {"decoupled_weight_decay": True}),
        ("rmsprop", torch.optim.RMSprop, 1e-2, {}),
        ("adagrad", torch.optim.Adagrad, 1e-2, {}),
    ],
)
def test_the_classics_have_short_names(name, kind, lr, options):
    candidate = get_candidate(name)
    assert (candidate.name, candidate.default_lr, candidate.untuned) == (name, lr, {"lr": lr})
    optimizer = candidate.build([torch.zeros(2, requires_grad=True)], candidate.untuned)
    assert type(optimizer) is kind
    assert optimizer.defaults.items() >= {"lr": lr, "weight_decay": 0.0, **options}.items()


def test_every_short_name_is_tested_above_and_hides_no_optimizer_of_the_registry():
    assert list(BASELINES) == ["sgd", "sgdm", "nesterov", "nadamw", "rmsprop", "adagrad"]
    assert not set(BASELINES) & set(list_optimizers())
    with pytest.raises(UsageError, match="did you mean 'nesterov'"):
        get_candidate("nestorov")


def test_a_classic_may_have_another_name_and_other_options():
    (candidate,) = get_candidates({"mine": "sgdm"})
    assert (candidate.name, candidate.options) == ("mine", {"momentum": 0.9})
    assert get_candidate("sgdm", options={"momentum": 0.5, "lr": 1.0}).options == {"momentum": 0.5}


def test_points_of_a_search_are_the_same_every_time_and_in_the_space():
    adamw = get_candidate("adamw")
    assert list(space_of(adamw)) == ["lr", "betas.0", "betas.1"]
    first, again = points(adamw, 16), points(adamw, 16)
    assert first == again
    assert len(first) == 16
    for point in first:
        assert 1e-3 * 10**-1.5 <= point["lr"] <= 1e-3 * 10**2.5 * (1 + 1e-5)
        assert 0.5 <= point["betas"][0] <= 0.99
        assert 0.99 <= point["betas"][1] <= 0.9999
    halves = sum(point["lr"] < 1e-3 * 10**0.5 for point in first)
    assert halves == 8  # Sobol points are even: half of them in each half


def test_the_slow_average_of_ademamix_remembers_no_more_than_a_run_has():
    """Of its default, 10,000 steps, nothing can be seen in budgets of some hundred."""
    slow = [point["betas"][2] for point in points(get_candidate("ademamix"), 16)]
    assert all(0.97 <= beta <= 0.999 for beta in slow)
    assert all(point["betas"][1] > 0.99 for point in points(get_candidate("ademamix"), 16))


def test_a_momentum_is_searched_where_there_is_one():
    assert list(space_of(get_candidate("sgd"))) == ["lr"]
    assert all(0 <= point["momentum"] <= 0.99 for point in points(get_candidate("sgdm"), 16))


def test_an_interpolation_is_never_without_an_average():
    found = points(get_candidate("schedulefreesgd"), 16)
    assert list(found[0]) == ["lr", "warmup_steps", "momentum"]
    assert all(0.5 <= point["momentum"] <= 0.99 and 1 <= point["warmup_steps"] <= 100 for point in found)


@pytest.mark.parametrize("name", [*list_optimizers(), *BASELINES])
def test_every_point_of_every_optimizer_can_be_built(name: str):
    candidate = get_candidate(name)
    for point in points(candidate, 16):
        candidate.build([torch.zeros(3, 2, requires_grad=True)], point)


def test_a_search_makes_as_many_trials_as_asked_for():
    (study,) = compare(["sgd"], ["bowl"], ruleset="search", trials=5, seeds=1, jobs=1, timing=False).studies
    screened = [trial.hyperparameters["lr"] for trial in study.trials if trial.stage == "screen"]
    assert screened == [point["lr"] for point in points(get_candidate("sgd"), 5)]
    assert "5 Sobol points" in make_protocol(False, ruleset="search", trials=5).describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 5}, "trials=5 is for ruleset 'search', not 'lr'; leave it out"),
        ({"trials": 0, "ruleset": "search"}, "trials must be at least 1, not 0"),
    ],
)
def test_trials_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        compare(["sgd"], ["bowl"], **options)
