"""The numbers behind the figures."""

import math

import pytest

from optzoo.compare import figures


def test_the_band_is_of_the_runs_still_going(make):
    """One that diverged, or failed, ends it: else the band would go up to infinity, and stop there."""
    curve = figures.curve(make.study([9, 5, 4, 3], [9, 8, 1e9], [9, 7, 6, 5]))
    assert curve.steps == [0, 10, 20, 30]
    assert curve.low == [9, 5, 4, 3]
    assert curve.high == [9, 8, 6, 5]
    assert curve.median == [9, 7, 6, 5]  # of three, one infinite from step 20 on
    assert curve.ends == [(10, 8)]


@pytest.mark.parametrize("last", [math.nan, math.inf, 1e9])
def test_the_line_breaks_off_where_most_have_diverged(make, last):
    curve = figures.curve(make.study([9, 5, last], [9, 8, last], [9, 7, 6]))
    assert curve.median == [9, 7, math.inf]
    assert (curve.low, curve.high) == ([9, 5, 6], [9, 8, 6])
    assert curve.ends == [(10, 5), (10, 8)]


def test_a_run_that_fails_ends_too(make):
    failed = make.trial([9, 5], failure="took over 30 s", seed=101)
    study = make.study([9, 5, 4])
    curve = figures.curve(type(study)(*("rosenbrock", "adamw", 0.1, {"lr": 0.1}), (*study.trials, failed)))
    assert curve.ends == [(10, 5)]
    assert curve.median == [9, 5, math.inf]
    assert curve.high == [9, 5, 4]
