"""What the tests of UpdateNormCallback train, in one process or in ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from optzoo.integrations.huggingface import UpdateNormCallback
from optzoo.optimizers import AdamW

from .problems import tensors
from .update_norms import network


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.net(x) - 1).square().mean()}


def train(directory: Path, make: Any, callbacks: Iterable[TrainerCallback], **options: Any) -> Trainer:
    """12 batches of 8, or as many steps as ``options`` make of them."""
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
    model: Any = Model()
    optimizers = (make(model.parameters()), None)
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=list(callbacks), optimizers=optimizers)  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def logged(trainer: Trainer, quantity: str = "update_norm") -> dict[int, dict[str, float]]:
    """What the monitor has logged, by step."""
    return {row["step"]: row for row in trainer.state.log_history if f"{quantity}/total" in row}


def log(directory: Path, file: str, **options: Any) -> None:
    """A short training, all quantities in a file."""
    trainer = train(directory, partial(AdamW, lr=0.1), [UpdateNormCallback(4)], **options)
    if os.environ.get("RANK", "0") == "0":
        (directory / file).write_text(json.dumps(logged(trainer)))
