"""OptimizerCLI: everything by name or class path, from a command line and from YAML, and what it makes of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn

import optzoo.integrations.lightning
from optzoo.integrations.lightning import OptimizerCLI
from optzoo.optimizers import PSGD, AdamW, CAdamW, Cautious, Lookahead, list_optimizers, optimizer_info
from optzoo.schedulers import Scheduler, presets
from support.lightning_runs import LRS, QUIET, RISE_HOLD_FALL, Regression, Trained, run_cli

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

SCHEDULERS = [Scheduler, *presets.Preset.__subclasses__()]


class Plain(lightning.LightningModule):
    """A matrix, a bias and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def parsed(*arguments: str, model: type = Plain) -> OptimizerCLI:
    return OptimizerCLI(model, args=list(arguments), run=False, trainer_defaults=QUIET, seed_everything_default=False)


def made(*arguments: str) -> Any:
    return parsed(*arguments).model.configure_optimizers()


def from_yaml(directory: Path, **settings: Any) -> Any:
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    return made("--config", str(directory / "config.yaml"))


def class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


@pytest.mark.parametrize("name", list_optimizers())
def test_every_optimizer_by_name_or_path_from_yaml_or_command_line(name: str, tmp_path: Path) -> None:
    cls = optimizer_info(name).optimizer_class
    lr = ["--optimizer.base=torch.optim.SGD", "--optimizer.base.lr=0.25"]
    lr = lr if optimizer_info(name).base else ["--optimizer.lr=0.25"]
    options = {"base": {"class_path": "SGD", "init_args": {"lr": 0.25}}} if optimizer_info(name).base else {"lr": 0.25}
    for optimizer in (
        made(f"--optimizer={cls.__name__}", *lr),
        made(f"--optimizer={class_path(cls)}", *lr),
        from_yaml(tmp_path, optimizer={"class_path": cls.__name__, "init_args": options}),
        from_yaml(tmp_path, optimizer={"class_path": class_path(cls), "init_args": options}),
    ):
        assert type(optimizer) is cls
        assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("cls", SCHEDULERS)
def test_every_scheduler_by_name_or_path_from_yaml_or_command_line(cls: type, tmp_path: Path) -> None:
    needs = {"schedule": "linear,warmup=5"} if cls is Scheduler else {}
    settings = {"total": 40, "clock": "optimizer", **needs}
    arguments = [f"--lr_scheduler.{name}={value}" for name, value in settings.items()]
    for name in (cls.__name__, class_path(cls)):
        for configured in (
            made("--optimizer=AdamW", f"--lr_scheduler={name}", *arguments),
            from_yaml(
                tmp_path,
                optimizer={"class_path": "AdamW"},
                lr_scheduler={"class_path": name, "init_args": settings},
            ),
        ):
            scheduler = configured["lr_scheduler"]["scheduler"]
            assert type(scheduler) is cls
            assert (scheduler.total, configured["lr_scheduler"]["interval"]) == (40, "step")


def test_wrappers_and_schedules_nest(tmp_path: Path) -> None:
    cautious = {"class_path": "Cautious", "init_args": {"base": {"class_path": "AdamW", "init_args": {"lr": 0.5}}}}
    configured = from_yaml(
        tmp_path,
        optimizer={"class_path": "Lookahead", "init_args": {"k": 3, "base": cautious}},
        lr_scheduler={
            "class_path": "Scheduler",
            "init_args": {
                "schedule": RISE_HOLD_FALL,
                "total": 10,
                "tracks": {
                    "weight_decay": "follow",
                    "lookahead_alpha": {"mode": "set", "schedule": [{"start": 1, "to": 0.5}]},
                },
            },
        },
    )
    lookahead = configured["optimizer"]
    assert [type(o) for o in (lookahead, lookahead.base_optimizer, lookahead.base_optimizer.base_optimizer)] == [
        Lookahead,
        Cautious,
        AdamW,
    ]
    group = lookahead.param_groups[0]
    assert (group["initial_lr"], group["lr"], group["weight_decay"], group["lookahead_alpha"]) == (0.5, 0, 0, 1)


def test_names_are_ours_first_and_torchs_by_path() -> None:
    assert type(made("--optimizer=AdamW")) is AdamW
    assert type(made("--optimizer=torch.optim.AdamW")) is torch.optim.AdamW
    assert type(made("--optimizer=NAdam")) is torch.optim.NAdam
    assert type(made("--optimizer=Lookahead", "--optimizer.base=AdamW").base_optimizer) is AdamW


