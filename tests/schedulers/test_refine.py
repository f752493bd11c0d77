"""The refined schedule against its numbers, and what becomes of it in training."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from optzoo.schedulers import Schedule
from optzoo.schedulers.bounds import Array
from optzoo.schedulers.recording import Recording, save
from optzoo.schedulers.refine import Refined, filter_width, median_filter, refine
from support.convex import LRS, Logistic, Norm, best, train

sgd = partial(refine, kind="sgd")
VALLEY = [4.0, 2, 1, 1, 1, 1, 2, 4]


def paper(norms: Sequence[float], kind: str = "sgd") -> Array:
    return refine(norms, kind, smoothing=0, drop_last=False).multipliers


def test_constant_norms_give_linear_decay() -> None:
    t = np.arange(100)
    np.testing.assert_allclose(paper([3.0] * 100), (99 - t) / 99, rtol=0, atol=1e-12)
    refined = sgd([3.0] * 100)
    np.testing.assert_allclose(refined.multipliers, (100 - t) / 100, rtol=0, atol=1e-12)
    assert (refined.gain, refined.predicted_lr_ratio) == pytest.approx((1, 1), rel=1e-9)
    for total in (100, 37, 1000):
        np.testing.assert_allclose(
            refined.schedule.resolve(total).array(), 1 - np.arange(total) / total, rtol=0, atol=1e-12
        )


def test_eight_norms() -> None:
    sgd = np.array([0.285156, 1.078125, 3.3125, 2.3125, 1.3125, 0.3125, 0.015625, 0]) / 3.3125
    np.testing.assert_allclose(paper(VALLEY), sgd, rtol=0, atol=5e-7)
    adam = [0.35, 0.633333, 1, 0.733333, 0.466667, 0.2, 0.033333, 0]
    np.testing.assert_allclose(paper(VALLEY, "adam"), adam, rtol=0, atol=5e-7)
    np.testing.assert_allclose(paper(VALLEY, "update"), adam, rtol=0, atol=5e-7)
    g = np.array(VALLEY)
    assert 1 / math.sqrt((g**-2).sum()) == pytest.approx(0.4649906, abs=1e-7)
    assert math.sqrt((g**2).mean() / 8) == pytest.approx(0.8291562, abs=1e-7)


def test_median_filter() -> None:
    assert [filter_width(total, 0.1) for total in (10, 100, 1000)] == [1, 11, 101]
    assert median_filter(np.array([5.0, 1, 1, 9, 1, 1, 1, 3]), 3).tolist() == [5, 1, 1, 1, 1, 1, 1, 1]
    values = np.random.default_rng(0).random(200)
    padded = [values[0]] * 10 + values.tolist() + values[-2:-12:-1].tolist()
    expected = [statistics.median(padded[i : i + 21]) for i in range(200)]
    assert median_filter(values, 21).tolist() == expected


@pytest.mark.parametrize(("a", "measured"), [(0.25, 0.396), (0.5, 0.576), (1.0, 0.736)])
def test_falling_norms_give_a_warmup(a: float, measured: float) -> None:
    norms = np.arange(1, 1001) ** -a
    law = (2 * a / (4 * a + 1)) ** (1 / (2 * a + 1))
    peak = (int(paper(norms).argmax()) + 1) / 1000
    assert peak == pytest.approx(measured, abs=0.0015)
    assert peak == pytest.approx(law, abs=0.002)
    assert sgd(norms, smoothing=0).multipliers.argmax() / 1000 == pytest.approx(law, abs=0.002)


@pytest.mark.parametrize("a", [0.0, -0.5])
def test_rising_norms_give_none(a: float) -> None:
    eta = sgd(np.arange(1, 1001) ** -a, smoothing=0).multipliers
    assert eta.argmax() == 0
    assert np.all(np.diff(eta) < 0)


def test_scale_length_and_gaps_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    norms = np.interp(np.arange(1000), [0, 200, 700, 999], [4.0, 1, 1, 3]) * np.exp(0.2 * rng.normal(size=1000))
    one = sgd(norms)
    np.testing.assert_allclose(sgd(1e-4 * norms).multipliers, one.multipliers, rtol=1e-9)
    for total in (200, 1000, 5000):
        again = sgd(norms, total=total)
        np.testing.assert_array_equal(again.nodes, one.nodes)
        np.testing.assert_allclose(again.multipliers, again.schedule.resolve(total).array(), rtol=0, atol=1e-12)
        assert again.predicted_lr_ratio == pytest.approx(one.predicted_lr_ratio * math.sqrt(1000 / total), rel=0.02)
    gaps = norms.copy()
    gaps[[0, 100, 999]] = math.nan, math.inf, -math.inf
    np.testing.assert_allclose(sgd(gaps).multipliers, one.multipliers, rtol=0, atol=0.02)
    short, long = (sgd(np.interp(np.linspace(0, 1, n), [0, 0.2, 1], [4, 1, 3]), total=500) for n in (500, 40_000))
    assert len(long.nodes) == 10_001
    np.testing.assert_allclose(long.multipliers, short.multipliers, rtol=0, atol=0.02)


def test_an_update_may_go_uphill_for_a_while() -> None:
    rising = np.linspace(1, 2, 100)
    uphill = np.where(np.arange(100) % 20 == 7, -1.0, rising)
    np.testing.assert_allclose(
        refine(uphill, "update").multipliers, refine(rising, "update").multipliers, rtol=0, atol=0.02
    )


# Files


def recorded(norms: Array, lrs: Array, name: str = "l2", total: int | None = None) -> Recording:
    return Recording(total or len(norms), 1, {name: norms}, lrs, "SGD")


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_recordings(tmp_path: Path, suffix: str) -> None:
    """From a file, its state or numbers alone; the lr is relative to what the recorded run did."""
    norms = np.linspace(1, 3, 200)
    norms[17] = math.nan
    linear = recorded(norms, 0.3 * (1 - np.arange(200) / 200))
    path = tmp_path / f"norms{suffix}"
    save(linear, path)
    assert sorted(tmp_path.iterdir()) == [path]
    expected = sgd(norms)
    for source in (path, str(path), linear.state(), json.loads(json.dumps(linear.state()))):
        found = sgd(source)
        np.testing.assert_array_equal(found.multipliers, expected.multipliers)
        assert found.predicted_lr_ratio == pytest.approx(expected.predicted_lr_ratio, rel=1e-12)
    assert Schedule.refined(path, kind="sgd") == expected.schedule
    assert Schedule.from_list([{"refined": str(path), "kind": "sgd"}]) == expected.schedule

    flat = sgd(recorded(norms, np.full(200, 0.3)).state())
    np.testing.assert_array_equal(flat.multipliers, expected.multipliers)
    assert flat.gain == expected.gain  # which is over linear decay, whatever the run had
    assert flat.predicted_lr_ratio > 1.5 * expected.predicted_lr_ratio


def test_advice() -> None:
    assert sgd([1.0] * 50).advice.startswith("keep linear decay: refinement will not pay")
    assert sgd(np.linspace(1, 8, 50)).advice.startswith("may pay")
    assert sgd(np.linspace(8, 1, 50)).advice.startswith("compare it with linear decay before you rely on it")
    clipped = sgd(recorded(np.minimum(np.linspace(0.5, 3, 100), 1.0), np.ones(100)).state())
    assert "Clipping was active in 80% of the steps" in clipped.advice
    assert str(clipped) == f"gain {clipped.gain:.2f}, lr x {clipped.predicted_lr_ratio:.2f}: {clipped.advice}"


# Training


class Study(NamedTuple):
    losses: dict[str, float]
    refined: Refined
    actual_lr_ratio: float


def study(problem: Any, total: int, lrs: Array) -> Study:
    """Record the best run with linear decay, refine, and train anew on fresh seeds, each at its best lr."""
    linear = 1 - np.arange(total) / total
    losses, norms = train(problem, linear, lrs, seeds=6, stream=1)
    refined = sgd(norms[int(losses.argmin())])
    schedules = {
        "flat": np.ones(total),
        "cosine": 0.5 + 0.5 * np.cos(np.pi * np.arange(total) / total),
        "linear": linear,
        "refined": refined.multipliers,
    }
    found = {name: best(problem, eta, lrs) for name, eta in schedules.items()}
    return Study({name: loss for name, (_, loss) in found.items()}, refined, found["refined"][0] / found["linear"][0])


@pytest.mark.parametrize("data_seed", [0, 1, 2])
def test_refinement_pays_where_the_batch_shrinks(data_seed: int) -> None:
    """Logistic regression, batch 32 and from 60 % on 2."""
    found = study(Logistic(data_seed, lambda u: 32 if u < 0.6 else 2), 1000, LRS)
    refined = found.losses.pop("refined")
    assert refined <= 0.5 * min(found.losses.values())
    assert found.actual_lr_ratio / found.refined.predicted_lr_ratio == pytest.approx(1, rel=0.25)
    assert found.refined.gain == pytest.approx(0.59, abs=0.03)
    assert found.refined.advice.startswith("may pay")


def test_it_ties_where_norms_are_constant_and_says_so() -> None:
    found = study(Logistic(0, lambda u: 4), 1000, LRS)
    assert found.refined.gain >= 0.95
    assert found.losses["refined"] == pytest.approx(found.losses["linear"], rel=0.15)
    assert found.refined.advice.startswith("keep linear decay")


def test_it_loses_where_the_problem_is_ill_conditioned_and_says_so() -> None:
    found = study(Logistic(0, lambda u: 4, condition=1e3), 1000, 4 * LRS)
    assert found.losses["refined"] > found.losses["linear"]
    assert found.refined.advice.startswith("keep linear decay")


def test_it_loses_where_the_batch_grows_and_warns() -> None:
    """Batch 1 and from 30 % on 16: the bound promises a gain."""
    found = study(Logistic(0, lambda u: 1 if u < 0.3 else 16), 1500, LRS)
    assert found.losses["refined"] > found.losses["linear"]
    assert found.refined.gain < 0.65
    assert found.refined.advice.startswith("compare it with linear decay before you rely on it")


def test_it_pays_where_the_loss_is_not_smooth() -> None:
    """‖x‖ with noise 1, and 8 in the last 30 %."""
    found = study(Norm(lambda u: 1 if u < 0.7 else 8), 1000, 2.0 ** np.arange(-13, -4.9, 0.5))
    assert found.losses["refined"] <= 0.1 * found.losses["linear"]
    assert found.refined.gain == pytest.approx(0.37, abs=0.02)
    assert found.refined.advice.startswith("may pay")


# Errors

ONES = [1.0] * 20


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: refine(ONES, "adamw"), ValueError, "kind must be 'sgd', 'adam', 'update', got 'adamw'"),
        (lambda _: refine(ONES), TypeError, "missing 1 required positional argument: 'kind'"),
        (lambda _: sgd(ONES[:7]), ValueError, "at least 8 finite numbers, got 7"),
        (lambda _: sgd([math.nan] * 13 + ONES[:7]), ValueError, "at least 8 finite numbers, got 7"),
        (lambda _: sgd([0.0] * 20), ValueError, "norms must be > 0 after smoothing, got 0 at 0% of the run"),
        (lambda _: refine([-1.0] * 20, "update"), ValueError, "norms must be > 0"),
        (
            lambda _: sgd(ONES, smoothing=1),
            ValueError,
            r"smoothing must be a fraction of the run in \[0, 1\), got 1",
        ),
        (lambda _: sgd(ONES, smoothing=True), ValueError, "got True"),
        (lambda _: sgd(ONES, total=0), ValueError, "total must be a whole number of steps >= 1, got 0"),
        (lambda _: sgd(ONES, total=10.5), ValueError, "got 10.5"),
        (lambda _: sgd([ONES]), ValueError, r"one per step, got shape \(1, 20\)"),
        (lambda _: sgd(object()), ValueError, "norms must be numbers, a recording or the path of one"),
        (lambda _: sgd({"l2": ONES}), ValueError, "not a recording of gradient norms: it has no 'T'"),
        (lambda path: sgd(path / "norms.csv"), ValueError, "path must end in .json or .npz"),
        (lambda path: sgd(path / "none.json"), FileNotFoundError, "none.json"),
        (lambda path: sgd(written(path, "{")), ValueError, "is not a recording of gradient norms"),
        (lambda path: sgd(written(path, "[]")), ValueError, "but a list"),
        (lambda path: sgd(written(path, '{"T": 1, "every": 1, "lr": [], "version": 2}')), ValueError, "version 2"),
        (
            lambda _: refine(recorded(np.ones(20), np.ones(20)).state(), "adam"),
            ValueError,
            r"this recording has l2 and no 'l1'; record it with norms=\('l1',\)",
        ),
    ],
)
def test_errors(call: Callable[[Path], Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        call(tmp_path)


def written(path: Path, text: str) -> Path:
    file = path / "norms.json"
    file.write_text(text)
    return file


def test_norms_that_vanish_tell_nothing() -> None:
    """As where targets can be met exactly: the bound then promises thousands of times the lr."""
    vanishing = sgd(np.geomspace(1, 1e-4, 200))
    assert vanishing.predicted_lr_ratio > 100
    assert "keep linear decay: the norms fall to 0.0002 of what they were" in vanishing.advice
    assert "may pay" in sgd(np.r_[np.ones(140), np.full(60, 4.0)]).advice
    assert "norms fall" not in sgd(np.geomspace(1, 0.05, 200)).advice


def test_readme_shows_what_its_example_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "refined = refine(" in code)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert f"\n# {capsys.readouterr().out}" in block
