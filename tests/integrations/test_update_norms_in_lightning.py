"""UpdateNormMonitor in real Trainers: what it logs is what copies of everything give, for every way to optimize."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from optzoo.integrations.lightning import UpdateNormMonitor
from optzoo.optimizers import AdamW, DoG
from optzoo.optimizers.lookahead import Lookahead
from support.update_norms import QUIET, Regression, by_hand, copies, network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


class Copier(pl.Callback):
    """What every batch did to the parameters, and the gradients of its step, by hand."""

    def __init__(self) -> None:
        self.batches: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Any, module: pl.LightningModule, *_: Any) -> None:
        self.before = copies(module)

    def on_before_optimizer_step(self, trainer: Any, module: pl.LightningModule, optimizer: Any) -> None:
        self.unclipped = copies(module, gradients=True)

    def on_train_batch_end(self, trainer: Any, module: pl.LightningModule, *_: Any) -> None:
        unclipped = getattr(self, "unclipped", None)
        self.batches.append(by_hand(self.before, copies(module), copies(module, gradients=True), unclipped))


def fit(
    model: pl.LightningModule, directory: Path, monitor: UpdateNormMonitor, **options: Any
) -> tuple[Copier, list[dict[str, str]]]:
    """A training; what its batches did, and the rows of its CSV file that have update norms."""
    copier, ckpt_path = Copier(), options.pop("ckpt_path", None)
    logger = CSVLogger(directory, name="", version="")
    trainer = pl.Trainer(**{**QUIET, "logger": logger, "callbacks": [copier, monitor], **options})
    trainer.fit(model, ckpt_path=ckpt_path)
    assert not any(optimizer._optimizer_step_post_hooks for optimizer in trainer.optimizers)
    return copier, rows(directory / "metrics.csv")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return [row for row in csv.DictReader(lines) if any("update_norm" in key and row[key] for key in row)]


def agree(row: dict[str, str], expected: dict[str, float], prefix: str = "", rel: float = 1e-9) -> None:
    for key, value in expected.items():
        assert float(row[prefix + key]) == pytest.approx(value, rel=rel, nan_ok=True), key


class With(Regression):
    """Any optimizer; its model and its step may be compiled."""

    def __init__(self, make: Any, compiled: bool = False) -> None:
        super().__init__()
        self.make, self.compiled = make, compiled
        if compiled:
            self.net = torch.compile(self.net, backend="eager")  # type: ignore[assignment]

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        if self.compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")
            return optimizer
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (partial(AdamW, lr=0.1), {"gradient_clip_val": 0.3}),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), {"gradient_clip_val": 0.3, "accumulate_grad_batches": 2}),
        (partial(Lookahead, base=torch.optim.Adam, lr=0.1, k=2), {}),
        (DoG, {"accumulate_grad_batches": 3}),
        (partial(AdamW, lr=0.1), "compiled"),
    ],
    ids=["clipped", "accumulated", "wrapper", "step size", "compiled"],
)
def test_logged_is_what_happened(make: Any, options: Any, tmp_path: Path) -> None:
    """At every other step, and no keys between; the learning rate is that of the step, not of the next one."""
    torch.compiler.reset()
    compiled = options == "compiled"
    options = {} if compiled else options
    epochs = 1 if compiled else 2
    copier, logged = fit(With(make, compiled), tmp_path, UpdateNormMonitor(2), max_epochs=epochs, **options)
    micro = options.get("accumulate_grad_batches", 1)
    steps = [batch for i, batch in enumerate(copier.batches, start=1) if i % micro == 0]
    assert len(steps) == 6 * epochs // micro
    assert [int(row["step"]) for row in logged] == list(range(1, len(steps), 2))
    for row in logged:
        step = int(row["step"])
        agree(row, steps[step])
        if not compiled and make is not DoG:
            assert float(row["lr/pg1"]) == pytest.approx(0.1 * 0.9**step)
    if "gradient_clip_val" in options:
        assert all(float(row["grad_norm_clipped/total"]) <= 0.3 + 1e-9 for row in logged)
        assert any(float(row["grad_norm/total"]) > 0.31 for row in logged)


class Overflowing(With):
    def training_step(self, batch: Sequence[Tensor], index: int) -> Any:
        return super().training_step([batch[0].float()], index) * (math.inf if index in (1, 3) else 1)


def test_steps_that_the_scaler_skips(tmp_path: Path) -> None:
    """Are not logged and do not count: of 6 batches 4 step, of which the second and the fourth are logged."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    model = Overflowing(partial(torch.optim.Adam, lr=0.1)).float()
    copier, logged = fit(model, tmp_path, UpdateNormMonitor(2), plugins=[precision], gradient_clip_val=0.2)
    assert [batch["update_norm/total"] == 0 for batch in copier.batches] == [False, True, False, True, False, False]
    assert [int(row["step"]) for row in logged] == [2, 5]
    for row in logged:
        agree(row, copier.batches[int(row["step"])], rel=1e-4)


