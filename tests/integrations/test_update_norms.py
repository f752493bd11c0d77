"""What is measured equals what copies of everything give, in a plain loop; TensorBoard's files hold it."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from optzoo.integrations import _measure
from optzoo.integrations.tensorboard import log_update_norms
from optzoo.integrations.update_norms import QUANTITIES
from optzoo.optimizers import PSGD, Adafactor, AdamW, CAdamW, DoG, create_optimizer
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.lookahead import Lookahead
from support.problems import tensors
from support.update_norms import Numbers, batches, by_hand, copies, network, train

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
EVERY = 3
Make = Callable[[Any], torch.optim.Optimizer]


def compiled(params: Any) -> torch.optim.Optimizer:
    optimizer = AdamW(params, lr=0.1)
    optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
    return optimizer


MAKERS: dict[str, Make] = {
    "torch AdamW": partial(torch.optim.AdamW, lr=0.1),
    "torch SGD": partial(torch.optim.SGD, lr=0.1, momentum=0.9, maximize=True),
    "Cautious(AdamW)": partial(CAdamW, lr=0.1, weight_decay=0.1),
    "unscaled": partial(CAdamW, lr=0.1, cautious_scale=None),
    "DoG": DoG,
    "Adafactor": partial(Adafactor, beta1=0.9),
    "PSGD": partial(PSGD, lr=0.1),
    "Lookahead(Adam)": lambda params: Lookahead(torch.optim.Adam(params, lr=0.1), k=3),  # which syncs at logged steps
    "Lookahead(Cautious(SGD))": lambda params: Lookahead(Cautious(params, torch.optim.SGD, lr=0.1, momentum=0.9), k=2),
    "compiled": compiled,
}


@pytest.mark.parametrize("name", MAKERS)
def test_measured_is_what_happened(name: str) -> None:
    torch.compiler.reset()
    model, numbers = network(), Numbers()
    optimizer = MAKERS[name](model.parameters())
    norms = log_update_norms(optimizer, numbers, EVERY, model)
    expected = train(model, optimizer, norms)
    assert list(numbers.scalars) == [3, 6]
    for step, seen in numbers.scalars.items():
        for key, value in expected[step - 1].items():
            assert seen[key] == pytest.approx(value, rel=1e-9, nan_ok=True), key
        extra = {key.split("/")[0] for key in seen.keys() - expected[step - 1].keys()}
        assert extra <= {"lr", "optimizer", "update_momentum_cos"}


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"compiled"}))
def test_watching_changes_nothing(name: str) -> None:
    """Not the trajectory, bit for bit, nor what a copy or a checkpoint holds."""
    ends: list[Any] = []
    options: list[Any] = []
    for watched in (True, False):
        model = network()
        optimizer = MAKERS[name](model.parameters())
        norms = log_update_norms(optimizer, Numbers(), 2) if watched else None
        train(model, optimizer)
        if norms is not None:
            norms.remove()
            assert not optimizer._optimizer_step_post_hooks
            assert not optimizer._optimizer_step_pre_hooks
        saved = optimizer.state_dict()
        ends.append((model.state_dict(), saved["state"]))
        options.append(saved["param_groups"])
        assert vars(copy.deepcopy(optimizer)).keys() == vars(pickle.loads(pickle.dumps(optimizer))).keys()
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    assert options[0] == options[1]


def test_of_modules_groups_patterns_and_in_total() -> None:
    def logged(per: str, include: str | None = None) -> dict[str, float]:
        model, numbers = network(), Numbers()
        groups = [{"params": model[0].parameters(), "name": "first"}, {"params": model[2].parameters(), "lr": 0.2}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        log_update_norms(optimizer, numbers, 1, model, per=per, include=include)
        train(model, optimizer, steps=1)
        return numbers.scalars[1]

    each = logged("parameter")
    norm = {key.removeprefix("update_norm/"): value for key, value in each.items() if key.startswith("update_norm/")}
    assert list(norm) == ["0.weight", "0.bias", "2.weight", "2.bias", "total"]
    first, second = math.hypot(norm["0.weight"], norm["0.bias"]), math.hypot(norm["2.weight"], norm["2.bias"])
    assert norm["total"] == pytest.approx(math.hypot(first, second), rel=1e-12)
    for per, names in (("module", ("0", "2")), ("group", ("first", "pg2"))):
        seen = logged(per)
        values = [seen[f"update_norm/{name}"] for name in (*names, "total")]
        assert values == pytest.approx([first, second, norm["total"]], rel=1e-12)
    assert (each["lr/first"], each["lr/pg2"]) == (0.1, 0.2)
    assert {key.split("/")[1] for key in logged("total") if not key.startswith("lr")} == {"total"}
    weights = logged("parameter", "*.weight")
    assert {key.split("/")[1] for key in weights if not key.startswith("lr")} == {"0.weight", "2.weight", "total"}
    assert weights["update_norm/total"] == norm["total"]


class Mixed(nn.Module):
    """Parameters of all kinds, one of which never has a gradient, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        half, wide, pair, idle, frozen = tensors([(3, 4), (2, 5, 3, 3), (3,), (4,), (2,)], torch.float32)
        self.short = nn.Parameter(half.bfloat16())
        self.image = nn.Parameter(wide.to(memory_format=torch.channels_last))
        self.pair = nn.Parameter(torch.complex(pair, pair.flip(0)))
        self.zero = nn.Parameter(torch.zeros(2, 2).double())
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.idle = nn.Parameter(idle)
        self.frozen = nn.Parameter(frozen, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.short.float(), self.image, self.pair.abs(), self.zero + 1, self.empty)
        return torch.stack([(part * x.mean() - 1).square().sum().double() for part in parts]).sum()


