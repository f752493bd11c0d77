"""A training run: repeatable bit for bit, undisturbed by the optimizer, measured exactly."""

import math
from typing import Any

import pytest
import torch

from optzoo.compare import compare, load
from optzoo.compare.candidates import Candidate, get_candidate
from optzoo.compare.problem import Problem
from optzoo.compare.problems import PROBLEMS
from optzoo.compare.results import MISS, Trial
from optzoo.compare.runner import Request, train
from optzoo.compare.store import key_of
from optzoo.optimizers import list_optimizers, optimizer_info
from optzoo.optimizers.psgd import PSGDLRA, PSGDDense, PSGDNewton
from support.cases import facts

ADAMW = get_candidate("torch.optim:AdamW")
Bowl, DigitsMLP = PROBLEMS["bowl"], PROBLEMS["digits_mlp"]

each_problem = pytest.mark.parametrize("problem", [Bowl, DigitsMLP], ids=["surface", "network"])


def run(problem: type[Problem], candidate: Candidate, lr: float | None, seed: int = 0, **request: Any) -> Trial:
    return train(Request(problem, candidate, {} if lr is None else {"lr": lr}, seed, **request))


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


class Raising(torch.optim.SGD):
    """Works for a while."""

    def step(self, closure=None):
        self.state["count"] = self.state.get("count", 0) + 1
        if self.state["count"] > 25:
            raise ArithmeticError(f"no more\nof {object()}")
        super().step()


class Scheduled(torch.optim.SGD):
    """Sets its step sizes itself."""

    own_schedule = True


class Unmeasurable(Bowl):
    """A problem that raises."""

    def metric(self) -> float:
        raise ValueError("no metric")


@each_problem
def test_a_run_repeats_bit_for_bit(problem: type[Problem]):
    first = run(problem, ADAMW, 0.03, 100, limit=50)
    torch.manual_seed(9)
    assert run(problem, ADAMW, 0.03, 100, limit=50) == first
    assert run(problem, ADAMW, 0.03, 101, limit=50).curve != first.curve


def test_results_do_not_depend_on_the_number_of_processes():
    request = {"optimizers": ["torch.optim:AdamW", torch.optim.SGD], "problems": ["bowl"], "quick": True}
    threads = torch.get_num_threads()
    in_this_process = compare(**request, seeds=1, jobs=1, timing=False)
    in_two_others = compare(**request, seeds=1, jobs=2, timing=False)
    assert in_two_others.studies == in_this_process.studies
    assert [study.optimizer for study in in_two_others.studies] == ["torch.optim:AdamW", "torch.optim.sgd:SGD"]
    assert torch.get_num_threads() == threads  # as the caller had it


@each_problem
def test_an_optimizer_that_draws_random_numbers_sees_the_same_noise(problem: type[Problem]):
    noisy = run(problem, get_candidate(NoisySGD), 0.03, limit=50)
    plain = run(problem, get_candidate("torch.optim:SGD"), 0.03, limit=50)
    assert noisy.curve == plain.curve


def test_the_callers_generator_is_left_alone():
    before = torch.get_rng_state()
    run(Bowl, get_candidate(NoisySGD), 0.01)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluations_come_at_the_stated_steps():
    trial = run(DigitsMLP, ADAMW, 0.001)
    assert [evaluation.step for evaluation in trial.curve] == list(range(0, 301, 10))
    assert [evaluation.gradients for evaluation in trial.curve] == list(range(0, 301, 10))
    assert list(trial.extra) == ["val_accuracy"]


def test_a_screening_run_may_stop_at_its_confirmed_hit_and_is_the_beginning_of_the_whole_run():
    whole = run(Bowl, ADAMW, 0.1)
    stopped = run(Bowl, ADAMW, 0.1, stop_at_hit=True)
    assert stopped.hit == whole.hit < MISS
    assert stopped.curve == whole.curve[: len(stopped.curve)]
    assert 0 <= stopped.curve[-1].step - stopped.hit - Bowl.eval_every < Bowl.eval_every  # by the evaluation after


def test_a_screening_run_ends_where_it_is_late_but_not_before():
    whole = run(Bowl, ADAMW, 0.1, stop_at_hit=True)
    just = run(Bowl, ADAMW, 0.1, stop_at_hit=True, limit=int(whole.hit))
    assert (just.hit, just.curve) == (whole.hit, whole.curve)
    late = run(Bowl, ADAMW, 0.1, stop_at_hit=True, limit=int(whole.hit) - Bowl.eval_every)
    assert late.hit == MISS
    assert late.curve == whole.curve[: len(late.curve)]
    assert 0 <= late.curve[-1].step - late.limit < Bowl.eval_every


