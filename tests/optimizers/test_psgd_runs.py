"""PSGD in whole runs: saved and resumed, in groups, beside AdamW, with schedulers and scalers, on several ranks."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import AdamW
from optzoo.optimizers.psgd.geometries import GEOMETRIES
from optzoo.optimizers.psgd.whitening import PSGD
from support import processes, psgd_ranks
from support.checkpoints import differences, saved
from support.problems import gradients, tensors, trajectory
from support.psgd_ranks import RUNS, go_on, parameters

SHAPES = psgd_ranks.SHAPES


def end(optimizer: PSGD, params: Sequence[Tensor]) -> dict[str, Any]:
    return {"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()}


# Checkpoints


def half_way(name: str) -> tuple[PSGD, list[nn.Parameter]]:
    options, steps = RUNS[name]
    params = parameters()
    optimizer = PSGD(params, lr=0.05, **options)
    go_on(optimizer, params, 0, steps)
    return optimizer, params


@pytest.mark.parametrize("name", RUNS)
def test_resumes_bit_for_bit(name: str) -> None:
    """With weights_only=True, and all that decides the next update: kron_torch forgets its counters."""
    optimizer, params = half_way(name)
    checkpoint = saved(end(optimizer, params))
    go_on(optimizer, params, RUNS[name][1])
    resumed = [nn.Parameter(p) for p in checkpoint["params"]]
    other = PSGD(resumed, seed=3, precond_dtype=None)
    other.load_state_dict(checkpoint["optimizer"])
    go_on(other, resumed, RUNS[name][1])
    assert not differences(end(optimizer, params), end(other, resumed))


@pytest.mark.slow
def test_resumes_bit_for_bit_in_another_process(tmp_path: Path) -> None:
    halves = {name: half_way(name) for name in RUNS}
    torch.save({name: end(*half) for name, half in halves.items()}, tmp_path / "halves.pt")
    processes.in_new_process(psgd_ranks.resume, tmp_path / "halves.pt", tmp_path / "ends.pt")
    theirs = torch.load(tmp_path / "ends.pt", weights_only=True)
    for name, (optimizer, params) in halves.items():
        go_on(optimizer, params, RUNS[name][1])
        assert not differences(end(optimizer, params), theirs[name])


def test_resumes_where_updates_have_become_rare() -> None:
    """After 500 steps the default's decisions depend on the count alone."""
    p = nn.Parameter(torch.ones(2, 3))
    optimizer, grads = PSGD([p], lr=0.01), [tensors([(2, 3)], torch.float32, seed=t) for t in range(540)]
    trajectory(optimizer, [p], grads[:520])
    checkpoint = saved(end(optimizer, [p]))
    trajectory(optimizer, [p], grads[520:])
    (resumed,) = (nn.Parameter(p) for p in checkpoint["params"])
    other = PSGD([resumed])
    other.load_state_dict(checkpoint["optimizer"])
    trajectory(other, [resumed], grads[520:])
    assert not differences(end(optimizer, [p]), end(other, [resumed]))


def test_functions_are_not_saved_and_stay_as_constructed() -> None:
    params, own = parameters(), lambda t: 0.5
    optimizer = PSGD(params, precond_update_probability=own)
    go_on(optimizer, params, 0, 3)
    checkpoint = saved(optimizer.state_dict())
    assert "precond_update_probability" not in checkpoint["param_groups"][0]
    other = PSGD(parameters(), precond_update_probability=own)
    other.load_state_dict(checkpoint)
    assert other.param_groups[0]["precond_update_probability"] is own


def test_state_is_plain_tensors_and_options_are_plain_values() -> None:
    optimizer, _ = half_way("before a balancing")
    state_dict = optimizer.state_dict()
    assert {type(t) for state in state_dict["state"].values() for t in state.values()} == {Tensor}
    (group,) = state_dict["param_groups"]
    assert not any(isinstance(value, Tensor) for value in group.values())


def test_checkpoints_of_other_layouts_are_refused() -> None:
    optimizer, _ = half_way("at an update")
    others = [nn.Parameter(torch.ones(shape)) for shape in [(), (5,), (4, 3), (2, 3, 2)]]
    other = PSGD(others)
    with pytest.raises(ValueError, match=r"'Q0' of parameter 2 .* has shape \(3, 3\) in the checkpoint"):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike(clone: Any) -> None:
    optimizer, params = half_way("between updates")
    other = clone(optimizer)
    theirs = other.param_groups[0]["params"]
    go_on(optimizer, params, 6, 12)
    go_on(other, theirs, 6, 12)
    assert not differences(end(optimizer, params), end(other, theirs))