@pytest.mark.parametrize("name", ["PSGDDense", "PSGDLRA", "PSGDNewton"])
def test_optimizers_for_small_problems_are_not_in_the_registry_but_have_names(name: str) -> None:
    assert type(made(f"--optimizer={name}", "--optimizer.lr=0.25")).__name__ == name


def make_sgd(params: Iterable[Any], lr: float = 0.25) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr)


def test_a_function_may_make_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "functions_of_a_user", sys.modules[__name__])
    monkeypatch.setattr(make_sgd, "__module__", "functions_of_a_user")
    for arguments in (["--optimizer={}"], ["--optimizer=Lookahead", "--optimizer.base={}"]):
        optimizer = made(*(argument.format("functions_of_a_user.make_sgd") for argument in arguments))
        assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


# Groups


def groups(*arguments: str) -> list[tuple[str, float, float, list[str]]]:
    names = ("name", "weight_decay", "lr", "param_names")
    return [tuple(group.get(name) for name in names) for group in made(*arguments).param_groups]


def test_biases_and_norms_do_not_decay() -> None:
    rest = ["network.0.bias", "network.1.weight", "network.1.bias"]
    decay = ("decay", 0.2, 1e-3, ["network.0.weight"])
    assert groups("--optimizer=AdamW", "--optimizer.weight_decay=0.2") == [decay, ("no_decay", 0, 1e-3, rest)]
    for base in ("CAdamW", "torch.optim.AdamW"):
        arguments = ["--optimizer=Lookahead", f"--optimizer.base={base}", "--optimizer.base.weight_decay=0.2"]
        assert groups(*arguments) == [decay, ("no_decay", 0, 1e-3, rest)]


def test_options_of_groups() -> None:
    assert groups("--optimizer=AdamW", "--groups={no_decay: [], lr: 0.5}") == [
        ("decay", 0.01, 0.5, ["network.0.weight", "network.0.bias", "network.1.weight", "network.1.bias"])
    ]
    (group,) = made("--optimizer=AdamW", "--groups=null").param_groups
    assert (group["weight_decay"], len(group["params"]), "name" in group) == (0.01, 4, False)


@pytest.mark.parametrize(
    ("arguments", "lr"),
    [
        (["--optimizer=AdamW", "--optimizer.lr=0.5"], 0.5),
        (["--optimizer=AdamW"], 1e-3),
        (["--optimizer=torch.optim.NAdam"], 2e-3),
        (["--optimizer=Lookahead", "--optimizer.base=AdamW", "--optimizer.base.lr=0.5"], 0.5),
        (["--optimizer=Lookahead", "--optimizer.base=Cautious", "--optimizer.base.base=Lion"], 1e-4),
        (["--optimizer=Lookahead"], 1e-3),
        (["--optimizer=Lookahead", "--optimizer.base=lion"], 1e-4),
        (["--optimizer=AdamW", "--optimizer.lr=0.5", "--groups.lr=0.25"], 0.25),
    ],
)
def test_layer_decay_scales_the_lr_of_the_optimizer(arguments: list[str], lr: float) -> None:
    found = made(*arguments, "--groups.layer_decay=0.5")
    lrs = {name: group["lr"] for group in found.param_groups for name in group["param_names"]}
    assert (lrs["network.0.weight"], lrs["network.1.weight"]) == (lr / 2, lr)


@pytest.mark.parametrize("wrapped", [[], ["Lookahead"], ["Lookahead", "Cautious"]])
def test_psgd_gets_the_matrices_and_adamw_the_rest(wrapped: list[str]) -> None:
    """In one optimizer, also within wrappers; the AdamW groups have an lr of their own."""
    arguments = [f"--optimizer{'.base' * depth}={name}" for depth, name in enumerate([*wrapped, "PSGD"])]
    assert groups(*arguments, "--groups.adamw_lr=0.3") == [
        ("decay", 0, 2e-4, ["network.0.weight"]),
        ("no_decay adamw", 0, 0.3, ["network.0.bias", "network.1.weight", "network.1.bias"]),
    ]
    optimizer = made(*arguments)
    while not isinstance(optimizer, PSGD):
        optimizer = optimizer.base_optimizer
    assert [group["adamw"] for group in optimizer.param_groups] == [False, True]


# Runs


SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