def test_a_diverging_run_ends_early_and_misses():
    trial = run(Bowl, get_candidate("torch.optim:SGD"), 1e3)
    assert (trial.hit, trial.final, trial.miss_reason) == (MISS, math.inf, "diverged")
    assert len(trial.curve) == 2


def test_what_an_optimizer_or_a_problem_raises_is_a_miss_with_the_reason():
    trial = run(Bowl, get_candidate(Raising), 1e-3)
    assert trial.failure == "raised ArithmeticError: no more"  # one line
    assert (trial.hit, trial.curve, trial.seed) == (MISS, (), 0)
    assert run(Unmeasurable, ADAMW, 1e-3).failure == "raised ValueError: no metric"
    wrong = run(Bowl, get_candidate("adamw"), -1.0)
    assert wrong.failure.startswith("raised ValueError: ")
    assert run(Bowl, ADAMW, 0.1, seconds=0.0).failure == "took over 0 CPU-seconds"


def test_schedule_and_weight_decay_are_set_for_everybody():
    trial = run(DigitsMLP, get_candidate(RecordingSGD), 0.5)
    optimizer = RecordingSGD.latest
    assert optimizer.param_groups[0]["weight_decay"] == 0
    assert optimizer.lrs == pytest.approx([0.5 * (1 - step / 300) for step in range(300)])
    assert trial.state_bytes == 2 * 4 + 3 * 8 + 5 * 1
    run(DigitsMLP, get_candidate(RecordingSGD), 0.5, schedule="constant")
    assert set(RecordingSGD.latest.lrs) == {0.5}
    run(DigitsMLP, get_candidate(RecordingSGD), 0.5, schedule="wsd,warmup=10,cooldown=100")
    lrs = RecordingSGD.latest.lrs
    assert len(lrs) == 300
    assert lrs[0] < lrs[9] <= lrs[10] == lrs[150] == 0.5
    assert lrs[-1] < 0.01


def test_optimizers_with_a_schedule_of_their_own_are_exempt():
    own, plain = get_candidate(Scheduled), get_candidate("torch.optim:SGD")
    constant = run(DigitsMLP, plain, 0.1, schedule="constant", limit=50)
    assert run(DigitsMLP, own, 0.1, limit=50).curve == constant.curve
    request = Request(DigitsMLP, own, {"lr": 0.1}, 0)
    assert request.identity["schedule"] == "own"
    untuned = get_candidate("adafactor")
    assert (untuned.untuned, untuned.default_lr) == ({}, 0.01)
    assert run(Bowl, untuned, None).failure is None


def test_gradient_evaluations_are_counted_whoever_asks_for_them():
    """LBFGS calls its closure up to 20 times a step, on the same data every time."""
    trial = run(DigitsMLP, get_candidate("torch.optim:LBFGS"), 0.01, limit=10)
    assert trial.curve[-1].step == 10
    assert trial.curve[-1].gradients == 10 * 20
    assert trial.curve[-1].metric < trial.curve[0].metric


@pytest.mark.parametrize("kind", [PSGDNewton, PSGDDense, PSGDLRA])
@pytest.mark.parametrize("hessian", ["exact", "finite_difference"])
def test_newton_methods_have_the_closure_they_need(kind: type, hessian: str):
    """Twenty steps all of which update the preconditioner: a gradient and a product with the Hessian each."""
    candidate = get_candidate(kind, options={"hessian": hessian})
    trial = run(Bowl, candidate, 0.1, limit=20)
    assert trial.failure is None
    assert trial.curve[-1].gradients == 2 * trial.curve[-1].step
    assert trial.curve[-1].metric < 0.5 * trial.curve[0].metric
    assert run(Bowl, get_candidate("psgd"), 0.1, limit=20).curve[-1].gradients == 20


def test_what_a_second_evaluation_costs_is_counted():
    """A product with the Hessian only where it is asked for; two gradients of SAM, on the same data."""

    def gradients(optimizer: str, **options: Any) -> int:
        trial = run(DigitsMLP, get_candidate(optimizer, options=options), 0.01, limit=20)
        assert trial.failure is None
        assert trial.curve[-1].metric < trial.curve[0].metric
        return trial.curve[-1].gradients

    assert gradients("sam") == 40
    assert gradients("sam", rho=0.0) == 20
    for hessian in ("exact", "finite_difference"):
        assert gradients("psgdnewton", hessian=hessian, precond_update_probability=0.5) == 30
    assert gradients("psgdlra") == 20


