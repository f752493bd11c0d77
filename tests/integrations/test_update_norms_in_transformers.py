"""UpdateNormCallback in real Trainers of transformers: numbers by hand, in the history and in TensorBoard."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from transformers import Trainer, TrainerCallback

from optzoo.integrations.huggingface import UpdateNormCallback
from optzoo.optimizers import AdamW, DoG
from optzoo.optimizers.lookahead import Lookahead
from support.update_norms import by_hand, copies
from support.update_norms_in_transformers import logged, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


class Copier(TrainerCallback):
    """What every step did, by hand. Gradients before clipping are those after it times what the total was cut by."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.before = copies(model)

    def on_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.steps.append(by_hand(self.before, copies(model), copies(model, gradients=True)))


def fit(directory: Path, make: Any, callback: UpdateNormCallback, **options: Any) -> tuple[Trainer, Copier]:
    copier = Copier()
    trainer = train(directory, make, [copier, callback], **options)
    assert not trainer.optimizer.optimizer._optimizer_step_post_hooks  # type: ignore[union-attr]
    assert "clip_grad_norm_" not in vars(trainer.accelerator)
    return trainer, copier


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
    trainer, copier = fit(tmp_path, make, UpdateNormCallback(2), **options)
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
    trainer, _ = fit(tmp_path, partial(AdamW, lr=0.1), callback, report_to="tensorboard", logging_steps=4)
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    keys = {"update_ratio/net.0", "update_ratio/net.2", "update_ratio/total", "lr/pg1"}
    assert keys == {key.removeprefix("train/") for key in events.Tags()["scalars"] if "update" in key or "lr/" in key}
    seen = logged(trainer, "update_ratio")
    for key in keys:
        assert [(e.step, pytest.approx(e.value)) for e in events.Scalars(f"train/{key}")] == [
            (step, row[key]) for step, row in seen.items()
        ]
    assert list(seen) == [3, 6, 9, 12]
    assert [e.step for e in events.Scalars("train/loss")] == [4, 8, 12]
    assert [h.step for h in events.Histograms("train/update/net.0.weight")] == [3, 6, 9, 12]


def test_a_resumed_run_logs_the_same_steps(tmp_path: Path) -> None:
    make = partial(AdamW, lr=0.1)
    trainer, _ = fit(tmp_path, make, UpdateNormCallback(4), save_strategy="steps", save_steps=6)
    resumed, _ = fit(tmp_path, make, UpdateNormCallback(4), checkpoint=str(tmp_path / "checkpoint-6"))
    assert list(logged(trainer)) == list(logged(resumed)) == [4, 8, 12]
    assert logged(resumed) == logged(trainer)


def test_outside_a_trainer() -> None:
    with pytest.raises(RuntimeError, match=r"there is no transformers\.Trainer; in another loop use log_update_norms"):
        UpdateNormCallback().on_train_begin(None, None, None)  # type: ignore[arg-type]
