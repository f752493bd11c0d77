"""What a run keeps of its steps: those of a run by hand, and nothing of it on the clock or in the results."""

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from optzoo.compare import runner
from optzoo.compare.candidates import Candidate, get_candidate
from optzoo.compare.problem import Problem
from optzoo.compare.problems import PROBLEMS
from optzoo.compare.results import Trial
from optzoo.compare.runner import Request, train
from optzoo.optimizers import PSGDNewton

ADAMW, SGD = get_candidate("torch.optim:AdamW"), get_candidate("torch.optim:SGD")
Bowl, DigitsMLP = PROBLEMS["bowl"], PROBLEMS["digits_mlp"]

each_problem = pytest.mark.parametrize("problem", [Bowl, DigitsMLP], ids=["surface", "network"])


def run(problem: type[Problem], candidate: Candidate, lr: float | None, seed: int = 0, **request: Any) -> Trial:
    return train(Request(problem, candidate, {} if lr is None else {"lr": lr}, seed, **request))


class ShiftedSGD(torch.optim.SGD):
    """Far away in eval mode, as schedule-free methods are a little."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def train(self):
        self.move(-8.0)

    def eval(self):
        self.move(8.0)

    @torch.no_grad()
    def move(self, distance):
        for parameter in self.param_groups[0]["params"]:
            parameter.add_(distance)


class ProbingSGD(torch.optim.SGD):
    """Asks for the loss there and then farther on, and goes on from there."""

    latest: "ProbingSGD"

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
        self.losses: list[list[float]] = []
        ProbingSGD.latest = self

    def step(self, closure):
        self.losses.append([])
        for _ in range(2):
            self.losses[-1].append(closure().item())
            super().step()


def by_hand(problem: Problem, lr: float, steps: int) -> list[tuple[int, float, float, float]]:
    """(step, loss, lr, update norm) of every step of AdamW."""
    optimizer = torch.optim.AdamW(problem.parameters(), lr=lr, weight_decay=0.0)
    rows = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * problem.lr_factor(step)
        optimizer.zero_grad()
        loss = problem.loss(step)
        loss.backward()
        before = [parameter.detach().numpy().astype(np.float64) for parameter in problem.parameters()]
        optimizer.step()
        after = [parameter.detach().numpy().astype(np.float64) for parameter in problem.parameters()]
        squares = sum(((new - old) ** 2).sum() for new, old in zip(after, before, strict=True))
        rows.append((step + 1, loss.item(), lr * problem.lr_factor(step), math.sqrt(squares)))
    return rows


@each_problem
def test_updates_are_those_of_a_run_by_hand(problem: type[Problem]):
    trial = run(problem, ADAMW, 0.03, 100, limit=60)
    expected = by_hand(problem(100), 0.03, trial.curve[-1].step)[problem.eval_every - 1 :: problem.eval_every]
    assert [update[:3] for update in trial.updates] == [row[:3] for row in expected]  # exactly
    assert [update.norm for update in trial.updates] == pytest.approx([row[3] for row in expected], rel=1e-12)
    assert [update.step for update in trial.updates] == [evaluation.step for evaluation in trial.curve[1:]]
    rates = [update.lr for update in trial.updates]
    assert all(b < a for a, b in pairwise(rates)) if problem.schedule == "linear" else set(rates) == {0.03}


@each_problem
def test_only_evaluation_runs_are_observed_and_that_changes_nothing(problem: type[Problem]):
    observed = run(problem, ADAMW, 0.03, limit=60)
    for stage in ("screen", "retest"):
        plain = run(problem, ADAMW, 0.03, limit=60, stage=stage)
        assert (plain.curve, plain.extra) == (observed.curve, observed.extra)
        assert plain.updates == ()


def test_no_parameter_is_copied_on_the_clock(monkeypatch):
    events: list[str] = []

    def noted(name: str) -> None:
        original = getattr(runner, name)
        monkeypatch.setattr(runner, name, lambda *arguments: (events.append(name), original(*arguments))[1])

    noted("process_time_ns")
    noted("_vector")
    run(DigitsMLP, ADAMW, 0.001, limit=10)  # evaluated every ten steps
    assert events == ["process_time_ns"] * 5 * 9 + ["_vector"] + ["process_time_ns"] * 5 + ["_vector"]


def test_the_loss_is_the_first_that_an_optimizer_asks_for():
    trial = run(DigitsMLP, get_candidate(ProbingSGD), 0.1, limit=30)
    losses = [ProbingSGD.latest.losses[step] for step in (9, 19, 29)]
    assert [update.loss for update in trial.updates] == [first for first, _ in losses]
    assert all(second != first for first, second in losses)


@pytest.mark.parametrize("hessian", ["exact", "finite_difference"])
def test_the_loss_is_that_at_the_point_stepped_from(hessian: str):
    """Newton's method asks for another where it looks for a finite difference."""
    trial = run(Bowl, get_candidate(PSGDNewton, options={"hessian": hessian}), 0.01, limit=8)
    assert [update.loss for update in trial.updates] != []
    problem = Bowl(trial.seed)
    optimizer = PSGDNewton(problem.parameters(), lr=0.01, weight_decay=0.0)
    losses = [optimizer.step(partial(problem.loss, step)).item() for step in range(trial.curve[-1].step)]
    expected = [losses[update.step - 1] for update in trial.updates]
    assert [update.loss for update in trial.updates] == pytest.approx(expected, rel=1e-4)


def test_updates_are_of_the_parameters_that_are_trained():
    plain, shifted = (run(Bowl, candidate, 0.01, limit=4) for candidate in (SGD, get_candidate(ShiftedSGD)))
    expected = [update.norm for update in plain.updates]
    assert [update.norm for update in shifted.updates] == pytest.approx(expected, rel=1e-3)


def test_the_lr_of_a_relative_step_is_a_factor():
    trial = run(Bowl, get_candidate("adafactor"), None)
    assert {update.lr for update in trial.updates} == {1.0}
