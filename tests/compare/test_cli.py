"""The command as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

from optzoo.compare import UsageError, compare, list_problems
from optzoo.compare.candidates import BASELINES
from optzoo.compare.cli import main
from optzoo.optimizers import list_optimizers

COMMAND = [sys.executable, "-m", "optzoo.compare.cli", "compare"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small results folder, made by the command."""
    out = tmp_path_factory.mktemp("runs") / "small"
    arguments = ["run", "--quick", "-o", "torch.optim:AdamW,adamw", "-p", "quad_rot", "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # which readline sets in C
    finished = subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    (out / "stdout").write_text(finished.stdout, encoding="utf-8")
    (out / "stderr").write_text(finished.stderr, encoding="utf-8")
    return out


def test_run_prints_a_table_and_reports_progress_by_lines(folder):
    output, progress = ((folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    assert "torch.optim:AdamW" in output
    assert "score by" in output
    assert "weight decay 0" in output
    assert f"optzoo compare report {folder}" in output
    first, *studies = progress.splitlines()  # by lines: no terminal here
    assert first.startswith("2 studies, about ")
    assert [line[:6] for line in studies] == ["[1/2] ", "[2/2] "]
    assert " left" in studies[0]
    assert sorted(line.split()[2] for line in studies) == ["adamw:", "torch.optim:AdamW:"]


def test_show_prints_the_same_and_writes_json(folder, tmp_path, capsys):
    path = tmp_path / "results.json"
    assert main(["compare", "show", str(folder), "--by", "cpu", "--json", str(path)]) == 0
    assert "CPU-seconds to the target" in capsys.readouterr().out
    document = json.loads(path.read_text())
    study = document["studies"][0]
    assert (study["problem"], study["optimizer"], study["hits"], study["failure"]) == (
        "quad_rot",
        "torch.optim:AdamW",
        3,
        None,
    )
    assert study["chosen"]["lr"] in study["grid"]
    evaluated = [trial for trial in study["trials"] if trial["stage"] == "evaluate"]
    assert [trial["seed"] for trial in evaluated] == [100, 101, 102]
    assert all(trial["curve"][-1][0] == 500 and trial["clock"]["step_us"] > 0 for trial in evaluated)
    assert document["timing"]["quad_rot"]["adamw"]["optimizer_us"] > 0


def test_show_prints_what_run_printed(folder, capsys):
    main(["compare", "show", str(folder)])
    shown = capsys.readouterr().out
    assert (folder / "stdout").read_text(encoding="utf-8").startswith(shown)


def test_diff(folder, tmp_path, capsys):
    assert main(["compare", "diff", str(folder), str(folder), "--fail-if-slower", "1.5"]) == 0
    assert "0 of 2 common studies differ" in capsys.readouterr().out
    slower = compare(["adamw", "lion"], ["quad_rot"], ruleset="default", seeds=1, jobs=1, out=tmp_path, timing=False)
    assert slower.studies[0].hits == 0
    assert main(["compare", "diff", str(folder), str(tmp_path), "--fail-if-slower", "1.5"]) == 1
    captured = capsys.readouterr()
    assert "! the protocols differ" in captured.out
    assert "quad_rot adamw: " in captured.out
    assert "→ missed" in captured.out
    assert "1 of 1 common studies differ" in captured.out
    assert main(["compare", "diff", str(folder), str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "torch.optim:AdamW", "-p", "rosenbrok"], "unknown problem 'rosenbrok'; did you mean 'rosenbrock'?"),
        (["-o", "torch.optim:AdamW", "-p", "@convx"], "unknown selection of problems 'convx'; did you mean 'convex'"),
        (["-o", "torch.optim:adamw"], "unknown optimizer of torch.optim 'adamw'; did you mean 'AdamW'"),
        (["-o", "ademamx"], "unknown optimizer 'ademamx'; did you mean 'ademamix'"),
        (["-o", "no_such_module:Adam"], "cannot import 'no_such_module'"),
        (["-o", ":Adam"], "cannot import ''"),
        (["-o", "torch.optim:Optimizer"], "has no positive default for lr"),
        (["-o", ""], "nothing to compare"),
        (["-o", "adamw", "--ruleset", "serch"], "unknown ruleset 'serch'; did you mean 'search'?"),
        (["-o", "adamw", "--schedule", "linaer"], "unknown schedule 'linaer'; did you mean 'linear'"),
        (["-o", "adamw", "--schedule", "foo"], "unknown schedule 'foo'; valid names: auto, constant, cosine, "),
        (["-o", "adamw", "--schedule", "wsd,warmup=9999"], "schedule 'wsd,warmup=9999' on "),
        (["-o", "adamw", "--seeds", "0"], "seeds must be at least 1, not 0"),
        (["-o", "adamw", "--jobs", "0"], "jobs must be at least 1, not 0"),
        (["-o", "adamw", "--json", "no/such/folder/r.json"], "there is no folder 'no/such/folder'"),
        (["--config", "no_such.yaml"], "cannot read 'no_such.yaml'"),
        (["-o", "adamw", "--out", __file__ + "/runs"], "cannot write to"),
    ],
)
def test_a_request_that_cannot_be_run_is_one_line_and_status_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "run", "--quick", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("optzoo: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quick: [", "is no YAML"),
        ("- adamw", "must have options with their values"),
        ("optimisers: [adamw]", "unknown option 'optimisers'; did you mean 'optimizers'?"),
        ("jobs: two", "jobs must be int, not 'two'"),
        ("{quick: true, full: true}", "quick and full exclude each other"),
        (
            "optimizers: [{mine: {class: torch.optim.SGD}}]",
            "unknown key of optimizer mine 'class'; did you mean 'class_",
        ),
        ("optimizers: [{mine: {init_args: {lr: 1.0}}}]", "optimizer 'mine' needs a class_path"),
        (
            "optimizers: [{mine: {class_path: torch.optim.SGD, init_args: {momentun: 0.9}}}]",
            "unknown option of mine 'momentun'; did you mean 'momentum'",
        ),
        ("optimizers: [{a: adam}, {a: adamw}]", "two optimizers are called 'a'"),
        ("optimizers: [3]", "optimizer 3 is no name"),
    ],
)
def test_a_configuration_that_cannot_be_run(capsys, tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert main(["compare", "run", "--out", str(tmp_path / "runs"), "--config", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_configuration_is_printed_and_read(capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "optimizers:\n"
        "  - adamw\n"
        "  - heavy ball: {class_path: torch.optim.SGD, init_args: {momentum: 0.9, lr: 0.01}}\n"
        "problems: [bowl]\n"
        "ruleset: default\n"
        "seeds: 1\n"
        "jobs: 1\n"
        "timing: false\n"
    )
    arguments = ["compare", "run", "--config", str(path), "--out", str(tmp_path / "runs")]
    assert main([*arguments, "--seeds", "2", "--print_config"]) == 0
    printed = capsys.readouterr().out
    path.write_text(printed)
    assert "seeds: 2\n" in printed  # what is typed comes first
    assert main(["compare", "run", "--config", str(path), "--print_config"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["compare", "run", "--config", str(path)]) == 0
    assert "heavy ball" in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "runs" / "trials.jsonl").read_text().splitlines()]
    assert {json.dumps(record["id"]["hyperparameters"]) for record in records} == {
        '{"lr": 0.001}',
        '{"lr": 0.01, "momentum": 0.9}',
    }


@pytest.mark.parametrize(("module", "package"), [("rich", "rich"), ("sklearn", "scikit-learn")])
def test_a_missing_extra_is_named_before_any_work(monkeypatch, capsys, tmp_path, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "run", "--quick", "-o", "torch.optim:AdamW", "-p", "digits_mlp"]) == 2
    assert capsys.readouterr().err == f'optzoo: error: {package} is not installed; run: pip install "optzoo[compare]"\n'
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["compare"],
        ["compare", "run", "--no-such-flag"],
        ["compare", "run", "--quick", "--full"],
        ["compare", "list", "x"],
    ],
)
def test_bad_usage_is_status_2(arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["compair", "run"], "did you mean compare?"),
        (["compare", "shwo"], "did you mean show"),
        (["compare", "run", "--optimisers", "adamw"], "did you mean --optimizers"),
        (["compare", "race", "bowl", "--outptu=a.gif"], "did you mean --output?"),
        (["compare", "plot", "runs", "curvs"], "did you mean curves?"),
        (["compare", "show", "runs", "--by", "stepz"], "did you mean steps?"),
        (["schedule", "preview", "wsd", "--totl", "9"], "did you mean --total"),
    ],
)
def test_a_typing_error_is_met_with_the_nearest_name(arguments, hint, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["timing"], ["invariances"], ["race", "bowl"], ["sweep"]])
def test_every_command_knows_the_nearest_optimizer(verb, capsys):
    options = ["ademamx", "bowl"] if verb == ["sweep"] else ["-o", "ademamx"]
    assert main(["compare", *verb, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("optzoo: error: unknown optimizer 'ademamx'; did you mean 'ademamix'")
    assert captured.out == ""


def test_help_does_not_import_what_is_slow():
    """`optzoo --help` answers at once: it imports neither PyTorch nor what the extras bring."""
    code = (
        "import sys; from optzoo.compare.cli import main\n"
        "try: main(['compare', 'run', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'sklearn', 'rich', 'yaml'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--quick" in finished.stdout
    assert finished.stdout.endswith("[]\n")


def test_optimizers_of_the_working_directory_are_found(monkeypatch, tmp_path, capsys):
    source = "import torch\nclass Mine(torch.optim.AdamW):\n    pass\n"
    (tmp_path / "optimizers_of_a_user.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    arguments = ["-o", "optimizers_of_a_user:Mine", "-p", "bowl", "--seeds", "1", "--jobs", "1", "--no-timing"]
    assert main(["compare", "run", "--ruleset", "default", *arguments]) == 0
    assert "optimizers_of_a_user:Mine" in capsys.readouterr().out
    assert (tmp_path / "runs" / "compare" / "comparison.json").exists()


def test_a_failed_run_is_status_1(monkeypatch, tmp_path, capsys):
    (tmp_path / "broken_optimizers.py").write_text(
        "import torch\n\n\nclass Broken(torch.optim.SGD):\n    def step(self, closure=None):\n"
        "        raise KeyError('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["-o", "broken_optimizers:Broken,adamw", "-p", "bowl", "--seeds", "1", "--jobs", "1", "--no-timing"]
    assert main(["compare", "run", "--quick", *arguments]) == 1
    output = capsys.readouterr().out
    assert "failed" in output
    assert "a miss, raised KeyError: 'no': bowl/broken_optimizers:Broken" in output


def test_sweep_prints_a_line_per_learning_rate(capsys):
    assert main(["compare", "sweep", "torch.optim:SGD", "bowl"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    lrs = [float(row[0]) for row in rows]
    assert lrs == sorted(lrs)
    assert 7 <= len(lrs) <= 11
    assert sum("best" in row for row in rows) == 1
    assert [row[0] for row in rows if "default" in row] == ["0.001"]


def test_timing_prints_time_and_memory(capsys):
    assert main(["compare", "timing", "-o", "adamw,torch.optim:SGD", "--shape", "mlp"]) == 0
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading == "mlp: 6 tensors, 269,322 parameters; one thread"
    assert {row.split()[0]: row.split()[-1] for row in rows} == {"adamw": "2.00×", "torch.optim:SGD": "0.00×"}
    assert main(["compare", "timing", "--shape", "transformr"]) == 2
    assert "did you mean 'transformer'?" in capsys.readouterr().err


def test_list(capsys):
    assert main(["compare", "list", "problems", "--tags"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_problems()
    assert all(line.endswith("]") for line in lines)
    assert main(["compare", "list", "optimizers"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*list_optimizers(), *BASELINES]


def test_python_errors_are_value_errors():
    with pytest.raises(UsageError, match="did you mean 'rosenbrock'"):
        compare(["torch.optim:AdamW"], ["Rosenbrock"], jobs=1)
    assert issubclass(UsageError, ValueError)


def test_python_takes_functions_and_names_and_is_quiet(capsys):
    import torch

    result = compare(
        {"mine": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr), "sgd": torch.optim.SGD},
        "bowl",
        quick=True,
        seeds=1,
        timing=False,
    )
    mine, sgd = result.studies
    assert (mine.optimizer, mine.default_lr) == ("mine", 1e-3)
    assert [trial.curve for trial in mine.trials] == [trial.curve for trial in sgd.trials]
    assert capsys.readouterr() == ("", "")
    once = compare(["torch.optim:SGD"] * 2, ["bowl"] * 2, ruleset="default", seeds=1, jobs=1, timing=False)
    assert len(once.studies) == 1  # what is named twice is run once
