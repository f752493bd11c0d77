"""Modes change how a step runs, not what it computes: same bits in loop, foreach and pieces; same numbers elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optzoo.optimizers import AdamW, create_optimizer, list_optimizers
from optzoo.optimizers.core import buckets, optimizer
from optzoo.optimizers.core.transforms import EXACT, kept_by_norms
from reference import Reference, run
from support.cases import CASES, Case, facts
from support.problems import gradients, tensors, trajectory

SHAPES = [(), (7,), (40, 41), (1000,)]
FEW = [(), (6, 7)]
"""For those that keep a matrix of all numbers together."""
ULP = {torch.float32: 2**-23, torch.bfloat16: 2**-7}

pytestmark = pytest.mark.filterwarnings("ignore:AdEMAMix. beta3_warmup")


def walk(name: str, dtype: torch.dtype, shapes: list[tuple[int, ...]] | None = None, **options: Any) -> list[Tensor]:
    """The parameters after ten steps."""
    shapes = shapes or (FEW if facts(name).together else SHAPES)
    params = [torch.nn.Parameter(t) for t in tensors(shapes, dtype)]
    options = {"lr": 0.01, "weight_decay": 0.1, **options}
    return trajectory(create_optimizer(name, params, **options), params, gradients(10, shapes, dtype))[-1]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str
)
@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("name", list_optimizers())
def test_loop_foreach_and_pieces_give_the_same_bits(
    name: str, cautious: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = walk(name, dtype, foreach=False, cautious=cautious)
    foreach = walk(name, dtype, foreach=True, cautious=cautious)
    assert all(map(torch.equal, loop, foreach))
    for size in (37, 999):
        monkeypatch.setattr(buckets, "CPU_PIECE", size)
        assert all(map(torch.equal, loop, walk(name, dtype, cautious=cautious))), size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_counts_by_norms_are_exact(dtype: torch.dtype) -> None:
    """Accelerators count so; near 2**24 float32 has no number between two that differ by 1."""
    many = torch.ones(EXACT, dtype=dtype)
    many[::1000] = 0
    many[1::1000] = -1e-40
    given = [many, *(torch.where(t.abs() < 0.5, 0.0, t) for t in tensors(SHAPES, dtype))]
    assert [n.item() for n in kept_by_norms(given)] == [t.count_nonzero().item() for t in given]
    assert {n.dtype for n in kept_by_norms(given)} == {torch.int64}


def test_pieces_above_the_size_at_which_torch_uses_threads() -> None:
    shapes = [(3, 2**18 + 5)]
    whole, cut = (walk("diffgrad", torch.float32, shapes, foreach=foreach) for foreach in (False, True))
    assert torch.equal(whole[0], cut[0])


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("name", ["adamw", "ademamix", "lion", "diffgrad"])
def test_fused_is_within_rounding_of_the_default(
    name: str, cautious: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps of 0.01 may differ by two roundings of the parameter."""
    default = walk(name, dtype, cautious=cautious)
    monkeypatch.setattr(optimizer, "SMALLEST", 2)
    for a, b in zip(default, walk(name, dtype, cautious=cautious, fused=True), strict=True):
        error = (a.double() - b.double()).abs() / (1 + a.double().abs())
        assert error.max() <= 2 * ULP[dtype]


