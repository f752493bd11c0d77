"""The key-frame algebra: lengths, lists, composition, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optzoo.schedulers import Schedule, read_schedule, shared_prefix

TAIL = Schedule.tail()
WSD = Schedule(start=0).to(1, 500).hold().to(0, 0.2, shape="sqrt")


def bump(p: float) -> float:
    """A shape of a user's own."""
    return p**3


# Randomised


def random_schedule(rng: random.Random, total: int) -> Schedule:
    """Any phases, that together take ``total``."""
    schedule, left = Schedule(start=rng.uniform(0.1, 2)), total
    while left > total // 10:
        steps = rng.randint(1, left // 2 + 1)
        left -= steps
        length: int | float = steps if rng.random() < 0.6 else steps / total
        schedule = _random_phase(rng, schedule, length, steps)
    return schedule.hold() if rng.random() < 0.5 else schedule.to(0.05)


def _random_phase(rng: random.Random, schedule: Schedule, length: int | float, steps: int) -> Schedule:
    value, grid = rng.uniform(0.1, 2), rng.choice(["left", "open", "right", "closed"])
    shapes = [
        "linear",
        "cosine",
        "sqrt",
        "square",
        "mirror-cosine",
        "smoothstep",
        "rex",
        "poly(2.5)",
        "exp0(0.1)",
        bump,
    ]
    choices: list[Callable[[], Schedule]] = [
        lambda: schedule.to(value, length, shape=rng.choice(shapes), grid=grid),
        lambda: schedule.to(value, length, space="log"),
        lambda: schedule.hold(length),
        lambda: schedule.decay(rng.uniform(0.2, 1), length),
        lambda: schedule.exp(0.99, length),
        lambda: schedule.table([1, 0.5, 0.7, 1.1], length),
        lambda: schedule.jump(value).hold(length),
        lambda: schedule.repeat(
            TAIL.to(value, 3).to(0.5, 2).jump(1.5).to(0.2, 4), stretch=1.5, scale=0.9, steps=length
        ),
        lambda: schedule.repeat(TAIL.to(value, steps), times=1),
    ]
    return rng.choice(choices)()


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_schedule(seed: int) -> None:
    """A function of the step alone, the same as an array, from a list, after a copy, and without gaps."""
    rng = random.Random(seed)
    total = rng.randint(40, 400)
    schedule = random_schedule(rng, total)
    curve = schedule.resolve(total)
    values = curve.array()
    assert len(values) == curve.total == total
    assert np.isfinite(values).all()

    steps = list(range(total))
    rng.shuffle(steps)
    fresh = schedule.resolve(total)
    assert {t: fresh(t) for t in steps} == dict(enumerate(values))

    written = json.loads(json.dumps(schedule.to_list()))
    assert Schedule.from_list(written).to_list() == schedule.to_list()
    assert (Schedule.from_list(written).resolve(total).array() == values).all()
    for other in (pickle.loads(pickle.dumps(curve)), copy.deepcopy(curve)):
        assert (other.array() == values).all()
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule
    assert hash(twin) == hash(schedule)

    ends = [segment.begin + (segment.length or 0) for segment in curve.segments]
    assert [segment.begin for segment in curve.segments] == [0, *ends[:-1]]
    for before, after in zip(curve.segments, curve.segments[1:], strict=False):
        if after.phase.keyword in ("to", "hold", "decay", "exp", "table") and after.length:
            begins = after.curve(0 if getattr(after.phase, "grid", "left") in ("left", "closed") else -1)
            if before.length and not (getattr(after.phase, "grid", "") == "closed" and after.length == 1):
                assert begins == pytest.approx(before.curve(before.length), rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_splice_keeps_the_head(seed: int) -> None:
    rng = random.Random(seed)
    total = rng.randint(40, 300)
    schedule, at = random_schedule(rng, total), rng.randint(1, total - 5)
    old = schedule.resolve(total)
    new = schedule.splice(at, TAIL.to(0, 0.1).hold(), total=total).resolve(2 * total)
    assert [new(t) for t in range(at + 1)] == [old(t) for t in range(at + 1)]
    assert new(2 * total) == 0


def test_wsd_prolonged_before_its_cooldown_is_the_same_so_far() -> None:
    short, long = WSD.resolve(5000), WSD.resolve(20_000)
    assert shared_prefix(short, long) == 4001
    assert long(4500) == 1


# Lengths


def test_lengths() -> None:
    def bounds(schedule: Schedule, total: int | None = None, **resolution: Any) -> list[int]:
        return [segment.begin for segment in schedule.resolve(total, **resolution).segments]

    assert bounds(WSD, 10_000) == [0, 500, 8000]
    assert bounds(Schedule().to(0.5, "20%").hold().to(0, "3ep"), 1000, steps_per_epoch=50) == [0, 200, 850]
    assert bounds(Schedule(0).to(1, "untuned").hold(), untuned=2000) == [0, 2000]
    assert bounds(Schedule(0).to(1, 0.29).hold(), 50) == [0, 15]  # 14.5 goes up, though 0.29 * 50 < 14.5 in floats
    assert bounds(Schedule(0).to(1, np.int64(7)).hold(np.int32(3))) == [0, 7]


@pytest.mark.parametrize("total", [7, 10, 99, 1000, 12_345])
def test_fractions_that_sum_to_one_cover_the_total(total: int) -> None:
    thirds = Schedule(0).to(1, 1 / 3).hold(1 / 3).to(0, 1 / 3).resolve(total)
    assert thirds.total == total
    mixed = Schedule(0).to(1, 0.1).hold(0.25).to(0.5, 0.35).to(0, 0.3).resolve(total)
    assert mixed.total == total


def test_no_steps_is_a_jump() -> None:
    """torch's LinearLR(total_iters=0) stays at its start for ever."""
    assert Schedule(start=0).to(1, 0).hold().resolve()(0) == 1
    assert Schedule(start=0).to(1, 0.0).to(0, 10).resolve()(0) == 1


def test_after_the_end() -> None:
    """torch's cosine goes up again, its OneCycleLR raises at the customary last step()."""
    down = Schedule().to(0.1, 10, shape="cosine")
    assert [down.resolve()(t) for t in (10, 11, 1e9)] == [0.1] * 3
    again = Schedule.from_list([{"after": "repeat", "to": 0, "steps": 10}]).resolve()
    assert [again(t) for t in (9, 10, 25)] == pytest.approx([0.1, 1, 0.5])
    strict = Schedule(after="raise").to(0, 10).resolve()
    assert strict(10) == 0
    with pytest.raises(ValueError, match="ended after 10 steps, step 11 was asked for"):
        strict(11)


def test_fractional_steps() -> None:
    assert Schedule().to(0, 10).resolve()(2.5) == 0.75


# Algebra


def test_algebra() -> None:
    warm, down = Schedule(start=0).to(1, 10).hold(), Schedule().to(0)
    product = (warm * down).resolve(100)
    assert [product(t) for t in (5, 10, 55)] == pytest.approx([0.5 * 0.95, 0.9, 0.45])
    assert (0.5 * down).resolve(100)(50) == 0.25
    assert down.clip(0.2, 0.9).resolve(100).array()[[0, 50, 99]].tolist() == [0.9, 0.5, 0.2]
    assert down.delay(20).resolve(120)(70) == 0.5
    joined = Schedule(0).to(1, 10) + Schedule(1).to(0, 30)
    assert joined == Schedule(0).to(1, 10).to(0, 30)
    assert Schedule(0).to(1, 10).then(Schedule(0.5).to(0, 10), jump=True).resolve()(10) == 0.5
    # what is composed can be composed again, also within a list of phases
    nested = (warm * down).clip(0.1).splice(50, TAIL.to(1, 50)).resolve(100)
    assert [nested(t) for t in (0, 25, 75)] == pytest.approx([0.1, 0.75, 0.75])
    assert Schedule(0.3).hold(10).then(warm * down, jump=True).resolve(110)(60) == pytest.approx(0.5)


def test_composed_round_trip() -> None:
    every = [
        WSD * 0.5,
        (WSD * Schedule().to(0)).clip(0.01, 0.9),
        WSD.splice(100, TAIL.to(1, 50).hold(), total=5000),
        WSD.delay(10),
        Schedule(after="raise").hold(3).repeat(Schedule(0.2).to(1, 5), times=3, scale=0.5),
        Schedule().then(WSD * WSD, jump=True),
        Schedule(start=0).to(1, 10, shape=bump).hold(),
        TAIL.to(1, 10),
        Schedule(),
    ]
    for schedule in every:
        again = Schedule.from_list(json.loads(json.dumps(schedule.to_list())))
        assert again.to_list() == schedule.to_list()
        if bump not in [getattr(phase, "shape", None) for phase in schedule.phases]:
            assert again == schedule
            assert eval(repr(schedule)) == schedule


def test_lists_as_people_write_them() -> None:
    text = """
    - {start: 0.0, to: 1.0, steps: 500}
    - {hold: rest}
    - {to: 0.0, steps: 20%, shape: 1-sqrt}
    """
    assert read_schedule(text) == WSD
    assert read_schedule(json.dumps(WSD.to_list())) == WSD
    assert Schedule.from_list([{"to": 0, "shape": "linear"}]) == Schedule().to(0)
    cycles = Schedule.from_list([{"repeat": [{"jump": 1}, {"to": 0, "steps": 10, "shape": "cosine"}], "stretch": 2}])
    assert cycles.resolve()(30) == 1


def test_files(tmp_path: Any) -> None:
    (tmp_path / "a.yaml").write_text(
        "schedule:\n  - {start: 0, to: 1, steps: 500}\n  - hold: rest\n  - {to: 0, steps: 0.2, shape: sqrt}\n"
    )
    (tmp_path / "a.json").write_text(json.dumps(WSD.to_list()))
    assert read_schedule(str(tmp_path / "a.yaml")) == read_schedule(str(tmp_path / "a.json")) == WSD


def test_branch_and_extend_share_checkpoints() -> None:
    trunk = Schedule(start=0).to(1, 100).hold()
    branches = trunk.branch([1000, 2000, 4000], 0.2, shape="sqrt")
    resolved = [branch.resolve() for branch in branches]
    assert [curve.total for curve in resolved] == [1000, 2000, 4000]
    assert [curve(curve.total - 100) for curve in resolved] == pytest.approx(
        [1 - math.sqrt(x) for x in (0.5, 0.75, 0.875)]
    )
    assert shared_prefix(branches[0], branches[1]) == 801
    assert shared_prefix(branches[1], branches[2]) == 1601
    rewarmed = Schedule().to(0).splice(900, TAIL.to(1, 50).to(0), total=1000).resolve(2000)
    assert [rewarmed(t) for t in (500, 900, 950, 1475)] == pytest.approx([0.5, 0.1, 1, 0.5])
    wsd_s = Schedule(0).to(1, 10).repeat(TAIL.hold(80).to(0, 20).jump(1), times=3).resolve()
    assert wsd_s.total == 310
    assert [wsd_s(t) for t in (100, 110, 200, 305, 310)] == pytest.approx([0.5, 1, 0.5, 0.25, 1])


def test_rescale() -> None:
    old = Schedule(0).to(1, 500).hold().to(0, 0.2)
    assert old.rescale(4) == Schedule(0).to(1, 125).hold().to(0, 0.2)
    assert Schedule().to(0, 3).rescale(8) == Schedule().to(0, 1)
    law = Schedule().decay(0.5, timescale=100).rescale(4).resolve()
    assert law(75) == pytest.approx(Schedule().decay(0.5, timescale=100).resolve()(300))
    assert Schedule().exp(0.99).rescale(2).resolve()(10) == pytest.approx(0.99**20)
    nested = (old * Schedule().hold(100).to(0)).rescale(2)
    assert nested == old.rescale(2) * Schedule().hold(50).to(0)


def test_table_is_used_as_it_stands_and_stretches() -> None:
    refined = Schedule().table([1, 0.75, 0.5, 0.25, 0])
    assert refined.resolve(4).array().tolist() == [1, 0.75, 0.5, 0.25]
    assert refined.resolve(8).array() == pytest.approx(1 - np.arange(8) / 8)
    assert refined.resolve(8)(8) == 0


def test_refined_in_a_list() -> None:
    """Constant norms refine to linear decay."""
    refined = {"refined": [2.0] * 90, "kind": "sgd"}
    schedule = Schedule.from_list([{"start": 0, "to": 1, "steps": 10}, refined])
    assert schedule.resolve(100).array()[10:] == pytest.approx(1 - np.arange(90) / 90, abs=1e-9)
    short = Schedule.from_list([{**refined, "steps": 0.45}, {"hold": "rest"}]).resolve(100)
    assert [short(t) for t in (9, 45, 99)] == pytest.approx([0.8, 0, 0], abs=1e-9)


def test_preview_and_lists_do_not_import_torch() -> None:
    code = (
        "import sys; from optzoo.schedulers import Schedule, read_schedule; "
        "read_schedule('wsd').preview(100); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# What is refused, with numbers and a remedy

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: Schedule(0).to(1, 120).to(0).resolve(100), r"need 120 steps but total is 100 \(120 to 1 .*shorten"),
    (lambda: Schedule(0).to(1, 60).hold(60).resolve(100), r"need 120 steps but total is 100"),
    (lambda: Schedule(0).to(1, 900).resolve(1000), r"cover 900 of 1000 steps .*add hold\(\), or .* 'rest'"),
    (lambda: Schedule(0).to(1, -1), "must not be negative, got -1"),
    (lambda: Schedule.from_list([{"hold": 3}, {"to": 1, "steps": -1}]), r"phase 2 \(to\): .*got -1"),
    (lambda: Schedule(0).to(1, 0.1).resolve(), "fraction 0.1 needs a total"),
    (lambda: Schedule().hold().to(1, 3).hold().resolve(10), r"two phases ask for the rest \(1 and 3"),
    (lambda: Schedule().hold().to(0, 10).resolve(), "only the last phase may be open-ended"),
    (lambda: Schedule().to(0).resolve(), "give steps, or the run's total"),
    *[(lambda t=t: WSD.resolve(t), "total must be a positive int") for t in (True, 0, -3, 10.5, "100")],
    *[
        (lambda v=v: Schedule(0).to(1, v), "is not a whole number of steps nor a fraction below 1")
        for v in (2.0, True, math.nan, math.inf, 1.0, -0.1)
    ],
    *[(lambda v=v: Schedule(0).to(1, v), "is no length") for v in ("100%", "3 epochs", "", "-3ep")],
    (lambda: Schedule(0).to(1, "3ep").hold().resolve(100), "'3ep' needs steps_per_epoch"),
    (lambda: Schedule(0).to(1, "untuned").hold().resolve(100), "'untuned' is 2/.*Scheduler"),
    *[(lambda v=v: Schedule().to(v, 10), "must be a finite number") for v in (math.nan, math.inf, True, "1e-3", None)],
    (lambda: Schedule("1e-3").hold(), "YAML reads 1e-3 as one"),
    (lambda: Schedule().to(0, 10, space="log"), r"log space needs positive .*exp0"),
    (lambda: Schedule(0).to(1, 10, space="log").resolve(), r"log space needs positive .*0 is an end"),
    (lambda: Schedule(0.5).to(1, 10, space="halflife"), r"values in \(0, 1\); 1 is an end"),
    (lambda: Schedule().to(0, 10, shape="cosin"), "unknown shape 'cosin'; did you mean 'cosine'"),
    (lambda: Schedule().to(0, 10, shape="poly(-1)"), "takes a power > 0, got '-1'"),
    (lambda: Schedule().to(0, 10, shape="poly(x)"), "takes a power > 0, got 'x'"),
    (lambda: Schedule().to(0, 10, shape="exp0(1)"), r"takes a ratio in \(0, 1\)"),
    (lambda: Schedule().to(0, 10, shape="no_such_module:f").resolve(), "cannot be imported"),
    (lambda: Schedule().to(0, 10, shape="math:pi").resolve(), "must be a function"),
    (lambda: Schedule().to(0, 10, shape=3), "must be a name or a function"),  # type: ignore[arg-type]
    (lambda: Schedule().to(0, 10, shape=lambda p: p).to_list(), "make it a module's function"),
    (lambda: Schedule().to(0, 10, grid="lef"), "unknown grid 'lef'; did you mean 'left'"),
    (lambda: Schedule().to(0, 10, space="logg"), "unknown space 'logg'; did you mean 'log'"),
    (lambda: Schedule(after="stop"), "unknown after 'stop'"),
    (lambda: Schedule().decay(0), "power must be > 0, got 0"),
    (lambda: Schedule().decay(0.5, timescale=-1), "timescale must be > 0, got -1"),
    (lambda: Schedule().exp(0), "gamma must be > 0, got 0"),
    (lambda: Schedule().table([1]), "2 values or more"),
    (lambda: Schedule().table([1, math.nan]), "value 1 of a table must be a finite"),
    (lambda: Schedule().repeat(TAIL), "repeat of an empty block"),
    (lambda: Schedule().repeat(TAIL.jump(1)).resolve(10), "has no steps"),
    (lambda: Schedule().repeat(TAIL.hold()).resolve(10), "takes the rest"),
    (lambda: Schedule().repeat(TAIL.hold(3), times=0), "times must be an int >= 1"),
    (lambda: Schedule().repeat(TAIL.hold(3), times=2, steps=6), "not both"),
    (lambda: Schedule().repeat(TAIL.hold(3), stretch=0), "stretch must be > 0"),
    (lambda: Schedule().resolve(10), "has no phases"),
    (lambda: TAIL.to(1, 10).resolve(), "a tail has none"),
    (lambda: Schedule(0).to(1, 10) + Schedule(0.5).to(0, 10), "ends at 1, the second begins at 0.5"),
    (lambda: Schedule().decay(0.5, 10) + Schedule(0.5).to(0, 10), "depends on the lengths"),
    (
        lambda: Schedule(0.3).hold(10).then(Schedule().hold() * 0.5).resolve(20),
        r"begins at 0.5, .* ends at 0.3; put jump\(0.5\)",
    ),
    (
        lambda: Schedule().to(0, 10).splice(20, TAIL.hold(5)).resolve(),
        "first 20 steps are asked of a schedule that has 10",
    ),
    (lambda: Schedule().hold().clip(0.9, 0.1), "low <= high, got low=0.9 and high=0.1"),
    (lambda: WSD.rescale(0), r"kappa .* must be > 0, got 0"),
    (lambda: WSD.branch([100], 1.5), r"cooldown must be a fraction .* got 1.5"),
    (lambda: WSD.resolve(1000)(-1), "a step must be >= 0, got -1"),
    (lambda: Schedule().hold().resolve().array(), "has no end"),
    (lambda: Schedule.from_list([{"too": 1}]), "phase 1 must have one of the keys"),
    (lambda: Schedule.from_list([{"refined": [1.0] * 9}]), r"phase 1 \(refined\): .*'kind'"),
    (lambda: Schedule.from_list([{"refined": "no.json", "kind": "sgd"}]), r"phase 1 \(refined\): .*no\.json"),
    (lambda: Schedule(1).exp(1e30, 100).resolve(), "out of range"),
    (lambda: Schedule.from_list([{"to": 1, "hold": 3}]), "it has 'to' and 'hold'"),
    (lambda: Schedule.from_list([{"to": 1, "step": 3}]), "did you mean 'steps'"),
    (lambda: Schedule.from_list([{"version": 2, "to": 1}]), "version 2, this release reads 1"),
    (lambda: Schedule.from_list("wsd"), "a schedule is a list of phases"),
    (lambda: Schedule.from_list({"to": 1}), "a schedule is a list of phases"),
    (lambda: Schedule.from_list([3]), "phase 1 must be a mapping"),
    (lambda: read_schedule("wsdd"), "did you mean 'wsd'"),
    (lambda: read_schedule("wsd,cooldwn=0.1"), "cooldwn"),
    (lambda: read_schedule("wsd,0.1"), "write name=value"),
    (lambda: read_schedule("nowhere.yaml"), "there is no file 'nowhere.yaml'"),
    (lambda: read_schedule("[}"), "neither JSON nor YAML"),
    (lambda: shared_prefix(Schedule().hold(), Schedule().hold()), "neither schedule has an end"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_names_are_not_those_of_modules() -> None:
    """A function and its module have the same name; whichever is imported first, the package has the function."""
    code = (
        "import optzoo.schedulers.refine, optzoo.schedulers.batch_scaling, optzoo.schedulers.theory\n"
        "from optzoo.schedulers import refine, batch_scaling, bound, Refined\n"
        "from optzoo.schedulers.refine import refine as again\n"
        "assert refine is again and callable(batch_scaling) and callable(bound)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