def test_parameters_of_all_kinds() -> None:
    model, numbers = Mixed(), Numbers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    norms = log_update_norms(optimizer, numbers, 1, model)
    expected = train(model, optimizer, norms, clip=1e9, steps=2)
    for step, seen in numbers.scalars.items():
        assert not [key for key in seen if "frozen" in key]
        for key, value in expected[step - 1].items():
            if "frozen" not in key and "total" not in key:
                tolerance = 1e-2 if "short" in key and "cos" in key else 1e-6
                assert seen[key] == pytest.approx(value, rel=tolerance, nan_ok=True), key
    assert numbers.scalars[1]["update_norm/idle"] == numbers.scalars[1]["grad_norm_clipped/idle"] == 0
    assert math.isnan(numbers.scalars[1]["update_ratio/zero"])


def test_sparse_gradients() -> None:
    table, numbers = nn.Embedding(10, 3, sparse=True).double(), Numbers()
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    norms = log_update_norms(optimizer, numbers, 1)
    table(torch.tensor([1, 4, 4])).square().sum().backward()
    assert table.weight.grad is not None
    dense, before = table.weight.grad.to_dense(), table.weight.detach().clone()
    norms.before_clipping()
    optimizer.step()
    seen = numbers.scalars[1]
    assert seen["grad_norm/pg1.0"] == seen["grad_norm_clipped/total"] == pytest.approx(dense.norm().item())
    assert seen["update_norm/pg1.0"] == pytest.approx((table.weight.detach() - before).norm().item())