@pytest.mark.compiled
def test_fused_compiles_one_graph_for_all_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "SMALLEST", 2)
    torch._dynamo.utils.counters.clear()
    walk("adam", torch.float32, [(3, 5), (100,), (2, 2, 2), (64, 64)], fused=True, eps=1e-7)
    walk("adam", torch.float32, [(17,), (5, 9)], fused=True, lr=0.5, betas=(0.5, 0.6), eps=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 1


HYPERPARAMETERS = [{"betas": (0.9, 0.999)}, {"betas": (0.5, 0.98), "lr": 0.02, "eps": 1e-4, "weight_decay": 0.3}]
FRESH_PROCESS = """
import json, sys, torch
from optzoo.optimizers import create_optimizer
from optzoo.optimizers.core import optimizer as module
from support.problems import gradients, tensors, trajectory
module.SMALLEST = 2
name, options = json.loads(sys.argv[1])
params = [torch.nn.Parameter(t) for t in tensors([(40, 41)])]
path = trajectory(create_optimizer(name, params, fused=True, **options), params, gradients(5, [(40, 41)]))
print(json.dumps(path[-1][0].flatten().tolist()))
"""


@pytest.mark.slow
@pytest.mark.compiled
def test_processes_that_share_a_compile_cache_keep_their_own_hyperparameters(tmp_path: Path) -> None:
    """torch 2.13 gives the second process the first one's constants where hyper-parameters enter as Python floats."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(tests)}
    for options in HYPERPARAMETERS:
        arguments = [sys.executable, "-c", FRESH_PROCESS, json.dumps(["adamw", options])]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=240, check=True)
        grads = [[g.numpy() for g in row] for row in gradients(5, [(40, 41)])]
        expected = run("adamw", [tensors([(40, 41)])[0].numpy()], grads, **options)[-1][0]
        assert np.abs(np.array(json.loads(done.stdout)) - expected.ravel()).max() < 1e-13


@pytest.mark.parametrize("case", CASES, ids=str)
def test_low_precision_parameters_are_rounded_once(case: Case) -> None:
    """One step of a bfloat16 parameter is the float32 step, rounded."""
    for dtype in (torch.bfloat16, torch.float16):
        low = [torch.nn.Parameter(t) for t in tensors(SHAPES, dtype)]
        high = [torch.nn.Parameter(p.detach().float()) for p in low]
        for params in (low, high):
            opt = create_optimizer(case.name, params, **{"lr": 0.01, **case.options})
            for p, g in zip(params, gradients(1, SHAPES, dtype)[0], strict=True):
                p.grad = g.to(p.dtype)
            opt.step()
            assert all(
                opt.state[p][b].dtype == torch.float32 for p in params for b in opt.buffer_names(opt.param_groups[0], p)
            )
        assert all(torch.equal(a, b.to(dtype)) for a, b in zip(low, high, strict=True))


def test_updates_below_half_a_unit_in_the_last_place_need_more_than_bfloat16() -> None:
    """Nearest rounding leaves a bfloat16 parameter where it is when lr is small; the docstring says so."""
    p = torch.nn.Parameter(torch.full((4,), 0.1, dtype=torch.bfloat16))
    opt = AdamW([p], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        p.grad = torch.ones_like(p)
        opt.step()
    assert torch.equal(p.detach(), torch.full((4,), 0.1, dtype=torch.bfloat16))


@pytest.mark.parametrize("options", [{"foreach": False}, {"capturable": True}, {"fused": True}], ids=str)
def test_options_are_read_at_every_step(options: Mapping[str, Any]) -> None:
    params = [torch.nn.Parameter(t) for t in tensors([(4, 5)])]
    reference = [t.numpy() for t in tensors([(4, 5)])]
    opt = AdamW(params, **options)
    changes = [
        {"lr": 0.1},
        {"betas": (0.5, 0.6)},
        {"weight_decay": 0.0},
        {"cautious": True},
        {"maximize": True},
        {"eps": 1.0},
    ]
    paper = Reference("adamw")
    for change, row in zip(changes, gradients(len(changes), [(4, 5)]), strict=True):
        opt.param_groups[0].update(change)
        vars(paper.h).update(change)
        params[0].grad = row[0]
        opt.step()
        reference = paper.step(reference, [row[0].numpy()])
    assert np.abs(params[0].detach().numpy() - reference[0]).max() < 1e-14


def test_tensor_lr_is_followed_without_being_read() -> None:
    p, q = (torch.nn.Parameter(t) for t in tensors([(4,), (4,)], seed=3))
    q.data.copy_(p.data)
    lr = torch.tensor(0.1, dtype=torch.float64)
    by_tensor, by_number = AdamW([p], lr=lr), AdamW([q], lr=0.1)
    for factor in (1.0, 0.5, 0.0):
        lr.fill_(0.1 * factor)
        by_number.param_groups[0]["lr"] = 0.1 * factor
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q)
        by_tensor.step()
        by_number.step()
    assert (p - q).abs().max() < 1e-15
    assert by_tensor.param_groups[0]["lr"] is lr


def test_capturable_keeps_counts_on_the_device_of_the_parameter() -> None:
    p = torch.nn.Parameter(torch.zeros(3, device="meta"))
    opt = AdamW([p], capturable=True)
    opt.init_state()
    assert opt.state[p]["step"].device.type == "meta"
