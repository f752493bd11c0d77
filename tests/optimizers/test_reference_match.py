"""Every optimizer equals the float64 transcription of its paper, in every mode and under every transform."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch

from optzoo.optimizers import create_optimizer
from optzoo.optimizers.core import buckets, optimizer
from reference import run
from support.cases import CASES, TRANSFORMS, Case
from support.problems import gradients, tensors, trajectory

pytestmark = pytest.mark.filterwarnings("ignore:AdEMAMix. beta3_warmup")  # short on purpose

LR, STEPS = 0.01, 12
MODES: Mapping[str, Mapping[str, Any]] = {
    "loop": {"foreach": False},
    "foreach": {},
    "pieces": {},
    "fused": {"fused": True},
    "capturable": {"capturable": True},
    "tensor-lr": {"lr": partial(torch.tensor, dtype=torch.float64)},
}


@pytest.fixture
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """The options of a mode, with sizes set such that small tensors take the path of big ones."""
    if request.param == "pieces":
        monkeypatch.setattr(buckets, "CPU_PIECE", 7)
    if request.param == "fused":
        monkeypatch.setattr(optimizer, "SMALLEST", 2)
    return MODES[request.param]


def errors(case: Case, options: Mapping[str, Any], mode: Mapping[str, Any]) -> float:
    """The largest difference from the reference over all steps and tensors, relative to 1 + |θ|."""
    start, grads = tensors(), gradients(STEPS)
    params = [torch.nn.Parameter(t.clone()) for t in start]
    given = {"lr": LR, **case.options, **options}
    as_run = {**given, **mode}
    if "lr" in mode:
        as_run["lr"] = None if given["lr"] is None else mode["lr"](given["lr"])
    path = trajectory(create_optimizer(case.name, params, **as_run), params, grads)
    expected = run(
        case.name,
        [t.numpy() for t in start],
        [[None if g is None else g.numpy() for g in row] for row in grads],
        **given,
    )
    return max(
        float(np.max(np.abs(p.numpy() - q) / (1 + np.abs(q))))
        for after, reference in zip(path, expected, strict=True)
        for p, q in zip(after, reference, strict=True)
    )


@pytest.mark.parametrize("mode", [m for m in MODES if m != "fused"], indirect=True)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_paper(case: Case, transform: str, mode: Mapping[str, Any]) -> None:
    assert errors(case, TRANSFORMS[transform], mode) < 1e-13


COMPILED = [
    *zip(CASES, cycle(("plain", "cautious"))),
    *((Case("adamw"), transform) for transform in TRANSFORMS if transform not in ("plain", "cautious")),
]
"""Every path through an optimizer, every path through the transforms: each of these is compiled once."""


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("mode", ["fused"], indirect=True)
@pytest.mark.parametrize(("case", "transform"), COMPILED, ids=str)
def test_equals_the_paper_when_compiled(case: Case, transform: str, mode: Mapping[str, Any]) -> None:
    assert errors(case, TRANSFORMS[transform], mode) < 1e-12