def test_closures_and_schedules() -> None:
    """A closure comes after the step begins; the learning rate is that of the step, a schedule moves it later."""
    model, numbers = network(), Numbers()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    log_update_norms(optimizer, numbers, 2, model)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for x in batches(4):

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = (model(x) - 1).square().mean()
            loss.backward()
            return loss

        before = copies(model)
        optimizer.step(closure)
        expected = by_hand(before, copies(model), copies(model, gradients=True))
        schedule.step()
    assert [numbers.scalars[step]["lr/pg1"] for step in (2, 4)] == pytest.approx([0.05, 0.0125])
    for key, value in expected.items():
        assert numbers.scalars[4][key] == pytest.approx(value, rel=1e-9), key


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_scaler_skips(fused: bool) -> None:
    """They are not logged, the next one is; torch's fused optimizers unscale gradients themselves."""
    model, numbers = network().float(), Numbers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    norms = log_update_norms(optimizer, numbers, 1, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for number, x in enumerate(batches(4)):
        optimizer.zero_grad()
        loss = (model(x.float()) - 1).square().mean()
        scaler.scale(loss * (math.inf if number == 1 else 1)).backward()
        before = copies(model)
        gradients = {name: g / scaler.get_scale() for name, g in copies(model, gradients=True).items()}
        if not fused:
            scaler.unscale_(optimizer)
        norms.before_clipping()
        scaler.step(optimizer)
        scaler.update()
        if number == 1:
            assert before.keys() == copies(model).keys()
            torch.testing.assert_close(before, copies(model), rtol=0, atol=0)
    assert len(numbers.scalars) == 3
    last = numbers.scalars[max(numbers.scalars)]
    expected = by_hand(before, copies(model), gradients, gradients)
    for key, value in expected.items():
        assert last[key] == pytest.approx(value, rel=1e-4), key


# Memory and the host


def test_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact where the parameters are fewer than the numbers of the sketch, close beyond."""
    for size, tolerance in ((2**20, 1e-9), (2**12, 0.1)):
        monkeypatch.setattr(_measure, "SKETCH", size)
        model = nn.Sequential(nn.Linear(100, 200), nn.Tanh(), nn.Linear(200, 50)).double()
        for p, t in zip(model.parameters(), tensors([p.shape for p in model.parameters()]), strict=True):
            p.data.copy_(t / 10)
        full, low = Numbers(), Numbers()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        for numbers, low_memory in ((full, False), (low, True)):
            log_update_norms(optimizer, numbers, 1, model, low_memory=low_memory)
        model(torch.ones(1, 100).double()).square().sum().backward()
        optimizer.step()
        expected, seen = full.scalars[1], low.scalars[1]
        for quantity in ("update_norm", "update_ratio"):
            assert [key for key in seen if key.startswith(quantity)] == [f"{quantity}/total"]
            assert seen[f"{quantity}/total"] == pytest.approx(expected[f"{quantity}/total"], rel=tolerance)
        for key in seen:
            if "update" not in key:
                assert seen[key] == expected[key], key


class Reads(torch.overrides.TorchFunctionMode):
    """Counts what makes the host wait for a device, and what copies a whole tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = self.copies = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self.waits += name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__")
        self.copies += name == "clone"
        return func(*args, **(kwargs or {}))


def test_one_sync_and_one_copy_on_logged_steps_and_nothing_on_others() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    (model(batches()[0]) - 1).square().mean().backward()
    seen = []
    for every in (None, 3):
        norms = None if every is None else log_update_norms(optimizer, Numbers(), every, model)
        for _ in range(3):
            with Reads() as reads:
                if norms is not None:
                    norms.before_clipping()
                optimizer.step()
            seen.append((reads.waits, reads.copies))
    first = seen[0][1]  # SGD makes its momentum of copies
    assert seen == [(0, first), (0, 0), (0, 0), (0, 0), (0, 0), (1, len(list(model.parameters())))]


# What is written


def test_tensorboard_reads_it_back(tmp_path: Path) -> None:
    model, numbers = network(), Numbers()
    optimizer = AdamW(model.parameters(), lr=0.1)
    with SummaryWriter(str(tmp_path)) as writer:
        log_update_norms(optimizer, writer, 2, model, histogram=True, include="*.weight")
        log_update_norms(optimizer, numbers, 2, model, histogram=True, include="*.weight")
        train(model, optimizer, steps=5)
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == set(numbers.scalars[2])
    for key in tags["scalars"]:
        assert [(e.step, e.value) for e in events.Scalars(key)] == [
            (step, pytest.approx(seen[key], rel=1e-6)) for step, seen in numbers.scalars.items()
        ]
    assert tags["histograms"] == ["update/0.weight", "update/2.weight"]
    for key in tags["histograms"]:
        for event, (step, found) in zip(events.Histograms(key), numbers.histograms.items(), strict=True):
            assert event.step == step
            assert event.histogram_value.num == found[key].numel()
            assert event.histogram_value.sum_squares == pytest.approx(found[key].square().sum().item(), rel=1e-5)
            name = key.removeprefix("update/")
            norm = numbers.scalars[step][f"update_norm/{name}"]
            assert found[key].norm().item() == pytest.approx(norm, rel=1e-6)


def test_names() -> None:
    """Given ones first, then the optimizer's, then positions; compiled models look like themselves."""

    def logged(optimizer: torch.optim.Optimizer, names: Any) -> set[str]:
        numbers = Numbers()
        norms = log_update_norms(optimizer, numbers, 1, names, quantities=["weight_norm"])
        optimizer.step()
        norms.remove()
        return {key.removeprefix("weight_norm/") for key in numbers.scalars[1]}

    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    bare, named = torch.optim.SGD(model.parameters()), torch.optim.SGD(model.named_parameters())
    own = {"weight", "bias", "total"}
    assert logged(bare, None) == {"pg1.0", "pg1.1", "total"}
    assert logged(named, None) == own
    compiled_model = torch.compile(model, backend="eager")
    for names in (model, model.named_parameters(), dict(model.named_parameters()), compiled_model):
        assert logged(bare, names) == own
    resumed = Numbers()
    log_update_norms(bare, resumed, 5, initial_step=8)
    bare.step()
    bare.step()
    assert list(resumed.scalars) == [10]


# Warnings and errors


def test_a_ratio_outside_its_band_is_reported_once_by_name() -> None:
    model, numbers = network(), Numbers()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 1e-9}]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    log_update_norms(optimizer, numbers, 1, model, ratio_band=(1e-6, 1.0), ratio_patience=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, optimizer, steps=2)
        assert not caught
        train(model, optimizer, steps=5)
    (warning,) = caught
    assert "outside [1e-06, 1] at 3 logged steps running, at step 3 of 2.weight (" in str(warning.message)
    assert "2.bias (" in str(warning.message)
    assert "0.weight" not in str(warning.message)


