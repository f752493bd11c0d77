"""The command as a user runs it."""

import json
import subprocess
import sys

import pytest

from optzoo.compare import UsageError, compare, list_problems
from optzoo.compare.cli import main

COMMAND = [sys.executable, "-m", "optzoo.compare.cli", "compare"]


def test_run_prints_a_table_and_writes_json(tmp_path):
    path = tmp_path / "results.json"
    arguments = ["run", "--quick", "-o", "torch.optim:AdamW", "-p", "rosenbrock", "--json", str(path)]
    finished = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=True, encoding="utf-8")
    assert "torch.optim:AdamW" in finished.stdout
    assert "target: f ≤ 0.001 × start" in finished.stdout
    assert "Weight decay 0" in finished.stdout
    assert finished.stderr.startswith("[1/1] rosenbrock torch.optim:AdamW: ")  # progress, by lines: no terminal here
    document = json.loads(path.read_text())
    (study,) = document["studies"]
    assert (study["problem"], study["optimizer"], study["hits"], study["error"]) == (
        "rosenbrock",
        "torch.optim:AdamW",
        3,
        None,
    )
    assert study["default_lr"] == 1e-3
    assert study["lr"] in study["grid"]
    evaluated = [trial for trial in study["trials"] if trial["stage"] == "evaluate"]
    assert [trial["seed"] for trial in evaluated] == [100, 101, 102]
    assert all(trial["curve"][-1][0] == 1000 and trial["step_us"] > 0 for trial in evaluated)
    assert str(int(study["hit"])) in finished.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "torch.optim:AdamW", "-p", "rosenbrok"], "unknown problem 'rosenbrok'; did you mean 'rosenbrock'?"),
        (["-o", "torch.optim:AdamW", "-p", "zzz"], "unknown problem 'zzz'; valid names: digits_mlp, rosenbrock"),
        (["-o", "torch.optim:adamw"], "unknown optimizer of torch.optim 'adamw'; did you mean 'AdamW'?"),
        (["-o", "no_such_module:Adam"], "cannot import 'no_such_module'"),
        (["-o", ":Adam"], "cannot import ''"),
        (["-o", "torch.optim:Optimizer"], "has no positive default for lr"),
        (["-o", ""], "nothing to compare"),
        (["-o", "torch.optim:AdamW", "--seeds", "0"], "at least 1"),
        (["-o", "torch.optim:AdamW", "--jobs", "0"], "at least 1"),
        (["-o", "torch.optim:AdamW", "--json", "no/such/folder/r.json"], "there is no folder 'no/such/folder'"),
    ],
)
def test_a_request_that_cannot_be_run_is_one_line_and_status_2(capsys, arguments, message):
    assert main(["compare", "run", "--quick", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("optzoo: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_unknown_registry_name_offers_the_nearest(capsys):
    assert main(["compare", "run", "-o", "ademamx"]) == 2
    assert "unknown optimizer 'ademamx'; did you mean 'ademamix'?" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "package"), [("rich", "rich"), ("sklearn", "scikit-learn")])
def test_a_missing_extra_is_named_before_any_work(monkeypatch, capsys, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["compare", "run", "--quick", "-o", "torch.optim:AdamW"]) == 2
    assert capsys.readouterr().err == f'optzoo: error: {package} is not installed; run: pip install "optzoo[compare]"\n'


@pytest.mark.parametrize("arguments", [[], ["compare"], ["compare", "run", "--no-such-flag"], ["compare", "list", "x"]])
def test_bad_usage_is_status_2(arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_help_does_not_import_what_is_slow():
    """`optzoo --help` answers at once: it imports neither PyTorch nor what the extras bring."""
    code = (
        "import sys; from optzoo.compare.cli import main\n"
        "try: main(['compare', 'run', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'sklearn', 'rich'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--quick" in finished.stdout
    assert finished.stdout.endswith("[]\n")


def test_optimizers_of_the_working_directory_are_found(monkeypatch, tmp_path, capsys):
    source = "import torch\nclass Mine(torch.optim.AdamW):\n    pass\n"
    (tmp_path / "optimizers_of_a_user.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    arguments = ["--quick", "-o", "optimizers_of_a_user:Mine", "-p", "rosenbrock", "--seeds", "1", "--jobs", "1"]
    assert main(["compare", "run", *arguments]) == 0
    assert "optimizers_of_a_user:Mine" in capsys.readouterr().out


def test_list_problems(capsys):
    assert main(["compare", "list", "problems"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == list_problems() == ["digits_mlp", "rosenbrock"]


def test_list_optimizers_names_the_registry(capsys):
    from optzoo.optimizers import list_optimizers

    assert main(["compare", "list", "optimizers"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list_optimizers()


def test_python_errors_are_value_errors():
    with pytest.raises(UsageError, match="did you mean 'rosenbrock'"):
        compare(["torch.optim:AdamW"], ["Rosenbrock"], jobs=1)
    assert issubclass(UsageError, ValueError)


def test_python_is_quiet_by_default(capsys):
    result = compare(["torch.optim:AdamW"] * 2, ["rosenbrock"] * 2, quick=True, seeds=1, jobs=1)
    assert len(result.studies) == 1  # what is named twice is run once
    assert capsys.readouterr() == ("", "")
