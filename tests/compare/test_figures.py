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


def test_lines_coincide_where_no_eye_tells_them_apart():
    axes = figures.Range(0, 10, log=False), figures.Range(1e-3, 1, log=True)
    lines = {
        "a": ([0, 5, 10], [1, 1e-1, 1e-3]),
        "nearly a": ([0, 5, 10], [1, 1.01e-1, 1e-3]),
        "above": ([0, 5, 10], [1, 1.2e-1, 1e-3]),
        "out of sight": ([0, 5, 10], [50, 1e-1, 1e-9]),
        "shorter": ([0, 5], [1, 1e-1]),
        "broken": ([0, 5, 10], [1, math.nan, 1e-3]),
    }
    assert figures.coinciding(lines, *axes) == dict.fromkeys(["a", "nearly a", "out of sight"], "a")
    assert figures.coinciding({}, *axes) == {}


def test_curves_that_coincide(make):
    curves = [[9, 5, 0.5], [9, 5, 0.5], [9, 0.5, 0.4]]
    studies = {name: figures.curve(make.study(curve)) for name, curve in zip("abc", curves, strict=True)}
    shown = figures.metric_range(list(studies.values()), 1.0)
    assert figures.coinciding_curves(studies, shown) == {"a": "a", "b": "a"}
