"""Hits, misses and medians on curves written by hand."""

import json
import math

import pytest

from optzoo.compare.results import MISS, Evaluation, first_hit, has_diverged

NAN = math.nan


@pytest.mark.parametrize(
    ("metrics", "hit"),
    [
        ([9, 5, 1, 0.5], 20),  # at the target counts; confirmed by the next
        ([9, 0.5, 5, 0.5, 0.4], 30),  # the first is not confirmed
        ([9, 0.5, 5, 0.5, 5], MISS),  # no two in a row
        ([9, 5, 5, 0.5], MISS),  # the last evaluation has nothing to confirm it
        ([9, 0.5, NAN], MISS),
        ([9, 9, 9], MISS),
        ([9], MISS),
    ],
)
def test_hit_is_the_first_evaluation_that_the_next_confirms(make, metrics, hit):
    assert make.trial(metrics).hit == hit


def test_first_hit_reports_steps_not_evaluations():
    assert first_hit([Evaluation(0, 9.0), Evaluation(7, 1.0), Evaluation(14, 1.0)], target=1.0) == 7


@pytest.mark.parametrize("end", [NAN, math.inf, 1e3 * (1 + 9) + 1])
def test_divergence_is_a_miss_even_after_a_hit(make, end):
    trial = make.trial([9, 0.5, 0.5, end])
    assert has_diverged(trial.curve)
    assert trial.hit == MISS
    assert trial.final == math.inf
    assert not trial.lost


def test_a_large_metric_is_not_divergence():
    assert not has_diverged([Evaluation(0, 9.0), Evaluation(1, 1e3 * (1 + 9))])


def test_lost_means_hit_and_not_held(make):
    assert make.trial([9, 0.5, 0.5, 5]).lost
    assert not make.trial([9, 0.5, 0.5, 1]).lost
    assert not make.trial([9, 5, 5]).lost


def test_the_median_counts_a_miss_as_infinite_never_as_the_budget(make):
    at_10, at_20, miss = [9, 0.5, 0.5, 0.5], [9, 5, 0.5, 0.1], [9, 9, 9, 7]
    two_of_three = make.study(at_10, at_20, miss)
    assert (two_of_three.hit, two_of_three.hits, two_of_three.final) == (20, 2, 0.5)
    one_of_three = make.study(at_10, miss, miss)
    assert (one_of_three.hit, one_of_three.hits, one_of_three.final) == (MISS, 1, 7)


def test_equality_ignores_the_clock_and_nothing_else(make):
    import dataclasses

    trial = make.trial([9, 1])
    assert dataclasses.replace(trial, step_us=1.0, optimizer_us=1.0) == trial
    assert dataclasses.replace(trial, curve=(Evaluation(0, 9.0), Evaluation(10, math.nextafter(1.0, 2.0)))) != trial


def test_json_is_strict_and_complete(make, tmp_path):
    comparison = make.comparison(make.study([9, 0.5, 0.5], [9, 9, NAN]))
    path = tmp_path / "comparison.json"
    comparison.to_json(path)
    document = json.loads(path.read_text(), parse_constant=pytest.fail)  # fails on NaN and Infinity
    (study,) = document["studies"]
    assert (study["hit"], study["hits"], study["grid"]) == (None, 1, [0.01, 0.1, 1.0])
    hit, diverged = study["trials"][-2:]
    assert (hit["hit"], hit["final"], hit["curve"]) == (10, 0.5, [[0, 9], [10, 0.5], [20, 0.5]])
    assert (diverged["hit"], diverged["final"], diverged["curve"][-1]) == (None, None, [20, None])
    assert document["lints"] == comparison.lints()
