"""Mistyped options of schedules: what was called is named by its public name, and the nearest option with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from optzoo.compare.errors import UsageError
from optzoo.compare.schedule import check_schedule
from optzoo.schedulers import (
    WSD,
    Exponential,
    Linear,
    OneCycle,
    Schedule,
    Scheduler,
    Track,
    read_schedule,
    refine,
)
from support.scheduled import sgd

block = Schedule.tail().jump(1).to(0, 1)
MISTYPED: list[tuple[Callable[[], Any], str]] = [
    (lambda: read_schedule("wsd,foo=1"), "'wsd,foo=1': wsd has no option 'foo'; there are warmup, cooldown, shape"),
    (lambda: read_schedule("wsd,cooldwon=0.1"), "wsd has no option 'cooldwon'; did you mean 'cooldown'"),
    (lambda: read_schedule("linear,warmup=1,warmup=2"), "warmup is given twice"),
    (lambda: read_schedule("wsd,end=abc"), "'wsd,end=abc': value must be a finite number"),
    (lambda: read_schedule([{"strat": 0, "to": 1}]), r"phase 1 \(to\): 'strat'; did you mean 'start'"),
    (lambda: read_schedule([{"to": 1, "stpes": 3}]), r"phase 1 \(to\): 'stpes'; did you mean 'steps'"),
    (lambda: read_schedule([{"hodl": 3}]), "it has 'hodl'; did you mean 'hold'"),
    (lambda: read_schedule([{"refind": [1.0] * 9, "kind": "sgd"}]), "did you mean 'refined'"),
    (lambda: read_schedule([{"refined": [1.0] * 9, "knid": "sgd"}]), "no option 'knid'; did you mean 'kind'"),
    (lambda: Schedule(strat=0), "Schedule has no option 'strat'; did you mean 'start'"),  # type: ignore[call-arg]
    (lambda: Schedule().to(0, stpes=3), "Schedule.to has no option 'stpes'; did you mean 'steps'"),  # type: ignore[call-arg]
    (lambda: Schedule().hold(step=3), "Schedule.hold has no option 'step'; did you mean 'steps'"),  # type: ignore[call-arg]
    (lambda: Schedule().hold().resolve(totl=3), "Schedule.resolve .* did you mean 'total'"),  # type: ignore[call-arg]
    (lambda: Schedule.tail(x=1), "Schedule.tail has no option 'x'; it takes none"),  # type: ignore[call-arg]
    (lambda: Schedule.refined([1.0] * 9, knid="sgd"), "did you mean 'kind'"),
    (lambda: refine([1.0] * 9, "sgd", smothing=0), "refine .* did you mean 'smoothing'"),  # type: ignore[call-arg]
    (lambda: WSD.schedule(cooldwon=0.1), "wsd has no option 'cooldwon'; did you mean 'cooldown'"),
    (lambda: WSD(sgd(), 10, cooldwon=0.1), "WSD has no option 'cooldwon'; did you mean 'cooldown'"),  # type: ignore[call-arg]
    (lambda: WSD(sgd(), totl=10), "WSD has no option 'totl'; did you mean 'total'"),  # type: ignore[call-arg]
    (lambda: WSD(sgd(), 10, clok="optimizer"), "WSD has no option 'clok'; did you mean 'clock'"),  # type: ignore[call-arg]
    (lambda: OneCycle(sgd(), 10, compat="hf"), "OneCycle has no option 'compat'"),  # type: ignore[call-arg]
    (lambda: Scheduler(sgd(), "linear", 10, trakcs={}), "Scheduler .* did you mean 'tracks'"),  # type: ignore[call-arg]
    (lambda: Track("set", shedule="linear"), "Track .* did you mean 'schedule'"),  # type: ignore[call-arg]
    (lambda: Linear(sgd(), 10, tracks={"weigth_decay": "follow"}), r"did you mean 'weight_decay'\? missing='skip'"),
    (lambda: Linear(sgd(), 10, tracks={"weight_decay": {"mod": "set"}}), "did you mean 'mode'"),
    (
        lambda: Exponential.schedule(gamma=2.0).resolve(5000),
        "times 2 a step.* out of range: no float holds its 5000 steps",
    ),
    (lambda: Exponential.schedule(gamma=2.0).resolve()(5000), "times 2 a step' is out of range: .* at step 5000"),
    (lambda: Schedule().repeat(block, scale=2.0).resolve()(3000), "repeat .* is out of range: .* at step 3000"),
]


@pytest.mark.parametrize(("call", "message"), MISTYPED, ids=[message[:40] for _, message in MISTYPED])
def test_mistyped(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "_ramp" not in str(caught.value)
    assert "__init__" not in str(caught.value)


def test_names_are_listed_once() -> None:
    with pytest.raises(UsageError, match="valid names") as caught:
        check_schedule("foo", [])
    names = str(caught.value).partition("valid names: ")[2].split(", ")
    assert len(names) == len(set(names))
    assert {"auto", "constant", "linear", "wsd"} <= set(names)
