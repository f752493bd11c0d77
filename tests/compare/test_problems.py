"""Every problem can be solved, cannot be solved by standing still, and tells optimizers apart."""

import math

import pytest
import torch

from optzoo.compare.candidates import get_candidate
from optzoo.compare.problems import PROBLEMS, DigitsMLP, Problem, Rosenbrock
from optzoo.compare.protocol import make_protocol
from optzoo.compare.results import MISS
from optzoo.compare.runner import train
from optzoo.compare.study import Task, run_study

ADAMW = get_candidate("torch.optim:AdamW")
SGD = get_candidate("torch.optim:SGD")
REFERENCE_LR = {"digits_mlp": 0.03, "rosenbrock": 0.1}

each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))


@each_problem
def test_probe_standing_still_does_not_solve_it(problem: type[Problem]):
    trial = train(problem, ADAMW, lr=0.0, seed=100, stage="evaluate")
    assert trial.hit == MISS
    assert {evaluation.metric for evaluation in trial.curve} == {trial.final}  # exactly: the metric has no noise


@each_problem
@pytest.mark.parametrize("seed", [100, 101, 102])
def test_probe_the_reference_solves_it_and_holds_it(problem: type[Problem], seed: int):
    trial = train(problem, ADAMW, REFERENCE_LR[problem.name], seed, "evaluate")
    assert trial.hit <= 0.7 * problem.budget  # not by the skin of its teeth
    assert not trial.lost


@each_problem
def test_probe_it_tells_optimizers_apart(problem: type[Problem]):
    """Plain SGD, tuned by the protocol, misses or takes more than twice the reference's steps."""
    study = run_study(Task(problem.name, SGD), make_protocol(quick=True))
    reference = train(problem, ADAMW, REFERENCE_LR[problem.name], 100, "evaluate", stop_at_hit=True)
    assert study.error is None
    assert study.hit > 2 * reference.hit


@each_problem
def test_the_metric_draws_no_number_and_changes_nothing(problem: type[Problem]):
    instance = problem(seed=0)
    private, shared = instance.generator.get_state(), torch.get_rng_state()
    first = instance.metric()
    instance.loss(0).backward()
    instance.loss(1)
    assert instance.metric() == first
    assert instance.extra() == instance.extra()
    assert torch.equal(instance.generator.get_state(), private)
    assert torch.equal(torch.get_rng_state(), shared)


@each_problem
def test_a_seed_fixes_start_and_noise_whatever_the_global_generator(problem: type[Problem]):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = problem(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = problem(seed=3), problem(seed=4)
    for parameter, same, different in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, same)
        assert not torch.equal(parameter, different)
    for step in (0, 7, problem.budget - 1):
        assert torch.equal(first.loss(step), again.loss(step))


@each_problem
def test_the_target_is_stated_for_the_start(problem: type[Problem]):
    start = problem(seed=0).metric()
    assert 0 < problem.target.threshold(start) < 0.02 * start
    assert problem.budget % problem.eval_every == 0


def test_learning_rate_factors():
    digits, surface = DigitsMLP(0), Rosenbrock(0)
    assert [digits.lr_factor(step) for step in (0, 150, 299)] == pytest.approx([1, 0.5, 1 / 300])
    assert {surface.lr_factor(step) for step in range(surface.budget)} == {1.0}


def test_rosenbrock_is_rosenbrock():
    surface = Rosenbrock(0)
    assert torch.allclose(surface.point, torch.tensor([-1.5, 2.0]), atol=0.2)
    with torch.no_grad():
        surface.point.copy_(torch.tensor([2.0, 3.0]))
    assert surface.metric() == (1 + 100 * 1) / 100
    loss = surface.loss(0)
    loss.backward()
    assert loss.item() == pytest.approx(1.01)
    gradient = [-2 * (1 - 2) - 400 * 2 * (3 - 4), 200 * (3 - 4)]
    assert surface.point.grad.tolist() == pytest.approx([component / 100 for component in gradient])
    with torch.no_grad():
        surface.point.fill_(1.0)
    assert surface.metric() == 0


def test_digits_are_split_once_and_every_epoch_is_a_permutation():
    problem = DigitsMLP(0)
    train_images, train_labels, val_images, val_labels = problem.digits
    assert (len(train_images), len(val_images)) == (1437, 360)
    assert DigitsMLP(1).digits is problem.digits
    assert set(train_labels.tolist()) == set(val_labels.tolist()) == set(range(10))
    assert train_images.mean().item() == pytest.approx(0, abs=1e-5)
    assert train_images.std().item() == pytest.approx(1, abs=1e-5)
    assert problem.batches.shape == (300, 128)
    for epoch in problem.batches.split(11):
        assert epoch.unique().numel() == epoch.numel()


def test_digits_metric_is_the_cross_entropy_of_the_whole_training_set():
    problem = DigitsMLP(0)
    assert sum(parameter.numel() for parameter in problem.parameters()) == 6570
    with torch.no_grad():
        log_probabilities = problem.model(problem.digits.train_images).double().log_softmax(dim=1)
        correct = log_probabilities[torch.arange(1437), problem.digits.train_labels]
    assert problem.metric() == pytest.approx(-correct.mean().item(), rel=1e-5)
    assert problem.metric() == pytest.approx(math.log(10), rel=0.1)
    assert 0 <= problem.extra()["val_accuracy"] <= 0.3  # untrained