# The cache


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_cached_products_change_nothing(geometry: str) -> None:
    """Also where the cache is switched on, off and on again in the middle of a run."""
    ends = []
    for cache in ([False] * 4, [True] * 4, [False, True, False, True]):
        params = [nn.Parameter(t) for t in tensors(SHAPES)]
        optimizer = PSGD(params, lr=0.05, geometry=geometry, init_scale=0.5, precond_update_probability=0.5)
        rows = gradients(28, SHAPES)
        for part, on in enumerate(cache):
            optimizer.param_groups[0]["cache_preconditioner"] = on
            trajectory(optimizer, params, rows[7 * part : 7 * (part + 1)])
        ends.append([p.detach() for p in params])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-12, atol=1e-12)


# Groups


def test_groups_have_options_of_their_own_and_may_come_later() -> None:
    whole, rows = parameters(), gradients(8, SHAPES, torch.float32)
    optimizer = PSGD(whole[:2], lr=0.05)
    trajectory(optimizer, whole[:2], [row[:2] for row in rows[:4]])
    optimizer.add_param_group({"params": whole[2:], "geometry": "QUAD", "max_skew": math.inf, "lr": 0.01})
    trajectory(optimizer, whole, rows[4:])
    alone, waited = parameters()[:2], parameters()
    trajectory(PSGD(alone, lr=0.05), alone, [row[:2] for row in rows])
    late = PSGD([{"params": waited[:2]}, {"params": waited[2:], "geometry": "QUAD", "max_skew": math.inf, "lr": 0.01}])
    trajectory(late, waited, [[None, None, *row[2:]] for row in rows[4:]])
    assert not differences([p.detach() for p in whole], [p.detach() for p in (*alone, *waited[2:])])
    with pytest.raises(ValueError, match="geometry must be"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "geometry": "Q"})
    assert len(optimizer.param_groups) == 2


def test_groups_with_adamw_are_adamw() -> None:
    """Bit for bit, and with its state."""
    shapes = [*SHAPES, (40, 30)]
    rows = gradients(12, shapes, torch.float32)
    shared: dict[str, Any] = dict(lr=0.01, weight_decay=0.1)
    options = {"adamw": True, "adamw_betas": (0.8, 0.95), "adamw_eps": 1e-4, **shared}
    ours, theirs = ([nn.Parameter(t) for t in tensors(shapes, torch.float32)] for _ in range(2))
    split = [{"params": ours[:2], **options}, {"params": ours[2:3]}, {"params": ours[3:], **options, "cautious": True}]
    optimizer = PSGD(split, lr=1e-3)
    trajectory(optimizer, ours, rows)
    groups = [{"params": theirs[:3]}, {"params": theirs[3:], "cautious": True}]
    adamw = AdamW(groups, betas=(0.8, 0.95), eps=1e-4, **shared)
    trajectory(adamw, theirs, rows)
    for i in (0, 1, 3, 4):
        assert torch.equal(ours[i], theirs[i])
        assert not differences(
            {name: t for name, t in optimizer.state[ours[i]].items() if name != "skipped"}, adamw.state[theirs[i]]
        )
    assert "Q0" in optimizer.state[ours[2]]
    assert not torch.equal(ours[2], theirs[2])


# Around it


def test_schedulers() -> None:
    """They act on lr, and leave the steps of the preconditioner alone."""
    ends = []
    for scheduled in (True, False):
        params = parameters()
        lr: Any = torch.tensor(0.1) if scheduled else 0.1
        optimizer = PSGD(params, lr=lr)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for t, row in enumerate(gradients(5, SHAPES, torch.float32)):
            if not scheduled:
                optimizer.param_groups[0]["lr"] = 0.1 * 0.5**t
            trajectory(optimizer, params, [row])
            if scheduled:
                scheduler.step()
        ends.append(([p.detach() for p in params], optimizer.state_dict()["state"]))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-6, atol=1e-6)
    assert not differences(ends[0][1], ends[1][1])


