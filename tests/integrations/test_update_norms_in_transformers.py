"""UpdateNormCallback in real Trainers of transformers: numbers by hand, in the history and in TensorBoard."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from optzoo.integrations.huggingface import UpdateNormCallback
from optzoo.optimizers import AdamW, DoG
from optzoo.optimizers.lookahead import Lookahead
from support.problems import tensors
from support.update_norms import by_hand, copies, network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.net(x) - 1).square().mean()}


class Copier(TrainerCallback):
    """What every step did, by hand. Gradients before clipping are those after it times what the total was cut by."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.before = copies(model)

    def on_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.steps.append(by_hand(self.before, copies(model), copies(model, gradients=True)))


def train(directory: Path, make: Any, callback: UpdateNormCallback, **options: Any) -> tuple[Trainer, Copier]:
    rows = [{"x": x} for x in tensors([(48, 3)], seed=1)[0]]
    checkpoint = options.pop("checkpoint", None)
    defaults: dict[str, Any] = dict(
        per_device_train_batch_size=8,
        num_train_epochs=2,
        max_grad_norm=0.3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    arguments = TrainingArguments(str(directory), **{**defaults, **options})
    model, copier = Model(), Copier()
    optimizer = make(model.parameters())
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,
        callbacks=[copier, callback],
        optimizers=(optimizer, None),  # type: ignore[arg-type]
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    assert not optimizer._optimizer_step_post_hooks
    assert "clip_grad_norm_" not in vars(trainer.accelerator)
    return trainer, copier


def logged(trainer: Trainer) -> dict[int, dict[str, float]]:
    return {row["step"]: row for row in trainer.state.log_history if "update_norm/total" in row}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (partial(AdamW, lr=0.1), {}),
        (partial(Lookahead, base=torch.optim.SGD, lr=0.1, momentum=0.9, k=2), {"gradient_accumulation_steps": 2}),
        (DoG, {"max_grad_norm": 0.0}),
    ],
    ids=["clipped", "accumulated", "not clipped"],
)
def test_logged_is_what_happened(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """The Trainer's own numbers are still there, at every step, and its norm of the gradients is ours."""
    trainer, copier = train(tmp_path, make, UpdateNormCallback(2), **options)
    seen, count = logged(trainer), len(copier.steps)
    assert list(seen) == list(range(2, count + 1, 2))
    own = {row["step"]: row for row in trainer.state.log_history if "loss" in row}
    assert list(own) == list(range(1, count + 1))
    for step, row in seen.items():
        for key, value in copier.steps[step - 1].items():
            assert row[key] == pytest.approx(value, rel=1e-9, nan_ok=True), key
        assert row["grad_norm/total"] == pytest.approx(own[step]["grad_norm"])
        if options.get("max_grad_norm") != 0 and own[step]["grad_norm"] > 0.3:
            factor = own[step]["grad_norm"] / row["grad_norm_clipped/total"]
            weight = "net.0.weight"
            assert row[f"grad_norm/{weight}"] == pytest.approx(row[f"grad_norm_clipped/{weight}"] * factor)
        assert row["lr/pg1"] == pytest.approx(own[step]["learning_rate"] * row.get("optimizer/eta", 1.0))


def test_tensorboard_reads_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", os.fspath(tmp_path / "board"))
    callback = UpdateNormCallback(3, per="module", quantities=("update_ratio", "lr"), histogram=True)
    trainer, _ = train(tmp_path, partial(AdamW, lr=0.1), callback, report_to="tensorboard", logging_steps=4)
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    keys = {"update_ratio/net.0", "update_ratio/net.2", "update_ratio/total", "lr/pg1"}
    assert keys == {key.removeprefix("train/") for key in events.Tags()["scalars"] if "update" in key or "lr/" in key}
    seen = logged_ratios(trainer)
    for key in keys:
        assert [(e.step, pytest.approx(e.value)) for e in events.Scalars(f"train/{key}")] == [
            (step, row[key]) for step, row in seen.items()
        ]
    assert list(seen) == [3, 6, 9, 12]
    assert [e.step for e in events.Scalars("train/loss")] == [4, 8, 12]
    assert [h.step for h in events.Histograms("train/update/net.0.weight")] == [3, 6, 9, 12]


def logged_ratios(trainer: Trainer) -> dict[int, dict[str, float]]:
    return {row["step"]: row for row in trainer.state.log_history if "update_ratio/total" in row}


def test_a_resumed_run_logs_the_same_steps(tmp_path: Path) -> None:
    make = partial(AdamW, lr=0.1)
    trainer, _ = train(tmp_path, make, UpdateNormCallback(4), save_strategy="steps", save_steps=6)
    resumed, _ = train(tmp_path, make, UpdateNormCallback(4), checkpoint=str(tmp_path / "checkpoint-6"))
    assert list(logged(trainer)) == list(logged(resumed)) == [4, 8, 12]
    assert logged(resumed) == logged(trainer)


def test_outside_a_trainer() -> None:
    with pytest.raises(RuntimeError, match=r"there is no transformers\.Trainer; in another loop use log_update_norms"):
        UpdateNormCallback().on_train_begin(None, None, None)  # type: ignore[arg-type]
