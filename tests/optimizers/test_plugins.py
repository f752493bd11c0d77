"""Optimizers of other packages: by class, by import path, registered, and announced by an entry point."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optzoo.optimizers import (
    AdamW,
    OptimizerInfo,
    create_optimizer,
    list_optimizers,
    optimizer_info,
    register_optimizer,
    registry,
)


class Signs(torch.optim.Optimizer):
    """θ ← θ - lr sign(g)."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=group["lr"])


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


@pytest.mark.parametrize("name", ["torch.optim:SGD", "torch.optim.SGD", "torch.optim.sgd:SGD", torch.optim.SGD])
def test_a_class_or_its_path_makes_it(name: str | type[torch.optim.Optimizer]) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    optimizer = create_optimizer(name, model, lr=0.5, weight_decay=0.25, momentum=0.9)
    assert type(optimizer) is torch.optim.SGD
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0]
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight"],
        ["0.bias", "1.weight", "1.bias"],
    ]
    assert all((group["lr"], group["momentum"]) == (0.5, 0.9) for group in optimizer.param_groups)
    before = model[0].weight.detach().clone()
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), before - 0.5 * (model[0].weight.grad + 0.25 * before))


def test_what_is_known_of_one_that_is_not_registered() -> None:
    info = optimizer_info("torch.optim:SGD")
    assert (info.name, info.optimizer_class) == ("torch.optim.sgd:SGD", torch.optim.SGD)
    assert (info.paper, info.state_bytes, info.supports, info.tuning_lr) == ("", None, (), None)
    assert (info.defaults["momentum"], info.defaults["lr"]) == (
        0,
        inspect.signature(torch.optim.SGD).parameters["lr"].default,
    )
    assert "fused" in optimizer_info(type("Mine", (AdamW,), {})).supports


