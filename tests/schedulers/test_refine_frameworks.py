"""The recorder inside of training loops that others own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optzoo.optimizers import Lookahead
from optzoo.schedulers.recorder import GradNormRecorder


def l2(model: nn.Module) -> float:
    return torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()


@pytest.mark.slow
def test_lightning_clips_and_accumulates(tmp_path: Path) -> None:
    """Its steps go through a closure, which clears the gradients and makes new ones."""
    lightning = pytest.importorskip("lightning")
    seen = []

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return (self.linear(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = Lookahead(self.parameters(), lr=0.05)
            self.recorder = GradNormRecorder(optimizer)
            return optimizer

        def configure_gradient_clipping(self, optimizer: Any, **clipping: Any) -> None:
            self.clip_gradients(optimizer, **clipping)
            seen.append(l2(self))

        def on_train_end(self) -> None:
            assert GradNormRecorder(self.optimizers()).optimizer is self.recorder.optimizer

    torch.manual_seed(0)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(128, 4)), 8)
    module = Module()
    lightning.Trainer(
        max_epochs=2, accelerator="cpu", gradient_clip_val=1.0, accumulate_grad_batches=2, default_root_dir=tmp_path,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(module, data)  # fmt: skip
    found = module.recorder.recording
    assert found.total == len(seen) == 16
    np.testing.assert_allclose(found.norms["l2"], seen, rtol=1e-6)


def test_accelerate_accumulates() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(0)
    plain = nn.Linear(4, 1)
    model, optimizer = accelerator.prepare(plain, torch.optim.AdamW(plain.parameters(), lr=0.01))
    recorder, seen = GradNormRecorder(optimizer), []
    for step in range(12):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.randn(8, 4)).square().mean())
            if step % 2:
                seen.append(l2(model))
            optimizer.step()
            optimizer.zero_grad()
    np.testing.assert_allclose(recorder.recording.norms["l2"], seen, rtol=1e-6)
    assert recorder.recording.total == 6