@pytest.mark.parametrize("clock", ["calls", "optimizer"])
def test_schedules_step_every_batch_and_are_as_long_as_the_run(clock: str) -> None:
    """Ten batches in two epochs of five; ``total`` is not given."""
    schedule = {"class_path": "Scheduler", "init_args": {"schedule": RISE_HOLD_FALL, "clock": clock}}
    found = run_cli({"optimizer": SGD, "lr_scheduler": schedule}, max_epochs=2, limit_train_batches=5)
    assert found.model.lrs == pytest.approx(LRS, abs=5e-5)


def test_lightnings_own_cli_with_the_optimizers_clock() -> None:
    """It steps schedulers once an epoch, which does not matter then."""
    schedule = {
        "class_path": "optzoo.schedulers.Scheduler",
        "init_args": {"schedule": RISE_HOLD_FALL, "total": 10, "clock": "optimizer"},
    }
    found = run_cli({"optimizer": SGD, "lr_scheduler": schedule}, cli=LightningCLI, max_epochs=2, limit_train_batches=5)
    assert found.model.lrs == pytest.approx(LRS, abs=5e-5)


def test_torchs_schedulers_step_every_batch_too_and_plateaus_every_epoch() -> None:
    schedule: dict[str, Any] = {"class_path": "StepLR", "init_args": {"step_size": 3, "gamma": 0.5}}
    found = run_cli({"optimizer": SGD, "lr_scheduler": schedule}, max_epochs=1)
    assert found.model.lrs == pytest.approx([0.1] * 3 + [0.05] * 3 + [0.025] * 3 + [0.0125])

    schedule = {"class_path": "ReduceLROnPlateau", "init_args": {"monitor": "constant", "patience": 0, "factor": 0.5}}
    found = run_cli({"optimizer": SGD, "lr_scheduler": schedule}, Logging, max_epochs=3, limit_train_batches=2)
    assert found.model.lrs == pytest.approx([0.1] * 4 + [0.05] * 2)


class Logging(Regression):
    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("constant", 1.0)


def test_a_clock_of_epochs_steps_every_epoch() -> None:
    schedule = {"class_path": "Linear", "init_args": {"total": 4, "clock": "epochs"}}
    found = run_cli({"optimizer": SGD, "lr_scheduler": schedule}, max_epochs=4, limit_train_batches=1)
    assert found.model.lrs == pytest.approx([0.1, 0.075, 0.05, 0.025])


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer=AdamW", "--optimizer.lrr=1"], "Option 'lrr' is not accepted"),
        (["--optimizer=AdamV"], "AdamV"),
        (["--optimizer=Adamm"], "There is no 'Adamm'; did you mean 'Adam'?"),
        (["--optimizer=adamw", "--optimizer.lr=0.1"], "There is no 'adamw'; did you mean 'AdamW'?"),
        (["--optimizer=Lookahead", "--optimizer.base=Lionn"], "There is no 'Lionn'; did you mean 'Lion'?"),
        (["--optimizer=Lookahead", "--optimizer.base=Lionn", "--optimizer.base.lr=1"], "did you mean 'Lion'?"),
        (["--optimizer=AdamW", "--lr_scheduler=WDS"], "There is no 'WDS'; did you mean 'WSD'?"),
        (["--optimizer=Lookahead", "--optimizer.base=SGD", "--optimizer.base.momentumm=1"], "momentumm"),
        (["--optimizer=AdamW", "--lr_scheduler=WSD", "--lr_scheduler.cooldwn=1"], "Option 'cooldwn' is not accepted"),
    ],
)
def test_arguments_that_cannot_be_parsed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert message in capsys.readouterr().err


def test_unknown_options_of_groups_name_the_nearest() -> None:
    with pytest.raises(TypeError, match="made by psgd_groups, which has no option 'adam_lr'; did you mean 'adamw_lr'"):
        parsed("--optimizer=PSGD", "--groups={adam_lr: 0.1}")
    with pytest.raises(TypeError, match="made by param_groups, which has no option 'weight_decay'"):
        parsed("--optimizer=AdamW", "--groups={weight_decay: 0.1}")


def test_without_jsonargparse_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs jsonargparse, .* pip install 'optzoo\[lightning\]'"):
        importlib.reload(optzoo.integrations.lightning)


def test_a_model_with_an_optimizer_of_its_own() -> None:
    """Keeps it unless another one is asked for, which is said."""
    assert parsed(model=Trained).model.configure_optimizers.__func__ is Trained.configure_optimizers
    with pytest.warns(UserWarning, match="takes the place of Trained.configure_optimizers"):
        assert type(parsed("--optimizer=CAdamW", model=Trained).model.configure_optimizers()) is CAdamW
