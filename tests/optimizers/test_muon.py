"""What is Muon's own, and what the base of matrix optimizers promises."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import PSGD, AdamW, MatrixOptimizer, Muon, matrices
from optzoo.optimizers.muon import polar
from support import matrix_ranks
from support.features import needs
from support.problems import gradients, tensors, trajectory
from support.processes import in_ranks

ROW, COLUMN = torch.arange(2.0, dtype=torch.float64)[:, None], torch.arange(3.0, dtype=torch.float64)


def walk(params: list[nn.Parameter], rows: Any, **options: Any) -> list[Tensor]:
    return trajectory(Muon(params, **options), params, rows)[-1]


def parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in tensors(shapes, dtype)]


# Published numbers


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"adjust": "original"},
            [[0.5334177430, -0.9606072432, 0.2657217923], [-0.3986917434, -0.6532814045, 0.9452163504]],
        ),
        (
            {"adjust": "original", "method": "svd"},
            [[0.5332985024, -0.9629827064, 0.2686636945], [-0.3932136689, -0.6543725635, 0.9410252352]],
        ),
        ({}, [[0.5358028416, -0.9759386114, 0.2763372819], [-0.4084715405, -0.6509599796, 0.9512322716]]),
        (
            {"adjust": "spectral_unclamped"},
            [[0.5340873889, -0.9649117142, 0.2687022221], [-0.4014375422, -0.6526296358, 0.9469053946]],
        ),
    ],
    ids=str,
)
def test_three_steps(options: dict[str, Any], expected: list[list[float]]) -> None:
    w = nn.Parameter(torch.cos(1 + ROW + 2 * COLUMN))
    rows = [[torch.sin(1.7 * t + ROW + 2 * COLUMN + ROW * COLUMN / 2)] for t in (1, 2, 3)]
    end = walk([w], rows, lr=0.02, weight_decay=0.1, **options)[0]
    assert (end - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("method", "steps", "expected"),
    [
        ("quintic", 5, [0.4705439512, 0.6989170633, 0.7121200817, 0.7654385305, 0.6964364095]),
        ("polar_express", 8, [1.0] * 5),
        ("polar_express", 12, [1.0] * 5),  # the last triple repeats
    ],
)
def test_singular_values(method: str, steps: int, expected: list[float]) -> None:
    for sigma, value in zip([1e-3, 0.01, 0.1, 0.5, 1.0], expected, strict=True):
        rest = math.sqrt(1 - sigma**2)
        n = torch.tensor([[[sigma, 0.0, 0.0], [0.0, rest, 0.0]]], dtype=torch.float64)
        assert abs(polar(n, method, steps, None, 0.0)[0, 0, 0].item() - value) < 1e-10
        assert torch.equal(
            polar(n, method, None, None, 0.0), polar(n, method, 5 if method == "quintic" else 8, None, 0)
        )


@pytest.mark.parametrize(("method", "tolerance"), [("quintic", 1e-12), ("polar_express", 1e-10), ("svd", 1e-12)])
def test_equivariant_under_rotations(method: str, tolerance: float) -> None:
    n, a, b = tensors([(1, 4, 6), (4, 4), (6, 6)])
    u, v = torch.linalg.qr(a)[0], torch.linalg.qr(b)[0]
    turned = polar(u @ n @ v, method, None, None, 1e-7)
    assert (turned - u @ polar(n, method, None, None, 1e-7) @ v).abs().max() < tolerance
    tall = polar(n.mT, method, None, None, 1e-7)
    assert (tall - polar(n, method, None, None, 1e-7).mT).abs().max() < tolerance


def test_svd_leaves_out_directions_that_are_not_there() -> None:
    n = torch.zeros(2, 3, 4, dtype=torch.float64)
    n[0, 0] = torch.tensor([3.0, 0.0, 4.0, 0.0])
    u = polar(n, "svd", None, None, 0.0)
    assert torch.allclose(u[0], n[0] / 5, atol=1e-15)
    assert torch.equal(u[1], n[1])


@pytest.mark.parametrize("method", ["quintic", "polar_express", "svd"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_no_gradient_no_direction(method: str, dtype: torch.dtype) -> None:
    w, *_ = parameters([(4, 5)], dtype)
    before = w.detach().clone()
    walk([w], [[torch.zeros_like(w)]] * 3, weight_decay=0.0, method=method)
    assert torch.equal(w, before)


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_lr_of_zero_moves_nothing(lr: float | Tensor) -> None:
    params = parameters([(4, 5), (3,)], torch.float32)
    before = [p.detach().clone() for p in params]
    walk(params, gradients(2, [(4, 5), (3,)], torch.float32), lr=lr, weight_decay=0.5)
    assert all(map(torch.equal, params, before))


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_three_steps_of_torch(adjust: str, nesterov: bool) -> None:
    """To what its bfloat16 costs, 2**-9 in about ten products, of directions of at most 0.2 √10."""
    needs("torch.optim.Muon", hasattr(torch.optim, "Muon"))
    shapes = [(6, 10), (10, 6), (4, 4)]
    rows = gradients(3, shapes, torch.float32)
    rows[1][2] = rows[0][2]
    ours, theirs = parameters(shapes, torch.float32), parameters(shapes, torch.float32)
    walk(ours, rows, lr=0.02, weight_decay=0.1, adjust=adjust, nesterov=nesterov, ns_dtype="bfloat16")
    options = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": adjust, "nesterov": nesterov}
    trajectory(torch.optim.Muon(theirs, **options), theirs, rows)
    assert max((p - q).abs().max().item() for p, q in zip(ours, theirs, strict=True)) < 2e-3


def test_precision_of_the_steps() -> None:
    n = tensors([(2, 20, 30)], torch.float32)[0]
    exact = polar(n.double(), "quintic", None, None, 1e-7)
    for dtype, most in ((None, 1e-5), ("float32", 1e-5), ("bfloat16", 0.05)):
        u = polar(n, "quintic", None, dtype, 1e-7)
        assert u.dtype == torch.float32
        assert (u - exact).abs().max() < most


# The base: batches, parts, roles


def test_batches_equal_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(4, 5)] * 5 + [(3, 2, 2)] * 2 + [(6,)]
    ends = []
    for size in (2**18, 45, 1):
        monkeypatch.setattr(matrices, "CPU_BATCH", size)
        ends.append(walk(parameters(shapes), gradients(4, shapes), lr=0.1))
    torch.testing.assert_close(ends, ends[:1] * 3, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_parts_are_matrices_of_their_own(dtype: torch.dtype) -> None:
    fused, *apart = parameters([(9, 4), (3, 4), (2, 4), (4, 4)], dtype)
    fused.data.copy_(torch.cat([p.data for p in apart]))
    rows = gradients(3, [(3, 4), (2, 4), (4, 4)], dtype)
    rows = [[torch.ones_like(p) if g is None else g for p, g in zip(apart, row, strict=True)] for row in rows]
    expected = torch.cat(walk(apart, rows, lr=0.1))
    end = walk([fused], [[torch.cat(row)] for row in rows], lr=0.1, parts=(3, 2, 4))
    torch.testing.assert_close(end[0], expected, rtol=0, atol=1e-14)


def test_parts_are_the_rows_of_every_matrix() -> None:
    optimizer = Muon(parameters([(9, 4)]))
    groups = len(optimizer.param_groups)
    for params in (torch.zeros(8, 3), [("a", nn.Parameter(torch.zeros(8, 3)))]):
        with pytest.raises(ValueError, match=r"Muon: parts=\(4, 5\) has 9 rows .* 8, of shape \(8, 3\); give the rows"):
            optimizer.add_param_group({"params": params, "parts": [4, 5]})
    assert len(optimizer.param_groups) == groups
    with pytest.raises(ValueError, match="PSGD takes tensors as one; leave split out"):
        PSGD([{"params": parameters([(9, 4)]), "parts": (4, 5)}])


def test_vectors_are_adamws() -> None:
    shapes = [(), (7,), (1, 5), (3, 1, 1)]
    ours, theirs = parameters(shapes), parameters(shapes)
    rows = gradients(5, shapes)
    optimizer = Muon(ours, lr=0.01, adamw_betas=(0.8, 0.9), adamw_eps=1e-4)
    trajectory(optimizer, ours, rows)
    adamw = AdamW(theirs, lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-4)
    trajectory(adamw, theirs, rows)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert [sorted(optimizer.state[p]) for p in ours] == [sorted(adamw.state[p]) for p in theirs]


def test_vectors_alone_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    matrices._log_vectors.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            walk(parameters([(7,)]), gradients(2, [(7,)]))
        walk(parameters([(7,)]), gradients(1, [(7,)]), adamw=True)
    assert [record.getMessage() for record in caplog.records] == ["Muon: no parameter is a matrix, so all are AdamW's"]


def test_an_embedding_by_mistake_is_named(recwarn: pytest.WarningsRecorder) -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    for optimizer in (
        Muon([*model[1].named_parameters(), ("table", model[0].weight)]),
        Muon([{"params": model[1].parameters()}, {"params": model[0].parameters(), "adamw": True}]),
    ):
        for _ in range(2):
            model(torch.arange(5)).sum().backward()
            optimizer.step()
    (warning,) = [str(w.message) for w in recwarn if "nn.Embedding" in str(w.message)]
    assert warning.startswith("Muon: parameter 'table' belongs to nn.Embedding")


def test_the_gradient_is_not_to_be_written_into() -> None:
    class Careless(MatrixOptimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1, "weight_decay": 0.0}, {})

        @staticmethod
        def directions(g: Tensor, s: Any, h: Any) -> Tensor:
            return g.mul_(2)

    (w,) = parameters([(2, 3)])
    w.grad = torch.ones_like(w)
    with pytest.raises(RuntimeError, match=r"Careless\.directions writes into g"):
        Careless([w]).step()


@pytest.mark.parametrize("capturable", [False, True])
def test_numbers_of_a_step_fit_a_batch(capturable: bool) -> None:
    """Where counts live on the device every matrix has its own, beside the (n, *shape) of the gradients."""

    class Mean(MatrixOptimizer):
        buffers = ("sum",)

        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, {"lr": 1.0, "weight_decay": 0.0}, options)

        @staticmethod
        def directions(g: Tensor, s: Any, h: Any) -> Tensor:
            return s.sum.add_(g) / h.step

    params = parameters([(2, 3), (2, 3)])
    start = [p.detach().clone() for p in params]
    one = torch.ones(2, 3, dtype=torch.float64)
    trajectory(Mean(params, capturable=capturable), params, [[one, None], [3 * one, one], [2 * one, 5 * one]])
    torch.testing.assert_close([p.detach() for p in params], [start[0] - 5, start[1] - 4])


@pytest.mark.slow
@pytest.mark.distributed
def test_shards_of_fused_parameters(tmp_path: Path) -> None:
    """Rows of two ranks, cut elsewhere than the parts are; a batch is gathered in one collective for each operand."""
    in_ranks(matrix_ranks.step_shards, tmp_path)
    params = matrix_ranks.parameters()
    expected = walk(params, matrix_ranks.rows(), **matrix_ranks.OPTIONS)
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(seen["params"], expected, rtol=0, atol=1e-14)
        assert seen["collectives"] == 2 * matrix_ranks.STEPS