def test_grad_scaler() -> None:
    """A step whose scaled gradients overflow is skipped whole; the others are those of the loss."""
    ends = []
    for scaler in (torch.amp.GradScaler("cpu", init_scale=2.0**10), None):
        p = nn.Parameter(torch.ones(3, 4))
        optimizer = PSGD([p], lr=0.05)
        for t in range(6):
            if t == 3 and scaler is None:
                continue
            optimizer.zero_grad()
            (x,) = tensors([(3, 4)], torch.float32, seed=t)
            loss = (x * p).square().sum() * (math.inf if t == 3 else 1.0)
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        ends.append(end(optimizer, [p]))
    torch.testing.assert_close(ends[0]["params"], ends[1]["params"], rtol=1e-6, atol=1e-6)
    assert ends[0]["optimizer"]["state"][0]["step"] == 5
    assert ends[0]["optimizer"]["state"][0]["skipped"] == 0


def test_closure_and_transforms() -> None:
    """The loss comes back, and Cautious and Grams change the direction as anywhere."""
    for options in ({"cautious": True}, {"grams": True}, {"cautious": True, "cautious_scale": None}):
        p = nn.Parameter(torch.ones(3, 4))
        optimizer = PSGD([p], lr=0.05, **options)

        def closure(p: Tensor = p, optimizer: PSGD = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (torch.arange(12.0).reshape(3, 4) * p.square()).sum()
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(10)]
        assert losses[0] == 66.0
        assert losses[-1] < losses[0]
        assert (p.detach() <= 1).all()  # all updates have the gradient's sign


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "Q0.5"}, "geometry must be " + ".*".join(map(repr, GEOMETRIES)) + ", got 'Q0.5'"),
        ({"precond_update_probability": 0.0}, r"precond_update_probability must be None, a number in \(0, 1\]"),
        ({"precond_update_probability": 1.5}, r"precond_update_probability must be None, a number in \(0, 1\]"),
        ({"damping": -1e-9}, "damping must be a finite number >= 0, got -1e-09"),
        ({"max_skew": -1.0}, "max_skew must be a number >= 0 or infinity, got -1.0"),
        ({"max_skew": math.nan}, "max_skew must be a number >= 0 or infinity, got nan"),
        ({"merge_dims": "all"}, "merge_dims must be None, 'spatial' or 'matrix', got 'all'"),
        ({"whiten": "update"}, "whiten must be 'momentum' or 'grad', got 'update'"),
        ({"clip": 2.0}, "clip must be None or 2 positive numbers"),
        ({"precond_dtype": torch.float16}, "precond_dtype must be None, 'float64', 'float32' or 'bfloat16'"),
        ({"capturable": True}, "capturable=True is not possible"),
    ],
    ids=str,
)
def test_bad_options(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"PSGD: {message}"):
        PSGD([nn.Parameter(torch.ones(2))], **options)


def test_misspelt_options() -> None:
    with pytest.raises(TypeError, match="no option 'lr_precond'; did you mean 'lr_preconditioner'"):
        PSGD([nn.Parameter(torch.ones(2))], lr_precond=0.1)


# Ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Mapping[str, Any]]:
    directory = tmp_path_factory.mktemp("ranks")
    processes.in_ranks(psgd_ranks.distributed, directory)
    return [torch.load(directory / f"{rank}.pt") for rank in range(2)]


def one_process(options: str, steps: int) -> Mapping[str, Tensor]:
    model = processes.network()
    processes.train(model, PSGD(model.parameters(), lr=0.01, **psgd_ranks.OPTIONS[options]), range(steps))
    return model.state_dict()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("mesh", processes.MESHES)
@pytest.mark.parametrize("options", psgd_ranks.OPTIONS)
def test_dtensors_equal_plain_tensors(options: str, mesh: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    params = [nn.Parameter(t) for t in tensors(psgd_ranks.SHARDED_SHAPES)]
    optimizer = PSGD(params, lr=0.01, **psgd_ranks.OPTIONS[options])
    expected = trajectory(optimizer, params, psgd_ranks.sharded_gradients(options))[-1]
    for rank in ranks:
        torch.testing.assert_close(rank["DTensor"][options, mesh], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("options", psgd_ranks.OPTIONS)
def test_fully_sharded_training(options: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    for rank in ranks:
        seen = rank["FSDP2"][options]
        torch.testing.assert_close(seen["params"], one_process(options, 6), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(seen["resumed"], seen["params"], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.distributed
def test_replicated_training(ranks: Sequence[Mapping[str, Any]]) -> None:
    first, second = (rank["DDP"] for rank in ranks)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, one_process("default", 3), rtol=1e-12, atol=1e-12)
