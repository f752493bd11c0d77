"""Adafactor at its defaults, whose step falls by itself, where frameworks make a schedule in any case."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Adafactor as TransformersAdafactor
from transformers import Trainer, TrainerCallback, TrainingArguments

from optzoo.optimizers import Adafactor
from optzoo.schedulers import Linear
from support.lightning_runs import RISE_HOLD_FALL, Regression, run_cli

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Slope(nn.Module):
    """A loss whose gradient is 1 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.w.sum() + 0 * x.sum()}


class Places(TrainerCallback):
    """Where the parameter is after every step."""

    def __init__(self) -> None:
        self.seen: list[float] = [0.0]

    def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
        self.seen.append(model.w[0].item())


@pytest.mark.parametrize("scheduler", ["linear", "constant"])
def test_hugging_faces_trainer(scheduler: str, tmp_path: Path) -> None:
    """Its schedule, linear unless told otherwise, multiplies the relative step: 0.01 here."""
    callback = Places()
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=5,
        lr_scheduler_type=scheduler,
        max_grad_norm=0,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    made = Trainer(
        Slope(),
        args=arguments,
        train_dataset=[{"x": torch.zeros(1)}] * 40,
        optimizer_cls_and_kwargs=(Adafactor, {"scale_parameter": False}),
        callbacks=[callback],
    )
    made.train()
    factors = [1 - t / 5 if scheduler == "linear" else 1.0 for t in range(5)]
    assert [a - b for a, b in pairwise(callback.seen)] == pytest.approx([0.01 * factor for factor in factors])


def test_lightnings_command_line() -> None:
    """A schedule of five tenths of rise, hold and fall over ten batches."""
    schedule = {"class_path": "Scheduler", "init_args": {"schedule": RISE_HOLD_FALL}}
    found = run_cli({"optimizer": "Adafactor", "lr_scheduler": schedule}, max_epochs=1)
    assert found.model.lrs == pytest.approx([0, 0.5, 1, 1, 1, 1, 0.553, 0.368, 0.225, 0.106], abs=5e-4)
    before = Regression().network[0].weight
    assert (found.model.network[0].weight - before).abs().max() > 1e-3
    wsd = {"class_path": "WSD", "init_args": {"warmup": 2}}
    assert run_cli({"optimizer": "Adafactor", "lr_scheduler": wsd}, max_epochs=1).model.lrs[2:5] == [1, 1, 1]


def test_an_optimizer_without_lr_is_refused_with_the_cure() -> None:
    optimizer = TransformersAdafactor([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match=r"group 0 has no lr to schedule, .*transformers' also relative_step"):
        Linear(optimizer, total=3)
    assert optimizer.param_groups[0].keys().isdisjoint({"initial_lr"})