def test_the_key_changes_with_everything_that_changes_the_result_and_nothing_else():
    base = Request(DigitsMLP, get_candidate("adamw"), {"lr": 0.1}, 0)
    others = [
        base._replace(problem=Bowl),
        base._replace(candidate=get_candidate("adam")),
        base._replace(candidate=get_candidate("adamw", options={"eps": 1e-6})),
        base._replace(hyperparameters={"lr": 0.2}),
        base._replace(seed=1),
        base._replace(stage="screen"),
        base._replace(stop_at_hit=True),
        base._replace(limit=10),
        base._replace(schedule="constant"),
        base._replace(schedule="wsd,warmup=10"),
    ]
    keys = {key_of(request.identity) for request in (base, *others)}
    assert len(keys) == 1 + len(others)
    same = base._replace(schedule="linear", seconds=7.0, candidate=get_candidate("adamw", name="mine"))
    assert key_of(same.identity) == key_of(base.identity)


def test_an_edited_optimizer_is_another(tmp_path, monkeypatch):
    import importlib

    source = "import torch\nclass Edited(torch.optim.SGD):\n    pass\n"
    (tmp_path / "edited_by_a_user.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    first = get_candidate("edited_by_a_user:Edited").version
    (tmp_path / "edited_by_a_user.py").write_text(source + "# \n")
    importlib.invalidate_caches()
    assert get_candidate("edited_by_a_user:Edited").version != first
    assert get_candidate("adamw").version.startswith("0.")


def test_state_bytes_are_exact():
    adamw = run(DigitsMLP, ADAMW, 0.001, stop_at_hit=True, limit=10)
    assert adamw.parameters == 6570
    assert (
        adamw.state_bytes == 6570 * 2 * 4 + 6 * 4
    )  # two moments, and a step count per tensor, which is float32 in torch
    assert run(DigitsMLP, get_candidate("torch.optim:SGD"), 0.001, limit=10).state_bytes == 0


@pytest.mark.parametrize("name", list_optimizers())
def test_every_registered_optimizer_trains_and_keeps_the_state_its_entry_states(name: str):
    whole = facts(name).together  # a matrix of all numbers is no state for a network
    problem = Bowl if whole else DigitsMLP
    trial = run(problem, get_candidate(name), get_candidate(name).default_lr, limit=60)
    assert trial.final < trial.curve[0].metric
    info, shapes = optimizer_info(name), [p.shape for p in problem(0).parameters()]
    assert trial.parameters == sum(map(math.prod, shapes)) == (2 if whole else 6570)
    average = 4 * 6570 if get_candidate(name).evaluate_on == "average" else 0  # kept beside the optimizer
    factors = facts(name).more_bytes(shapes)
    size = 2 if problem(0).parameters()[0].dtype is torch.float64 else 1  # what is said is of float32
    said = info.state_bytes * trial.parameters + factors + info.tensor_bytes * len(shapes)
    assert trial.state_bytes == said + average + (size - 1) * (said - 8 * len(shapes))


def test_optimizers_with_modes_are_evaluated_in_eval_mode():
    assert run(Bowl, get_candidate(ModeSGD), 0.01).final < MISS


def test_what_an_optimizer_raises_is_recorded_and_the_others_go_on():
    result = compare([Raising, "torch.optim:SGD"], ["bowl"], ruleset="default", seeds=1, jobs=1)
    failed, fine = result.studies
    assert [trial.failure for trial in failed.evaluations] == ["raised ArithmeticError: no more"]
    assert (failed.hit, failed.final) == (MISS, math.inf)
    assert [trial.failure for trial in fine.evaluations] == [None]
    assert result.timing["bowl"].keys() == {"torch.optim:SGD"}
    given_up = compare([Raising], ["bowl"], quick=True, jobs=1).studies[0]
    assert given_up.failure == "raised ArithmeticError: no more"
    assert given_up.hit == MISS


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("psgd", "diagonal factors"),
        ("muon", "AdamW"),
        ("adafactor", "whole second moments, as of matrices below 128 × 128"),
    ],
)
def test_optimizers_for_matrices_on_vectors_are_recorded(name, rule, tmp_path):
    """What is recorded is also what they do: no factor of a vector is a matrix, no second moment is factored."""
    options = dict(quick=True, ruleset="default", seeds=1, timing=False, jobs=1)
    result = compare([name, "adamw"], ["saddle", "matfac"], out=tmp_path, **options)
    rules = {(study.problem, study.optimizer): study.vector_rule for study in result.studies}
    assert rules == {("saddle", name): rule, ("saddle", "adamw"): "", ("matfac", name): "", ("matfac", "adamw"): ""}
    assert load(tmp_path).studies == result.studies
    vector = torch.ones(300, requires_grad=True)
    vector.grad = torch.ones(300)
    optimizer = get_candidate(name).build([vector], {"lr": 0.1})
    optimizer.step()
    kept = {
        key: tuple(value.shape)
        for key, value in optimizer.state[vector].items()
        if key in ("Q0", "exp_avg_sq", "variance")
    }
    assert list(kept.values()) == [(300,)]
