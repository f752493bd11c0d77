"""Hits, misses and medians on curves written by hand."""

import dataclasses
import json
import math

import pytest

from optzoo.compare.results import MISS, Evaluation, StepTime, Update, first_hit, has_diverged

NAN = math.nan


@pytest.mark.parametrize(
    ("metrics", "hit"),
    [
        ([9, 5, 1, 0.5], 20),  # at the target counts; confirmed by the next
        ([9, 0.5, 5, 0.5, 0.4], 27),  # the first is not confirmed
        ([9, 0.5, 5, 0.5, 5], MISS),  # no two in a row
        ([9, 5, 5, 0.5], MISS),  # the last evaluation has nothing to confirm it
        ([9, 0.5, NAN], MISS),
        ([9, 9, 9], MISS),
        ([9], MISS),
    ],
)
def test_hit_is_the_first_evaluation_that_the_next_confirms(make, metrics, hit):
    assert make.trial(metrics).hit == hit
    assert make.trial(metrics).gradients == 2 * hit


@pytest.mark.parametrize(
    ("before", "now", "step"),
    [
        (100.0, 0.01, 15),  # half of the way on a logarithm
        (100.0, 0.02, 16),  # and a little more
        (9.0, 1.0, 20),
        (1 + 1e-9, 0.5, 11),  # a step at least
        (3.0, -1.0, 15),  # no logarithm: evenly
        (math.inf, 0.5, 20),
    ],
)
def test_the_step_of_a_hit_is_interpolated(before, now, step):
    """What is seen with an evaluation every 10 steps is what one after every step would have seen."""
    curve = [Evaluation(0, 200.0, 0), Evaluation(10, before, 20), Evaluation(20, now, 40), Evaluation(30, now, 60)]
    found = first_hit(curve, target=1.0)
    assert (found.step, found.gradients) == (step, 2 * step)


@pytest.mark.parametrize("every", [1, 2, 5, 10])
def test_a_steady_fall_has_the_same_hit_however_often_it_is_evaluated(every):
    curve = [Evaluation(step, 0.9**step) for step in range(0, 101, every)]
    assert first_hit(curve, target=0.9**32.5).step == 33


def test_first_hit_reports_steps_not_evaluations():
    curve = [Evaluation(0, 9.0), Evaluation(7, 1.0, 8), Evaluation(14, 1.0, 16)]
    assert first_hit(curve, target=1.0) == Evaluation(7, 1.0, 8)
    assert first_hit(curve[:2], target=1.0) is None


@pytest.mark.parametrize("end", [NAN, math.inf, 1e3 * (1 + 9) + 1])
def test_divergence_is_a_miss_even_after_a_hit(make, end):
    trial = make.trial([9, 1, 0.5, end])
    assert has_diverged(trial.curve)
    assert (trial.hit, trial.final, trial.miss_reason) == (MISS, math.inf, "diverged")
    assert not trial.lost


def test_a_large_metric_is_not_divergence():
    assert not has_diverged([Evaluation(0, 9.0), Evaluation(1, 1e3 * (1 + 9))])


def test_a_failure_is_a_miss_even_after_a_hit(make):
    trial = make.trial([9, 1, 0.5], failure="took over 30 s")
    assert (trial.hit, trial.final, trial.miss_reason) == (MISS, math.inf, "took over 30 s")
    assert make.trial([], failure="raised E").hit == MISS
    assert make.trial([9, 1, 0.5]).miss_reason is None
    assert make.trial([9, 9]).miss_reason == "target not reached"
    assert "by step 10" in make.trial([9, 9], limit=10).miss_reason


def test_lost_means_hit_and_not_held(make):
    assert make.trial([9, 1, 0.5, 5]).lost
    assert not make.trial([9, 1, 0.5, 1]).lost
    assert not make.trial([9, 5, 5]).lost


def test_the_median_counts_a_miss_as_infinite_never_as_the_budget(make):
    at_10, at_20, miss = [9, 1, 0.5, 0.5], [9, 5, 1, 0.1], [9, 9, 9, 7]
    two_of_three = make.study(at_10, at_20, miss)
    assert (two_of_three.hit, two_of_three.gradients) == (20, 40)
    assert (two_of_three.hits, two_of_three.final) == (2, 0.5)
    one_of_three = make.study(at_10, miss, miss)
    assert (one_of_three.hit, one_of_three.hits, one_of_three.final) == (MISS, 1, 7)


def test_cpu_time_is_hit_times_the_timed_step_or_that_of_the_runs(make):
    study = make.study([9, 9, 1, 0.5])
    plain = make.comparison(study)
    assert (plain.step_us(study), plain.time_to_target(study, "cpu")) == (50, pytest.approx(20 * 50e-6))
    timed = make.comparison(study, timing={"rosenbrock": {"adamw": StepTime(10.0, 20.0, 5.0)}})
    assert (timed.step_us(study), timed.optimizer_us(study)) == (35, 5)
    assert timed.time_to_target(study, "cpu") == pytest.approx(20 * 35e-6)
    assert timed.time_to_target(study, "steps") == 20
    assert timed.time_to_target(study, "gradients") == 40
    assert plain.time_to_target(make.study([9, 9]), "cpu") == MISS


def test_equality_ignores_the_clock_and_nothing_else(make):
    trial = make.trial([9, 1])
    assert dataclasses.replace(trial, clock=None) == trial
    assert dataclasses.replace(trial, curve=(Evaluation(0, 9.0), Evaluation(10, math.nextafter(1.0, 2.0)))) != trial


def test_json_is_strict_and_complete(make, tmp_path):
    study = make.study([9, 1, 0.5], [9, 9, NAN])
    *others, last = study.trials
    last = dataclasses.replace(last, updates=(Update(10, 2.0, 0.1, 0.5), Update(20, NAN, None, NAN)))
    comparison = make.comparison(dataclasses.replace(study, trials=(*others, last)))
    path = tmp_path / "comparison.json"
    comparison.to_json(path)
    document = json.loads(path.read_text(), parse_constant=pytest.fail)  # fails on NaN and Infinity
    (study,) = document["studies"]
    assert (study["hit"], study["hits"], study["grid"]) == (None, 1, [0.01, 0.1, 1.0])
    hit, diverged = study["trials"][-2:]
    assert (hit["hit"], hit["final"], hit["curve"]) == (10, 0.5, [[0, 9, 0], [10, 1, 20], [20, 0.5, 40]])
    assert (diverged["hit"], diverged["final"], diverged["curve"][-1]) == (None, None, [20, None, 40])
    assert (hit["updates"], diverged["updates"]) == ([], [[10, 2, 0.1, 0.5], [20, None, None, None]])
    assert document["lints"] == comparison.lints()
