"""Whatever of ours takes an optimizer takes what Accelerate, Lightning and Fabric have made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from lightning.fabric import Fabric
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn

from optzoo.integrations.tensorboard import log_update_norms
from optzoo.optimizers import AdamW, Cautious, Lookahead, ScheduleFreeSGD, adopt, evaluation_weights, slow_weights
from optzoo.schedulers import GradNormRecorder, Scheduler, batch_scaling
from optzoo.unwrapping import unwrapped
from support.update_norms import Numbers

Prepare = Callable[[nn.Module, torch.optim.Optimizer], Any]


def accelerated(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return Accelerator(cpu=True).prepare(model, optimizer)[1]


def of_fabric(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return Fabric(accelerator="cpu", devices=1).setup(model, optimizer)[1]


def of_lightning(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """``self.optimizers()`` in a LightningModule, in a run of one step."""
    found: list[Any] = []

    class Module(pl.LightningModule):
        automatic_optimization = False

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

        def training_step(self, batch: Any, batch_idx: int) -> None:
            found.append(self.optimizers())

    module = Module()
    module.model = model
    quiet: dict[str, Any] = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    pl.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet, limit_train_batches=1).fit(
        module, torch.utils.data.DataLoader([torch.zeros(1)])
    )
    return found[0]


FRAMEWORKS: dict[str, Prepare] = {"Accelerate": accelerated, "Fabric": of_fabric, "Lightning": of_lightning}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(params=FRAMEWORKS)
def prepare(request: pytest.FixtureRequest) -> Prepare:
    return FRAMEWORKS[request.param]


def step(model: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 3)).sum().backward()
    unwrapped(optimizer).step()  # Lightning's own step needs the run, which is over


def test_the_optimizer_itself_comes_out(prepare: Prepare) -> None:
    model = nn.Linear(3, 1)
    for inner in (torch.optim.SGD(model.parameters()), Lookahead(model.parameters(), Cautious)):
        prepared = prepare(model, inner)
        assert prepared is not inner
        assert unwrapped(prepared) is inner
        assert unwrapped(inner) is inner


def test_wrappers_that_do_work_stay() -> None:
    class Foreign(torch.optim.SGD):
        """Such as other libraries' Lookahead."""

        optimizer = torch.optim.SGD([torch.zeros(1)])

    for optimizer in (Foreign([torch.zeros(1)]), Lookahead([torch.zeros(1)])):
        assert unwrapped(optimizer) is optimizer


def test_update_norms(prepare: Prepare) -> None:
    model, numbers = nn.Linear(3, 1), Numbers()
    prepared = prepare(model, AdamW(model.parameters(), lr=0.1))
    norms = log_update_norms(prepared, numbers, 1, model)  # type: ignore[arg-type]
    before = model.weight.detach().clone()
    step(model, prepared)
    norms.remove()
    assert numbers.scalars[1]["update_norm/weight"] == pytest.approx((model.weight - before).norm().item(), rel=1e-5)


def test_adopt_from_and_into(prepare: Prepare) -> None:
    model = nn.Linear(3, 1)
    source = torch.optim.AdamW(model.parameters())
    step(model, source)
    target = AdamW(model.parameters(), lr=0.3)
    adopt(prepare(model, target), prepare(model, source))
    assert target.state[model.weight]["step"].item() == 1
    assert torch.equal(target.state[model.weight]["exp_avg"], source.state[model.weight]["exp_avg"])
    assert target.param_groups[0]["lr"] == 0.3


def test_slow_weights(prepare: Prepare) -> None:
    model = nn.Linear(3, 1)
    start = model.weight.detach().clone()
    prepared = prepare(model, Lookahead(model.parameters(), torch.optim.SGD, lr=1.0, k=2))
    step(model, prepared)
    end = model.weight.detach().clone()
    with slow_weights(prepared):
        assert torch.equal(model.weight, start)
    assert torch.equal(model.weight, end)
    assert not torch.equal(start, end)
    with pytest.raises(TypeError, match=r"slow_weights takes a Lookahead.*got SGD"):
        slow_weights(prepare(model, torch.optim.SGD(model.parameters())))


def test_evaluation_weights_and_modes(prepare: Prepare) -> None:
    model = nn.Linear(3, 1)
    optimizer = ScheduleFreeSGD(model.parameters(), lr=1.0, momentum=0.5)
    prepared = prepare(model, optimizer)
    for _ in range(3):
        step(model, prepared)
    end, z = model.weight.detach().clone(), optimizer.state[model.weight]["z"]
    with evaluation_weights(prepared):
        x = model.weight.detach().clone()
        with pytest.raises(RuntimeError, match=r"step\(\) within"):
            optimizer.step()
    assert torch.equal(model.weight, end)
    torch.testing.assert_close(x, 2 * end - z)
    prepared.eval()
    assert torch.equal(model.weight, x)
    prepared.train()
    assert torch.equal(model.weight, end)


def test_schedules_recorders_and_batch_scaling(prepare: Prepare) -> None:
    model = nn.Linear(3, 1)
    prepared = prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    schedule = Scheduler(prepared, "linear", total=4, clock="optimizer")
    recorder = GradNormRecorder(prepared)
    for _ in range(2):
        step(model, prepared)
    assert schedule.last_epoch == 2
    assert recorder.recording.total == 2
    recorder.remove()
    lr = prepared.param_groups[0]["lr"]
    batch_scaling(prepared, 4, rule="linear").apply()
    assert unwrapped(prepared).param_groups[0]["lr"] == 4 * lr


@pytest.mark.parametrize("wrapper", [Lookahead, Cautious])
def test_a_wrapper_goes_inside_what_a_framework_makes(prepare: Prepare, wrapper: Any) -> None:
    model = nn.Linear(3, 1)
    prepared = prepare(model, torch.optim.SGD(model.parameters()))
    kind = type(prepared).__name__
    with pytest.raises(TypeError, match=rf"{wrapper.__name__} around {kind}: make it of the optimizer itself"):
        wrapper(prepared)
    assert isinstance(prepared, (AcceleratedOptimizer, LightningOptimizer, torch.optim.SGD))
