"""A training run: repeatable bit for bit, undisturbed by the optimizer, measured exactly."""

import math

import pytest
import torch

from optzoo.compare import compare
from optzoo.compare.candidates import get_candidate
from optzoo.compare.problems import PROBLEMS, DigitsMLP, Problem, Rosenbrock
from optzoo.compare.results import MISS
from optzoo.compare.runner import train
from optzoo.optimizers import list_optimizers, optimizer_info

ADAMW = get_candidate("torch.optim:AdamW")

each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))


class NoisySGD(torch.optim.SGD):
    """Draws from the global generator, as stochastic optimizers do, and uses nothing of it."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def step(self, closure=None):
        torch.randn(7)
        super().step()


class ModeSGD(torch.optim.SGD):
    """Insists on being in train mode for a step, and is at another point in eval mode, as schedule-free methods are."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
        self.training = True

    def train(self):
        self.training = True

    def eval(self):
        assert self.training
        self.training = False

    def step(self, closure=None):
        assert self.training
        super().step()


class RecordingSGD(torch.optim.SGD):
    """Keeps nested state, and remembers how it was built and driven."""

    latest: "RecordingSGD"

    def __init__(self, params, lr=0.1, weight_decay=5.0, nesterov=False):
        super().__init__(params, lr=lr, weight_decay=weight_decay, nesterov=nesterov)
        self.lrs: list[float] = []
        RecordingSGD.latest = self

    def step(self, closure=None):
        self.lrs.append(self.param_groups[0]["lr"])
        self.state[self.param_groups[0]["params"][0]] = {
            "count": 3,
            "pair": [torch.zeros(2), torch.zeros(3, dtype=torch.float64)],
            "more": {"flags": torch.zeros(5, dtype=torch.bool)},
        }
        super().step()


@each_problem
def test_a_run_repeats_bit_for_bit(problem: type[Problem]):
    first = train(problem, ADAMW, 0.03, 100, "evaluate")
    torch.manual_seed(9)
    assert train(problem, ADAMW, 0.03, 100, "evaluate") == first
    assert train(problem, ADAMW, 0.03, 101, "evaluate").curve != first.curve


def test_results_do_not_depend_on_the_number_of_processes():
    request = {"optimizers": ["torch.optim:AdamW", torch.optim.SGD], "problems": ["rosenbrock"], "quick": True}
    threads = torch.get_num_threads()
    in_this_process = compare(**request, seeds=1, jobs=1)
    in_two_others = compare(**request, seeds=1, jobs=2)
    assert in_two_others.studies == in_this_process.studies
    assert [study.optimizer for study in in_two_others.studies] == ["torch.optim:AdamW", "torch.optim.sgd:SGD"]
    assert torch.get_num_threads() == threads  # as the caller had it


@each_problem
def test_an_optimizer_that_draws_random_numbers_sees_the_same_noise(problem: type[Problem]):
    noisy = train(problem, get_candidate(NoisySGD), 0.03, 100, "evaluate")
    plain = train(problem, get_candidate("torch.optim:SGD"), 0.03, 100, "evaluate")
    assert noisy.curve == plain.curve


def test_the_callers_generator_is_left_alone():
    before = torch.get_rng_state()
    train(Rosenbrock, get_candidate(NoisySGD), 0.01, 0, "screen")
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluations_come_at_the_stated_steps():
    trial = train(DigitsMLP, ADAMW, 0.001, 0, "screen")
    assert [evaluation.step for evaluation in trial.curve] == list(range(0, 301, 10))
    assert list(trial.extra) == ["val_accuracy"]


def test_a_tuning_run_may_stop_at_its_confirmed_hit_and_is_the_beginning_of_the_whole_run():
    whole = train(Rosenbrock, ADAMW, 0.1, 0, "screen")
    stopped = train(Rosenbrock, ADAMW, 0.1, 0, "screen", stop_at_hit=True)
    assert stopped.hit == whole.hit < MISS
    assert stopped.curve == whole.curve[: len(stopped.curve)]
    assert stopped.curve[-1].step == stopped.hit + Rosenbrock.eval_every


def test_a_diverging_run_ends_early_and_misses():
    trial = train(Rosenbrock, get_candidate("torch.optim:SGD"), 1e3, 0, "screen")
    assert trial.hit == MISS
    assert trial.final == math.inf
    assert len(trial.curve) == 2


def test_schedule_and_weight_decay_are_set_for_everybody():
    trial = train(DigitsMLP, get_candidate(RecordingSGD), 0.5, 0, "screen")
    optimizer = RecordingSGD.latest
    assert optimizer.param_groups[0]["weight_decay"] == 0
    assert optimizer.lrs == pytest.approx([0.5 * (1 - step / 300) for step in range(300)])
    assert trial.state_bytes == 2 * 4 + 3 * 8 + 5 * 1


def test_state_bytes_are_exact():
    adamw = train(DigitsMLP, ADAMW, 0.001, 0, "screen")
    assert adamw.parameters == 6570
    assert adamw.state_bytes == 6570 * 2 * 4 + 6 * 4  # two moments, and a step count per tensor
    assert train(DigitsMLP, get_candidate("torch.optim:SGD"), 0.001, 0, "screen").state_bytes == 0


@pytest.mark.parametrize("name", list_optimizers())
def test_every_registered_optimizer_trains_and_keeps_the_state_its_entry_states(name: str):
    trial = train(DigitsMLP, get_candidate(name), get_candidate(name).default_lr, 0, "screen")
    assert trial.final < trial.curve[0].metric
    info = optimizer_info(name)
    factors = 0
    if name == "psgd":  # one per axis, dense or diagonal, and one number for each
        weights, biases = (64**2 + 64**2) + (32**2 + 64) + (10**2 + 32), 64 + 32 + 10
        factors = 4 * (weights + biases + 3 * 2 + 3)
    assert trial.state_bytes == info.state_bytes * 6570 + info.tensor_bytes * 6 + factors


def test_optimizers_with_modes_are_evaluated_in_eval_mode():
    assert train(Rosenbrock, get_candidate(ModeSGD), 0.01, 0, "screen").final < MISS


def test_what_an_optimizer_raises_is_recorded_and_the_others_go_on():
    result = compare(["torch.optim:LBFGS", "torch.optim:SGD"], ["rosenbrock"], quick=True, seeds=1, jobs=1)
    failed, fine = result.studies
    assert failed.error.startswith("TypeError")
    assert failed.hit == MISS
    assert fine.error is None
    assert len(fine.evaluations) == 1