def test_what_an_optimizer_does_not_have_is_said_once() -> None:
    def warned(optimizer: torch.optim.Optimizer, quantity: str | None) -> list[str]:
        settings = {} if quantity is None else {"quantities": ("update_norm", quantity)}
        norms = log_update_norms(optimizer, Numbers(), 1, **settings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                optimizer.step()
        norms.remove()
        return [str(warning.message) for warning in caught]

    model = network()
    (model(batches()[0]) - 1).square().mean().backward()
    sgd = torch.optim.SGD(model.parameters())
    assert warned(sgd, None) == []
    for quantity, why in (
        ("update_momentum_cos", "its state has no exp_avg or momentum_buffer"),
        ("optimizer", "it has no report()"),
        ("grad_norm", "the gradients before clipping were not shown; call before_clipping() after backward()"),
    ):
        assert warned(sgd, quantity) == [f"{quantity} is not logged of SGD: {why}"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be an integer >= 1, got 0"),
        ({"per": "layer"}, "per must be 'parameter', 'module', 'group' or 'total', got 'layer'"),
        ({"quantities": ("loss",)}, f"a tuple of some of {', '.join(map(repr, QUANTITIES))}, got"),
        ({"quantities": ()}, "got ()"),
        ({"include": "conv*"}, "include='conv*' matches no parameter; there are 0.bias, 0.weight, 2.bias, 2.weight"),
        ({"include": "*.weight", "per": "module"}, "include='*.weight' matches no module; there are 0, 2"),
        ({"ratio_band": (1, 0.1)}, "two numbers (low, high), low < high, got (1, 0.1)"),
        ({"ratio_patience": 0}, "ratio_patience must be an integer >= 1"),
        ({"ratio_band": (0.0, 1.0), "quantities": ("lr",)}, "needs 'update_ratio' among the quantities"),
        ({"low_memory": True, "histogram": True}, "low_memory=True keeps no update, which histogram=True needs"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    model = network()
    optimizer = create_optimizer("adamw", model)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        log_update_norms(optimizer, Numbers(), **{"names": model, **settings})
    assert message in str(caught.value)
    assert not optimizer._optimizer_step_post_hooks


def test_bad_writer() -> None:
    with pytest.raises(TypeError, match=r"writer must be a torch.utils.tensorboard.SummaryWriter, got PosixPath"):
        log_update_norms(torch.optim.SGD([torch.zeros(1)]), Path("runs"))  # type: ignore[arg-type]