class Adversaries(Regression):
    """Two optimizers by hand, the first stepping twice as often, with clipping and a Lightning-free step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = network()
        self.seen: dict[str, list[dict[str, float]]] = {"net": [], "other": []}

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.net.parameters(), lr=0.1), torch.optim.Adam(self.other.parameters(), lr=0.2)]

    def training_step(self, batch: Sequence[Tensor], index: int) -> None:
        for name, optimizer in zip(("net", "other"), self.optimizers(), strict=True):  # type: ignore[arg-type]
            if name == "other" and index % 2:
                continue
            model = getattr(self, name)
            optimizer.zero_grad()
            self.manual_backward((model(batch[0]) - 1).square().mean())
            before, unclipped = copies(model), copies(model, gradients=True)
            self.clip_gradients(optimizer, 0.2)
            if index == 3:
                optimizer = optimizer.optimizer  # which Lightning does not see step
            optimizer.step()
            self.seen[name].append(by_hand(before, copies(model), copies(model, gradients=True), unclipped))


def test_manual_optimization_of_two_optimizers(tmp_path: Path) -> None:
    model = Adversaries()
    _, logged = fit(model, tmp_path, UpdateNormMonitor(2))
    first = [row for row in logged if row["Adam/update_norm/total"]]
    second = [row for row in logged if row["Adam-1/update_norm/total"]]
    assert [int(row["step"]) for row in first] == [1, 3, 5]
    assert [int(row["step"]) for row in second] == [2]
    for rows_, prefix, name, steps in ((first, "Adam/", "net", [1, 3, 5]), (second, "Adam-1/", "other", [1])):
        for row, step in zip(rows_, steps, strict=True):
            expected = model.seen[name][step]
            named = {
                key if key.endswith("/total") else key.replace("/", f"/{name}.", 1): value
                for key, value in expected.items()
            }
            agree(row, named, prefix)
    assert {row["Adam-1/lr/pg1"] for row in second} == {"0.2"}


class ManualScaled(Regression):
    """Mixed precision by hand: the gradients are scaled until the step, which the second batch makes impossible."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Sequence[Tensor], index: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch[0].float()) * (math.inf if index == 1 else 1))
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision_by_hand(fused: bool, tmp_path: Path) -> None:
    """With fused=True the optimizer unscales, and is called with gradients that are not finite, too."""
    model = ManualScaled().float()
    model.configure_optimizers = lambda: torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)  # type: ignore[method-assign]
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))
    copier, logged = fit(model, tmp_path, UpdateNormMonitor(1), plugins=[precision])
    assert [int(row["step"]) for row in logged] == [0, 2, 3, 4, 5]
    for row in logged:
        expected = copier.batches[int(row["step"])]
        agree(row, {key: value for key, value in expected.items() if not key.startswith("grad_norm/")}, rel=1e-4)
        for key in expected:
            if key.startswith("grad_norm/"):
                assert float(row[key]) == pytest.approx(float(row[key.replace("norm/", "norm_clipped/")]), rel=1e-4)


def test_a_resumed_run_logs_the_same_steps(tmp_path: Path) -> None:
    """Stopped after an epoch of 6 batches, between logged steps; with two monitors of different settings."""

    def monitors() -> list[pl.Callback]:
        return [UpdateNormMonitor(4), UpdateNormMonitor(4, per="total")]

    def train(name: str, epochs: int, checkpoint: Path | None = None) -> list[dict[str, str]]:
        saver = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        options = {**QUIET, "max_epochs": epochs, "enable_checkpointing": True}
        logger = CSVLogger(tmp_path / name, name="", version="")
        trainer = pl.Trainer(**options, logger=logger, callbacks=[*monitors(), saver])
        trainer.fit(Regression(), ckpt_path=checkpoint)
        return rows(tmp_path / name / "metrics.csv")

    expected = train("whole", 2)
    train("stopped", 1)
    rest = train("rest", 2, tmp_path / "epoch=0.ckpt")
    assert [int(row["step"]) for row in expected] == [3, 3, 7, 7, 11, 11]
    assert rest == expected[2:]


