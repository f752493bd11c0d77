"""The time a comparison will take, told before it starts, and what code from elsewhere must not do to that."""

from __future__ import annotations

import os

import pytest
import torch

from optzoo.compare import compare
from optzoo.compare.candidates import get_candidate
from optzoo.compare.estimate import length_of, runs_of, seconds_of_runs
from optzoo.compare.problems import get_problem
from optzoo.compare.progress import Progress
from optzoo.compare.protocol import make_protocol
from optzoo.compare.study import Task


class Dying(torch.optim.SGD):
    """Takes its process down, but not that of whoever wants to know how long it takes."""

    def step(self, closure=None):
        os._exit(1)


class Elsewhere(get_problem("quad_rot")):  # type: ignore[misc]
    name = "elsewhere"
    run_seconds = 6.0

    def loss(self, step):
        os._exit(1)


def task(problem="quad_rot", optimizer="adamw", quick=True) -> Task:
    return Task(get_problem(problem), get_candidate(optimizer), make_protocol(quick))


def announced(tasks, capsys, known=None, jobs=1) -> str:
    with Progress(tasks, jobs, lambda task: known or {}):
        return capsys.readouterr().err.strip()


def test_steps_of_every_pair_are_timed():
    tasks = [task("rosenbrock"), task("rosenbrock", "psgd"), task("quad_rot", "torch.optim:SGD")]
    found = seconds_of_runs(tasks)
    assert list(found) == [("rosenbrock", "adamw"), ("rosenbrock", "psgd"), ("quad_rot", "torch.optim:SGD")]
    assert min(found.values()) > 0


def test_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    seconds_of_runs([task(optimizer="psgd")])
    assert torch.equal(torch.rand(1), expected)


def test_code_from_elsewhere_does_not_run_in_this_process(capsys):
    assert [seconds > 0 for seconds in seconds_of_runs([task(optimizer=Dying)]).values()] == [True]  # AdamW's
    assert seconds_of_runs([task(Elsewhere)]) == {}
    assert announced([task(Elsewhere)], capsys) == "1 study; the time left will show after the first"
    assert announced([task(Elsewhere), task()], capsys).endswith(", and elsewhere, of which nothing is known")


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_runs_of_a_study(quick):
    """In runs of full length; what the estimate multiplies with the time of one."""
    result = compare(["adamw", "lion", "grams"], ["quad_rot"], quick=quick, timing=False, jobs=1)
    lengths = [length_of(trial, 500) for study in result.studies for trial in study.trials]
    assert sum(lengths) == pytest.approx(3 * runs_of(task(quick=quick)), rel=0.25)


def test_known_runs_cost_nothing(make, capsys):
    known = {str(index): make.trial([9] * 51, stage="screen") for index in range(20)}  # of 500 steps, the budget
    assert announced([task()], capsys, known) == "1 study, about 0 s"
