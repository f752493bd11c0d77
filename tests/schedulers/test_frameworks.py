"""The same run of ten steps under Lightning, LightningCLI, the Hugging Face Trainer and Accelerate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import accelerate
import lightning.pytorch as lightning
import pytest
import torch
import transformers
from lightning.pytorch import cli
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from optzoo.schedulers import WSD, Schedule, Scheduler

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore:.*(num_workers|log_every_n|args parameter|ckpt_path|not resumable)",
)
EXACT = [0, 0.05, 0.1, 0.1, 0.1, 0.1, 0.0553, 0.0368, 0.0225, 0.0106]
PHASES: list[dict[str, Any]] = [
    {"start": 0, "to": 1, "steps": 0.2},
    {"hold": "rest"},
    {"to": 0, "steps": 0.5, "shape": "sqrt"},
]
QUIET: dict[str, Any] = dict(
    accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=2
)


class Recording(lightning.LightningModule):
    """Five batches an epoch, of which each notes the lr it is trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.used = nn.Linear(2, 1), []  # type: ignore[var-annotated]

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        self.used.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return self.layer(batch[0]).square().mean()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(20, 2)), batch_size=4)


class Configured(Recording):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": Scheduler(optimizer, PHASES, 10).lightning()}


def test_lightning(tmp_path: Path) -> None:
    model = Configured()
    lightning.Trainer(**QUIET, enable_checkpointing=False).fit(model)
    assert model.used == pytest.approx(EXACT, abs=5e-5)


def test_lightning_resumes(tmp_path: Path) -> None:
    callback = lightning.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    lightning.Trainer(**QUIET, callbacks=[callback]).fit(Configured())
    resumed = Configured()
    lightning.Trainer(**QUIET, enable_checkpointing=False).fit(resumed, ckpt_path=tmp_path / "step=6.ckpt")
    assert resumed.used == pytest.approx(EXACT[6:], abs=5e-5)


PRESET = ["--lr_scheduler=optzoo.schedulers.WSD", "--lr_scheduler.warmup=0.2", "--lr_scheduler.cooldown=0.5"]
PRESET += ["--lr_scheduler.shape=sqrt", "--lr_scheduler.compat=hf"]
LISTED = ["--lr_scheduler=optzoo.schedulers.Scheduler", f"--lr_scheduler.schedule={json.dumps(PHASES)}"]


def run_cli(command: type[cli.LightningCLI], arguments: list[str]) -> list[float]:
    made = command(
        Recording,
        args=["fit", "--optimizer=torch.optim.SGD", "--optimizer.lr=0.1", *arguments, "--lr_scheduler.total=10"],
        trainer_defaults={**QUIET, "enable_checkpointing": False},
        save_config_callback=None,
        seed_everything_default=0,
    )
    return made.model.used  # type: ignore[no-any-return]


class EveryStep(cli.LightningCLI):
    @staticmethod
    def configure_optimizers(module: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
        return {"optimizer": optimizer, "lr_scheduler": lr_scheduler.lightning()}


@pytest.mark.parametrize("arguments", [PRESET, LISTED], ids=["preset", "list"])
def test_lightning_cli(arguments: list[str]) -> None:
    assert run_cli(EveryStep, arguments) == pytest.approx(EXACT, abs=5e-5)
    clock = ["--lr_scheduler.clock=optimizer"]
    assert run_cli(cli.LightningCLI, arguments + clock) == pytest.approx(EXACT, abs=5e-5)


def test_stock_lightning_cli_steps_once_an_epoch_which_is_said() -> None:
    with pytest.warns(UserWarning, match="once per 5 optimizer steps, and total is 10"):
        used = run_cli(cli.LightningCLI, LISTED)
    assert used == pytest.approx([0.0] * 5 + [0.05] * 5)


def test_lightning_cli_reads_yaml(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        """
optimizer:
  class_path: torch.optim.AdamW
  init_args: {lr: 0.1}
lr_scheduler:
  class_path: optzoo.schedulers.Linear
  init_args:
    total: 10
    clock: optimizer
    tracks:
      weight_decay: {mode: scale, schedule: [{to: 0}]}
    groups:
      0: [{start: 1, hold: 5}, {to: 0}]
"""
    )
    made = cli.LightningCLI(
        Recording,
        args=["fit", f"--config={tmp_path / 'config.yaml'}"],
        trainer_defaults={**QUIET, "enable_checkpointing": False},
        save_config_callback=None,
        seed_everything_default=0,
    )
    assert made.model.used == pytest.approx([0.1] * 6 + [0.08, 0.06, 0.04, 0.02])
    assert made.trainer.optimizers[0].param_groups[0]["weight_decay"] == 0


class Ones(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.ones(2)}


class Noting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.used, self.optimizer = nn.Linear(2, 1), [], None  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.used.append(self.optimizer.param_groups[0]["lr"])
        return {"loss": self.layer(x).square().mean()}


def train(folder: Path, total: int, clock: str, resume: str | None = None) -> list[float]:
    """With the Hugging Face Trainer, saving at step 4."""
    model = Noting()
    optimizer = model.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=total,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        save_steps=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=Ones(),
        optimizers=(optimizer, Scheduler(optimizer, PHASES, total, clock=clock)),
    )
    trainer.train(resume_from_checkpoint=resume)
    return model.used[::2]


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["calls", "optimizer"])
def test_hugging_face(clock: str, tmp_path: Path) -> None:
    assert train(tmp_path, 10, clock) == pytest.approx(EXACT, abs=5e-5)
    checkpoint = str(tmp_path / "checkpoint-4")
    assert train(tmp_path / "again", 10, clock, checkpoint) == pytest.approx(EXACT[4:], abs=5e-5)
    longer = Schedule.from_list(PHASES).resolve(20)
    assert train(tmp_path / "longer", 20, clock, checkpoint) == pytest.approx([0.1 * longer(t) for t in range(4, 20)])


@pytest.mark.parametrize("clock", ["calls", "optimizer"])
@pytest.mark.parametrize("first", ["optimizer", "scheduler"])
def test_accelerate(first: str, clock: str) -> None:
    """Its scheduler counts steps of its own while gradients accumulate, and stops at an attribute total_steps."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    if first == "optimizer":  # prepared before the scheduler is made of it
        layer, optimizer = accelerator.prepare(layer, optimizer)
    scheduler = WSD(optimizer, 10, 0.2, 0.5, "sqrt", compat="hf", clock=clock)
    if first == "scheduler":
        layer, optimizer = accelerator.prepare(layer, optimizer)
    prepared = accelerator.prepare(scheduler)
    used = []
    for batch in range(20):
        with accelerator.accumulate(layer):
            if batch % 2 == 0:
                used.append(optimizer.param_groups[0]["lr"])
            accelerator.backward(layer(torch.ones(1, 2)).sum())
            optimizer.step()
            prepared.step()
            optimizer.zero_grad()
    assert used == pytest.approx(EXACT, abs=5e-5)