def test_every_logger_gets_it_and_tensorboard_the_histograms(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path / "board", name="", version="")
    files = CSVLogger(tmp_path / "csv", name="", version="")
    monitor = UpdateNormMonitor(2, per="module", include="net.0", quantities=["update_norm", "lr"], histogram=True)
    fit(Regression(), tmp_path / "csv", monitor, logger=[files, board])
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    keys = {"update_norm/net.0", "update_norm/total", "lr/pg1"}
    assert set(events.Tags()["scalars"]) == keys | {"loss", "epoch"}
    logged = rows(tmp_path / "csv" / "metrics.csv")
    for key in keys:
        assert [(e.step, pytest.approx(e.value)) for e in events.Scalars(key)] == [
            (int(row["step"]), float(row[key])) for row in logged
        ]
    assert [e.step for e in events.Scalars("loss")] == [0, 1, 2, 3, 4, 5]
    assert events.Tags()["histograms"] == ["update/net.0.weight", "update/net.0.bias"]
    assert [h.step for h in events.Histograms("update/net.0.bias")] == [1, 3, 5]


class Hooks(pl.Callback):
    """The order of events, which the monitor rests on."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        optimizer.register_step_pre_hook(lambda *_: self.events.append("step begins"))
        optimizer.register_step_post_hook(lambda *_: self.events.append("step ends"))

    def on_train_batch_start(self, *_: Any) -> None:
        self.events.append("batch begins")

    def on_after_backward(self, *_: Any) -> None:
        self.events.append("backward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.events.append("before step")

    def on_train_batch_end(self, *_: Any) -> None:
        self.events.append("batch ends")


def test_the_order_of_hooks(tmp_path: Path) -> None:
    """The parameters are copied after the backward pass, whose activations are gone by then."""
    hooks = Hooks()
    pl.Trainer(**QUIET, logger=False, callbacks=[hooks], limit_train_batches=1).fit(Regression())
    assert hooks.events == ["batch begins", "step begins", "backward", "before step", "step ends", "batch ends"]


def test_parameters_that_join_later(tmp_path: Path) -> None:
    """As BaseFinetuning adds them, in a group of their own."""

    class Unfreeze(pl.callbacks.BaseFinetuning):
        def freeze_before_training(self, module: Any) -> None:
            self.freeze(module.net[0])

        def finetune_function(self, module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(module.net[0], optimizer, lr=0.05)

    model = With(lambda params: torch.optim.SGD([p for p in params if p.requires_grad], lr=0.1))
    model.configure_optimizers = lambda: model.make(model.parameters())  # type: ignore[method-assign]
    copier = Copier()
    _, logged = fit(
        model,
        tmp_path,
        UpdateNormMonitor(3),
        max_epochs=2,
        callbacks=[Unfreeze(), copier, monitor := UpdateNormMonitor(3)],
    )
    assert monitor.every_n_steps == 3
    assert [bool(row["update_norm/net.0.weight"]) for row in logged] == [False, False, True, True]
    assert [row["lr/pg2"] for row in logged] == ["", "", "0.05", "0.05"]
    agree(logged[-1], copier.batches[-1])


def test_errors_and_warnings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="UpdateNormMonitor: every_n_steps must be an integer >= 1, got -1"):
        UpdateNormMonitor(-1)
    with pytest.raises(ValueError, match=r"include='head.\*' matches no parameter; there are net.0.bias, net.0.weight"):
        fit(Regression(), tmp_path, UpdateNormMonitor(include="head.*"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pl.Trainer(**QUIET, logger=False, callbacks=[UpdateNormMonitor(1)]).fit(Regression())
    assert len([w for w in caught if "the Trainer has no logger" in str(w.message)]) == 1


@pytest.mark.parametrize(("package", "module"), [("lightning", "lightning"), ("transformers", "huggingface")])
def test_without_the_framework_the_import_says_what_to_install(package: str, module: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import optzoo.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    wanted = f"optzoo.integrations.{module} needs {package}, which is not installed: pip install 'optzoo[{module}]'"
    assert wanted in done.stderr
