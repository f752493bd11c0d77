"""Several logs on one writer keep to tags of their own."""

from __future__ import annotations

import csv
import gc
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from optzoo.integrations.huggingface import UpdateNormCallback
from optzoo.integrations.lightning import UpdateNormMonitor
from optzoo.integrations.tensorboard import log_update_norms
from optzoo.optimizers import AdamW, Lion
from support.update_norms import Numbers


def optimizers() -> tuple[nn.Module, torch.optim.Optimizer, nn.Module, torch.optim.Optimizer]:
    """As of a GAN."""
    generator, discriminator = nn.Linear(4, 4), nn.Linear(4, 1)
    return generator, AdamW(generator.parameters()), discriminator, AdamW(discriminator.parameters())


def test_two_optimizers_on_one_writer_have_tags_of_their_own(tmp_path: Path) -> None:
    g, of_g, d, of_d = optimizers()
    writer = SummaryWriter(tmp_path)
    logs = [log_update_norms(of_g, writer, 1, g), log_update_norms(of_d, writer, 1, d)]
    expected: dict[str, list[float]] = {"": [], "AdamW-1/": []}
    for _ in range(3):
        for module, optimizer, prefix in ((g, of_g, ""), (d, of_d, "AdamW-1/")):
            optimizer.zero_grad()
            d(g(torch.ones(2, 4))).mean().backward()
            before = [p.detach().clone() for p in module.parameters()]
            optimizer.step()
            moved = [p.detach() - q for p, q in zip(module.parameters(), before, strict=True)]
            expected[prefix].append(torch.cat([m.flatten() for m in moved]).norm().item())
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for prefix, values in expected.items():
        found = events.Scalars(f"{prefix}update_norm/total")
        assert [event.step for event in found] == [1, 2, 3]
        assert [event.value for event in found] == pytest.approx(values, rel=1e-5)
    for log in logs:
        log.remove()


def test_prefixes_are_given_or_counted_and_free_when_a_log_is_removed() -> None:
    g, of_g, _, of_d = optimizers()
    numbers: Any = Numbers()
    lion = Lion(g.parameters())
    logs = [log_update_norms(optimizer, numbers) for optimizer in (of_g, of_d, of_d, lion)]
    assert [log.prefix for log in logs] == ["", "AdamW-1/", "AdamW-2/", "Lion-1/"]
    with pytest.raises(ValueError, match=r"prefix='' is that of another log on this writer.*remove\(\) the other"):
        log_update_norms(of_d, numbers, prefix="")
    logs[0].remove()
    logs.append(log_update_norms(of_g, numbers, prefix=""))
    assert log_update_norms(of_g, Numbers()).prefix == ""  # type: ignore[arg-type]
    assert log_update_norms(of_g, numbers, prefix="generator/").prefix == "generator/"
    assert [log_update_norms(of_g, None).prefix for _ in range(2)] == ["", ""]  # of a rank that does not write
    with pytest.raises(ValueError, match="prefix must be a text such as 'generator/', got 3"):
        log_update_norms(of_g, Numbers(), prefix=3)  # type: ignore[arg-type]
    gc.collect()
    assert [log.prefix for log in logs] == ["", "AdamW-1/", "AdamW-2/", "Lion-1/", ""]


def test_callbacks_take_a_prefix_and_are_told_apart_by_it(tmp_path: Path) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return self.layer(batch).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return AdamW(self.parameters())

    monitors = [UpdateNormMonitor(1), UpdateNormMonitor(1, prefix="again/")]
    assert monitors[0].state_key == UpdateNormMonitor(1, prefix="").state_key
    assert "prefix" not in monitors[0].state_key
    assert monitors[0].state_key != monitors[1].state_key
    logger = pl.loggers.CSVLogger(tmp_path)
    callbacks: list[pl.Callback] = [*monitors]
    quiet: dict[str, Any] = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(accelerator="cpu", max_steps=1, logger=logger, callbacks=callbacks, **quiet)
    trainer.fit(Module(), torch.utils.data.DataLoader([torch.ones(2)]))
    rows = csv.DictReader((Path(logger.log_dir) / "metrics.csv").open())
    logged = {key: float(value) for row in rows for key, value in row.items() if value}
    assert logged["update_norm/total"] == logged["again/update_norm/total"] > 0
    assert UpdateNormCallback(prefix="again/").prefix == "again/"
