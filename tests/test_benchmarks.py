"""Every script of benchmarks/ runs: each as a process of its own, on its smallest setting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from optzoo.optimizers import list_optimizers, optimizer_info
from support.cases import facts

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, *arguments: str | Path, cwd: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, BENCHMARKS / f"{script}.py", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_is_tested_here() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert scripts == {"launches", "step_time", "step_memory", "psgd_step", "targets"}


MOST = {"adamw": 8, "cadamw": 30, "clion": 30, "cautious": 30, "dog": 40, "ldog": 40, "adafactor": 100, "psgd": 400}
"""Calls of a step that are not to become more."""


@pytest.mark.slow
def test_launches(tmp_path: Path) -> None:
    """No step reads from the device, and none calls it for every tensor."""
    few, many = (
        {line.split()[0]: int(line.split()[1]) for line in run("launches", *args, cwd=tmp_path).splitlines()[1:]}
        for args in (["--smallest"], ["--tensors", "30", "--size", "8"])
    )
    assert list(few) == [name for name in list_optimizers() if not optimizer_info(name).closure]
    copied = {name for name in few if facts(name).together}  # tensor by tensor into one vector
    assert {name for name in few if few[name] != many[name]} == copied
    assert {name: count for name, count in few.items() if count > MOST.get(name, count)} == {}
    factored = run("launches", "adafactor", "--tensors", "5", "--size", "128", cwd=tmp_path)
    assert int(factored.split()[-1]) <= MOST["adafactor"]


@pytest.mark.slow
def test_step_time(tmp_path: Path) -> None:
    shown = run("step_time", "--smallest", "--rounds", "2", "--json", "out.json", cwd=tmp_path)
    (rows,) = json.loads((tmp_path / "out.json").read_text())["results"].values()
    cases = {row["case"]: row for row in rows}
    infos = [info for info in map(optimizer_info, list_optimizers()) if not info.closure and info.state_bytes <= 16]
    assert cases.keys() >= {f"{info.name} {mode}" for info in infos for mode in ("default", "fused")}
    assert cases["adamw default"]["floor_F"] == 1.0
    assert cases["psgd default"]["floor_F"] is None
    assert all(case in shown for case in cases)


@pytest.mark.slow
def test_step_memory(tmp_path: Path) -> None:
    shown = run("step_memory", "--smallest", "psgd", "lookahead", cwd=tmp_path)
    lines = [line.split()[0] for line in shown.splitlines()[1:]]
    assert lines == ["torch.optim.AdamW(foreach=True)", "psgd", "lookahead"]


@pytest.mark.slow
def test_psgd_step(tmp_path: Path) -> None:
    """Peers that are not installed are left out, and named."""
    shown = run("psgd_step", "--smallest", "--rounds", "2", "--json", "out.json", cwd=tmp_path)
    cases = [row["case"] for row in json.loads((tmp_path / "out.json").read_text())["results"]["smallest"]]
    assert {"torch AdamW fused", "AdamW", "PSGD", "PSGD, P kept", "PSGD EQ"} <= set(cases)
    for case, package in (("kron_torch Kron", "kron_torch"), ("HeavyBall PSGDPRO", "heavyball")):
        assert (case in cases) is (find_spec(package) is not None)
        assert case in cases or f"{case} is left out: pip install {package}" in shown


@pytest.mark.slow
def test_targets(tmp_path: Path) -> None:
    """What others have recorded stays, and so does the repository's record."""
    own = (BENCHMARKS / "targets.json").read_bytes()
    record = tmp_path / "record.json"
    record.write_text('{"another": {}}')
    small = ["--problems", "bowl", "--trials", "2", "--seeds", "2", "--jobs", "1"]
    run("targets", *small, "--record", record, cwd=tmp_path)
    written = json.loads(record.read_text())
    assert written.keys() == {"another", "bowl"}
    assert written["bowl"].keys() == json.loads(own)["digits_mlp"].keys()
    assert (BENCHMARKS / "targets.json").read_bytes() == own
