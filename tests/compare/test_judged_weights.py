"""Which weights are judged: those that the optimizer's paper judges."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from optzoo.compare import compare, load
from optzoo.compare.candidates import get_candidate
from optzoo.compare.problems import PROBLEMS
from optzoo.compare.results import MISS
from optzoo.compare.runner import Request, train
from optzoo.optimizers import (
    Cautious,
    DoG,
    Lookahead,
    PolynomialDecayAverager,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    evaluation_weights,
)

Bowl, DigitsMLP = PROBLEMS["bowl"], PROBLEMS["digits_mlp"]


class SlowWeights(Lookahead):
    """Not at a sync when evaluations are due."""

    def __init__(self, params, lr=0.1, k=7):
        super().__init__(params, torch.optim.SGD, k=k, lr=lr)


class FastWeights(SlowWeights):
    """The same, judged where it is."""

    evaluate_on = ""


def metrics(factory: type, lr: float) -> list[float]:
    return [evaluation.metric for evaluation in train(Request(Bowl, get_candidate(factory), {"lr": lr}, 100)).curve]


def by_hand(optimizer_class: type, weights, **options) -> list[float]:
    """The metric of Bowl, evaluated within the context that `weights(optimizer, parameters)` is."""
    problem = Bowl(100)
    optimizer = optimizer_class(problem.parameters(), **options)
    context, after = weights(optimizer, problem.parameters())
    found = [problem.metric()]
    for step in range(1, Bowl.budget + 1):
        optimizer.zero_grad()
        problem.loss(step - 1).backward()
        optimizer.step()
        after()
        if step % Bowl.eval_every == 0:
            with context():
                found.append(problem.metric())
    return found


def test_dog_is_judged_on_its_average_at_a_constant_lr():
    def average(optimizer, parameters):
        averager = PolynomialDecayAverager(parameters)
        return averager.averaged_parameters, averager.update

    assert metrics(DoG, 1.0) == by_hand(DoG, average, lr=1.0)
    request = Request(DigitsMLP, get_candidate("dog"), {"lr": 1.0}, 0)
    assert (request.identity["schedule"], request.candidate.evaluate_on) == ("own", "average")


def test_lookahead_is_judged_on_its_slow_weights():
    slow = by_hand(SlowWeights, lambda optimizer, _: (optimizer.slow_weights, lambda: None), lr=0.5)
    assert metrics(SlowWeights, 0.5) == slow
    assert metrics(FastWeights, 0.5) != slow


@pytest.mark.parametrize("optimizer_class", [ScheduleFreeAdamW, ScheduleFreeSGD])
def test_schedule_free_is_judged_on_its_average_at_a_constant_lr(optimizer_class):
    def average(optimizer, _):
        return partial(evaluation_weights, optimizer), lambda: None

    assert metrics(optimizer_class, 0.02) == by_hand(optimizer_class, average, lr=0.02)
    assert metrics(optimizer_class, 0.02) != by_hand(optimizer_class, lambda *_: (nullcontext, lambda: None), lr=0.02)
    candidate = get_candidate(optimizer_class)
    request = Request(DigitsMLP, candidate, {"lr": 0.02}, 0)
    assert (request.identity["schedule"], candidate.evaluate_on) == ("own", "evaluation_weights")


def test_what_says_nothing_is_judged_on_the_weights_it_has():
    """A wrapper around Schedule-Free, say."""

    def wrapped(params, lr):
        return Cautious(params, ScheduleFreeSGD, lr=lr)

    def average(optimizer, _):
        return partial(evaluation_weights, optimizer), lambda: None

    assert get_candidate("cautious").evaluate_on is None
    assert metrics(wrapped, 0.02) == by_hand(wrapped, average, lr=0.02)


@pytest.mark.parametrize("name", ["dog", "ldog"])
def test_what_needs_no_tuning_reaches_the_target_of_a_network(name):
    """Under a decaying lr, on the last iterate, neither does on any of these seeds."""
    trials = [train(Request(DigitsMLP, get_candidate(name), {"lr": 1.0}, seed)) for seed in range(100, 103)]
    assert sum(trial.hit < MISS for trial in trials) == 3


def test_studies_say_which_weights_were_judged(tmp_path):
    names = ["dog", "lookahead", "adamw", "schedulefreesgd"]
    result = compare(names, ["bowl"], ruleset="default", seeds=1, jobs=1, timing=False, out=tmp_path)
    said = {study.optimizer: (study.evaluate_on, study.own_schedule) for study in load(tmp_path).studies}
    assert said == {
        "dog": ("average", True),
        "lookahead": ("slow_weights", False),
        "adamw": ("", False),
        "schedulefreesgd": ("evaluation_weights", True),
    }
    assert load(tmp_path).studies == result.studies