def test_classes_of_the_registry_are_found_in_it() -> None:
    for made in (AdamW, "optzoo.optimizers:AdamW", "optzoo.optimizers.AdamW", "AdamW"):
        assert optimizer_info(made) is optimizer_info("adamw")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no_such_package:Mine", ValueError, r"'no_such_package:Mine': cannot import 'no_such_package' \(No module"),
        ("torch.optim:adamw", ValueError, "unknown optimizer of torch.optim 'adamw'; did you mean 'AdamW'"),
        ("torch.optim.", ValueError, "unknown optimizer of torch.optim ''; "),
        ("json:Mine", ValueError, "unknown optimizer of json 'Mine'; it has no optimizers"),
        ("json:JSONDecoder", TypeError, "must be a subclass of torch.optim.Optimizer, not <class 'json"),
        (
            "json:dumps",
            TypeError,
            r"an optimizer is a name, an import path \(module:Class\) or a class, not 'json:dumps'",
        ),
        (nn.Linear, TypeError, "must be a subclass of torch.optim.Optimizer, not <class 'torch.nn"),
        (7, TypeError, "an optimizer is a name, an import path .* or a class, not 7"),
        ("Adamww", ValueError, "no optimizer is called 'Adamww'; did you mean 'adamw'"),
    ],
)
def test_what_is_no_optimizer_is_refused(name: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        create_optimizer(name, nn.Linear(2, 2))


def test_a_registered_one_is_like_any_other() -> None:
    register_optimizer(OptimizerInfo("signs", Signs, description="the sign of the gradient", tuning_lr=0.01))
    assert "signs" in list_optimizers("S*")
    assert optimizer_info("Signs").optimizer_class is Signs
    assert optimizer_info(Signs).tuning_lr == 0.01
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([3.0, -0.5])
    create_optimizer("signs", [p], lr=0.25).step()
    assert p.tolist() == [0.75, -1.75]
    assert isinstance(create_optimizer("lookahead", [p], base=Signs).base_optimizer, Signs)


def test_a_name_that_is_taken_is_refused_and_nothing_changes() -> None:
    with pytest.raises(ValueError, match=r"the name 'lion' is taken by optzoo.optimizers.lion:Lion; choose another"):
        register_optimizer(OptimizerInfo("lion", Signs))
    assert optimizer_info("lion").optimizer_class is not Signs
    register_optimizer(OptimizerInfo("signs", Signs))
    again = type("Signs", (Signs,), {"__module__": Signs.__module__, "__qualname__": Signs.__qualname__})
    register_optimizer(OptimizerInfo("signs", again))  # as a notebook's cell that runs twice
    assert optimizer_info("signs").optimizer_class is again


@pytest.mark.parametrize(
    ("info", "error", "message"),
    [
        (OptimizerInfo("Signs", Signs), ValueError, "of lower-case letters, digits, _ and -, not 'Signs'"),
        (OptimizerInfo("my.signs", Signs), ValueError, "not 'my.signs'"),
        (OptimizerInfo("linear", nn.Linear), TypeError, "must be a subclass of torch.optim.Optimizer"),  # type: ignore[arg-type]
        (Signs, TypeError, r"register_optimizer takes an OptimizerInfo\(name, optimizer_class\), not <class"),
    ],
)
def test_what_cannot_be_registered(info: Any, error: type[Exception], message: str) -> None:
    before = list_optimizers()
    with pytest.raises(error, match=message):
        register_optimizer(info)
    assert list_optimizers() == before


PACKAGE = {
    "tiny_plugin.py": """
        import torch
        import optzoo.optimizers
        from optzoo.optimizers import Lion, OptimizerInfo

        optzoo.optimizers.list_optimizers()  # a plugin may ask while it is imported

        class Tiny(torch.optim.SGD):
            def __init__(self, params, lr=0.05, momentum=0.0):
                super().__init__(params, lr=lr, momentum=momentum)

        class Cub(Lion):
            pass

        cub = OptimizerInfo("cub", Cub, description="a small Lion", state_bytes=4)
    """,
    "broken_plugin.py": "import no_such_dependency",
    "tiny_plugin-1.0.dist-info/METADATA": """
        Metadata-Version: 2.1
        Name: tiny-plugin
        Version: 1.0
    """,
    "tiny_plugin-1.0.dist-info/entry_points.txt": """
        [optzoo.optimizers]
        tiny = tiny_plugin:Tiny
        cub = tiny_plugin:cub
        other = tiny_plugin:cub
        broken = broken_plugin:Broken
        adamw = tiny_plugin:Tiny
        text = tiny_plugin:__name__
    """,
}

USE = """
import warnings
from torch import nn
import optzoo.optimizers as o
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert o.optimizer_info("lion").name == "lion" and not caught, "ours need no plugin"
    names = o.list_optimizers()
    o.list_optimizers()
said = sorted(str(w.message) for w in caught)
assert len(said) == 4, said
where = " of tiny-plugin: "
assert said[0].startswith("optzoo: the optimizer 'adamw' is left out (entry point tiny_plugin:Tiny" + where)
assert "the name 'adamw' is taken by optzoo.optimizers.adam:AdamW" in said[0]
assert "'broken' is left out (entry point broken_plugin:Broken" + where + "No module named 'no_such" in said[1]
assert "'other' is left out" in said[2] and "its OptimizerInfo has another name, 'cub'" in said[2]
assert "'text' is left out" in said[3] and "TypeError: " in said[3]
assert {"cub", "tiny", "adamw"} <= set(names) and not {"broken", "other", "text"} & set(names)
assert type(o.create_optimizer("adamw", nn.Linear(2, 2))) is o.AdamW
tiny = o.create_optimizer("Tiny", nn.Linear(2, 2), momentum=0.5)
assert type(tiny).__module__ == "tiny_plugin" and tiny.param_groups[0]["lr"] == 0.05
assert o.optimizer_info("cub").state_bytes == 4 and "fused" in o.optimizer_info("cub").supports
try:
    o.create_optimizer("broken", nn.Linear(2, 2))
except ValueError as error:
    assert "the optimizer 'broken' cannot be used (entry point broken_plugin:Broken" in str(error), error
else:
    raise AssertionError("broken")
"""


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """The environment of a process for which a package is installed."""
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text).lstrip())
    return {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}


def test_entry_points_of_an_installed_package(plugin: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", USE], env=plugin, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_comparison_takes_plugins_by_name(plugin: dict[str, str], tmp_path: Path) -> None:
    def optzoo(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "optzoo", "compare", *arguments]
        return subprocess.run(command, env=plugin, cwd=tmp_path, capture_output=True, text=True, timeout=240)

    listed = optzoo("list", "optimizers").stdout
    assert ["cub", "lr", "0.0001", "a", "small", "Lion"] in [line.split() for line in listed.splitlines()]
    assert ["tiny", "lr", "0.05"] in [line.split() for line in listed.splitlines()]
    options = ["--ruleset", "default", "--seeds", "1", "--no-timing", "--jobs", "2", "--out", "runs"]
    done = optzoo("run", "-o", "tiny,torch.optim.SGD,sgd", "-p", "bowl", *options)
    assert done.returncode == 0, done.stderr
    assert {"tiny", "torch.optim:SGD", "sgd"} <= set(done.stdout.split())
    refused = optzoo("run", "-o", "broken", "-p", "bowl", *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "the optimizer 'broken' cannot be used (entry point broken_plugin:Broken of tiny-plugin" in refused.stderr
