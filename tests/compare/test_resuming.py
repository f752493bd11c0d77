"""Results that outlive what is done to the run: killed, interrupted, a worker lost, one more optimizer."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from optzoo.compare import compare, load, protocol

OPTIMIZERS = """
import os, signal, threading
import torch

class Dying(torch.optim.SGD):
    '''Takes its process down at one learning rate.'''
    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, lr=lr)
        if round(lr, 6) == 1.0:
            os.kill(os.getpid(), signal.SIGKILL)

class Hanging(torch.optim.SGD):
    '''Never returns from a step.'''
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
    def step(self, closure=None):
        threading.Event().wait()
"""
BYTES = ("store.json", "trials.jsonl", "comparison.json")


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "difficult_optimizers.py").write_text(OPTIMIZERS)
    monkeypatch.syspath_prepend(tmp_path)
    return "difficult_optimizers"


def lines(folder: Path, name: str = "trials.jsonl") -> list[str]:
    path = folder / name
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def run_here(folder: Path, *optimizers: str, seeds: int = 2):
    return compare(optimizers, ["bowl"], quick=True, seeds=seeds, jobs=1, out=folder, timing=False)


def test_the_same_request_gives_the_same_bytes_and_a_second_run_makes_nothing(tmp_path):
    first = run_here(tmp_path / "a", "adamw", "torch.optim:SGD")
    run_here(tmp_path / "b", "adamw", "torch.optim:SGD")
    for name in BYTES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    clocks = lines(tmp_path / "a", "clock.jsonl")
    again = run_here(tmp_path / "a", "adamw", "torch.optim:SGD")
    assert lines(tmp_path / "a", "clock.jsonl") == clocks  # the clock would have said otherwise
    assert again.studies == first.studies == load(tmp_path / "a").studies


def test_one_more_optimizer_or_seed_costs_its_own_runs_alone(tmp_path):
    run_here(tmp_path, "adamw")
    before = lines(tmp_path, "clock.jsonl")
    run_here(tmp_path, "adamw", "lion")
    after = lines(tmp_path, "clock.jsonl")
    assert set(before) < set(after)
    records = [json.loads(line) for line in lines(tmp_path)]
    lion = [record["key"] for record in records if record["id"]["optimizer"].endswith("Lion")]
    assert len(after) == len(before) + len(lion)
    run_here(tmp_path, "adamw", seeds=3)
    assert len(lines(tmp_path)) == len(after) + 1
    assert load(tmp_path).optimizers == ("adamw",)  # the latest request


OPTIMIZED, PROBLEMS = ["adamw", "lion"], ["bowl", "quad"]


IGNORING = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as nohup's jobs and those of `&` in a script do
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from optzoo.compare.cli import main
sys.exit(main())
"""


def command(folder: Path) -> list[str]:
    """It hears Ctrl-C whatever it was started from; a process inherits that it ignores interrupts."""
    arguments = ["compare", "run", "--quick", "-o", ",".join(OPTIMIZED), "-p", ",".join(PROBLEMS), "--no-timing"]
    return [sys.executable, "-c", COMMAND, *arguments, "--out", str(folder)]


def begin(folder: Path) -> "subprocess.Popen[str]":
    """The command in a process group of its own, from a parent that ignores interrupts, after its first study."""
    process = subprocess.Popen(
        [*IGNORING, *command(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = threading.Timer(300, process.kill)
    limit.start()
    while not (line := process.stderr.readline()).startswith("["):
        assert line, process.communicate()  # else it is over
    limit.cancel()
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing ends."""
    folder = tmp_path_factory.mktemp("whole")
    compare(OPTIMIZED, PROBLEMS, quick=True, jobs=1, out=folder, timing=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("with_", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_a_run_that_is_ended_goes_on_where_it_was(tmp_path, with_, whole):
    """Ctrl-C reaches the whole process group; a kill only the command, whose workers then find it gone."""
    process = begin(tmp_path / "ended")
    if with_ == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if with_ == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in error
    if with_ == signal.SIGINT:
        assert f"what has been run is kept in '{tmp_path / 'ended'}'" in error
    kept = set(lines(tmp_path / "ended", "clock.jsonl")[:-1])  # a kill may cut off the last
    assert len(kept) >= 3
    subprocess.run(command(tmp_path / "ended"), check=True, capture_output=True, timeout=240)
    assert kept <= set(lines(tmp_path / "ended", "clock.jsonl"))
    for name in BYTES:
        assert (tmp_path / "ended" / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_a_worker_that_dies_costs_the_run_it_was_in(user_module, tmp_path):
    names = [f"{user_module}:Dying", "adamw"]
    result = compare(names, ["bowl"], quick=True, seeds=1, jobs=2, out=tmp_path, timing=False)
    dying, other = result.studies
    failures = {round(trial.lr, 6): trial.failure for trial in dying.screened}
    assert failures[1.0] == "its process died (SIGKILL)"
    assert failures[0.1] is None
    assert dying.failure is None
    assert len(dying.evaluations) == len(other.evaluations) == 1
    assert repr(load(tmp_path).studies) == repr(result.studies)  # nan, the target of a run that died, is not itself


@pytest.mark.slow
def test_a_step_that_never_returns_is_ended(user_module, monkeypatch):
    monkeypatch.setattr(protocol, "SECONDS", 2.0)
    names = [f"{user_module}:Hanging", "torch.optim:SGD"]
    hanging, other = compare(names, ["bowl"], quick=True, seeds=1, jobs=2, timing=False).studies
    assert hanging.failure == "took over 8 s in 2 runs"
    assert other.failure is None
