"""The table and the lints, on results that are made up."""

import dataclasses
import io
from pathlib import Path

import pytest

from optzoo.compare.protocol import make_protocol
from optzoo.compare.results import StepTime

HIT_10, HIT_20, MISSED, LOST = [9, 1, 0.5, 0.4], [9, 5, 1, 0.25], [9, 9, 9, 7], [9, 1, 0.5, 5]


def printed(comparison, by="steps") -> str:
    file = io.StringIO()
    comparison.table(file, by)
    return file.getvalue()


def row(text: str, name: str, which: int = 0) -> list[str]:
    return [line.split() for line in text.splitlines() if line.split()[:1] == [name]][which]


def test_the_summary_is_by_score_and_states_what_it_rests_on(make):
    text = printed(
        make.comparison(
            make.study(MISSED, optimizer="never"),
            make.study(HIT_20, optimizer="slow"),
            make.study(HIT_10),
            timing={"rosenbrock": {name: StepTime(1, 1, 2) for name in ("adamw", "slow")}},
        )
    )
    positions = [text.index(f"\n {name} ") for name in ("adamw", "slow", "never")]
    assert positions == sorted(positions)
    adamw = ["adamw", "1.000", "[0.01,", "1.00]", "0.1", "1", "1.000", "1/1", "1", "1.00×", "(1)", "0.0", "2", "2.0×"]
    slow = ["slow", "0.667", "[0.01,", "1.00]", "0.1", "2", "0.667", "1/1", "0", "0.50×", "(1)", "0.0", "2", "2.0×"]
    assert (row(text, "adamw"), row(text, "slow")) == (adamw, slow)
    assert row(text, "never")[1:4] == ["0.000", "[0.00,", "0.99]"]
    assert row(text, "lr") == ["lr", "0.1", "0.1", "0.1"]
    assert "Ruleset lr: weight decay 0" in text


def test_cells_are_medians_with_the_seeds_that_hit(make):
    comparison = make.comparison(
        make.study(HIT_10, HIT_10, MISSED, optimizer="twice"),
        make.study(MISSED, HIT_10, MISSED, optimizer="once"),
        make.study(HIT_10, HIT_10, LOST, optimizer="lost"),
        make.study([9, float("nan")], optimizer="wild"),
        make.failed(make.study(HIT_10, optimizer="broken"), "raised TypeError: no closure"),
    )
    cells = row(printed(comparison), "rosenbrock")
    assert cells == ["rosenbrock", "10", "(2/3)", "–", "(1/3)", "10*", "–", "failed"]
    assert row(printed(comparison, by="gradients"), "rosenbrock")[1] == "20"
    assert row(printed(comparison, by="cpu"), "rosenbrock")[1] == "0.0005"
    assert row(printed(comparison, by="final"), "rosenbrock")[1:] == ["0.4", "7", "0.4", "diverged", "failed"]


def test_diagnoses_are_in_brackets_and_many_optimizers_in_several_tables(make):
    studies = [make.study([9, 1, 0.5, index / 100], optimizer=f"optimizer_{index:02}") for index in range(30)]
    text = printed(make.comparison(*studies, problems=(make.problem("rosenbrock", scored=False),)))
    assert "score by" not in text
    assert text.count("(rosenbrock)") > 1
    assert max(map(len, text.splitlines())) <= 130
    for index in range(30):
        assert text.count(f"optimizer_{index:02}") == 1


def test_dagger_where_an_optimizer_for_matrices_met_only_vectors(make):
    fallen = dataclasses.replace(make.study(HIT_10, HIT_10, MISSED, optimizer="psgd"), vector_rule="diagonal factors")
    text = printed(make.comparison(make.study(HIT_20), fallen))
    assert row(text, "rosenbrock") == ["rosenbrock", "20", "10†", "(2/3)"]
    note = " ".join(text.split())
    assert "†: no parameter of the problem is a matrix; the optimizer, which is for matrices, runs its rule" in note
    assert "psgd (diagonal factors)" in note
    assert row(printed(make.comparison(fallen), by="final"), "rosenbrock")[1] == "0.4†"
    assert "†" not in printed(make.comparison(make.study(HIT_20)))


def test_what_a_problem_measures_beside_its_metric(make):
    study = make.study(HIT_10, HIT_10)
    measured = tuple(dataclasses.replace(trial, extra={"val_accuracy": 0.9625}) for trial in study.trials)
    comparison = make.comparison(dataclasses.replace(study, trials=measured), make.study(HIT_20, optimizer="x"))
    assert row(printed(comparison, by="final"), "val_accuracy") == ["val_accuracy", "0.963"]
    assert "val_accuracy" not in printed(comparison)


def test_lint_alike(make):
    comparison = make.comparison(
        make.study(HIT_10), make.study(HIT_10, optimizer="x"), make.study(HIT_20, optimizer="y")
    )
    assert "the same runs to the last bit under this protocol: adamw = x" in comparison.lints()


def test_nothing_to_warn_about(make):
    assert make.comparison(make.study(HIT_10, HIT_20)).lints() == []


@pytest.mark.parametrize("lr", [0.01, 1.0])
def test_lint_edge(make, lr):
    found = make.comparison(make.study(HIT_10, optimizer="edgy", lr=lr), make.study(HIT_20)).lints()
    assert found == ["the lr judged is at an end of its grid: rosenbrock/edgy"]


def test_lint_seeds_disagree(make):
    found = make.comparison(
        make.study(HIT_10, HIT_10, MISSED), make.study(HIT_20, HIT_20, HIT_20, optimizer="x")
    ).lints()
    assert found == [
        "the evaluation seeds disagree: rosenbrock/adamw",
        "not separable at the first rank by 1 problem(s): adamw, x",  # 7 of 27 triples of seeds are a miss
    ]


def test_lint_lost(make):
    assert make.comparison(make.study(HIT_10, LOST)).lints() == ["hit, then lost by the end: rosenbrock/adamw"]


def test_lint_diverged_on_a_tuning_seed(make):
    study = make.study(HIT_10)
    diverged = make.trial([9, float("nan")], seed=1, stage="retest")
    found = make.comparison(dataclasses.replace(study, trials=(*study.trials, diverged))).lints()
    assert found == ["diverged on a tuning seed at the lr judged: rosenbrock/adamw"]


def test_lint_without_contrast(make):
    solved, unsolved = make.study(HIT_10), make.study(MISSED, problem="digits_mlp")
    assert make.comparison(solved, unsolved).lints() == ["digits_mlp: no optimizer reaches the target"]
    at_once = make.comparison(make.study(HIT_10), make.study(HIT_10, optimizer="x")).lints()
    assert "rosenbrock: every optimizer is at the target at the first evaluation" in at_once


def test_lint_failures_with_the_reason(make):
    broken = make.failed(make.study(HIT_10, optimizer="broken"), "raised TypeError: no closure")
    slow = make.study(HIT_10, optimizer="slow")
    trials = tuple(dataclasses.replace(trial, failure="took over 30 s") for trial in slow.trials)
    found = make.comparison(make.study(HIT_10), broken, dataclasses.replace(slow, trials=trials)).lints()
    assert found[:2] == [
        "a miss, raised TypeError: no closure: rosenbrock/broken",
        "a miss, took over 30 s: rosenbrock/slow",
    ]


def test_lint_missing_cells_and_unequal_seeds(make):
    found = make.comparison(
        make.study(HIT_10), make.study(HIT_20, HIT_20, optimizer="x"), make.study(HIT_20, problem="q")
    ).lints()
    assert "missing: q/x" in found
    assert "rosenbrock: unequal numbers of evaluation seeds (1, 2)" in found


def test_lint_ranks_and_leave_one_out(make):
    def study(optimizer, problem, evaluations):
        return make.study([9] * evaluations + [0.5, 0.5], optimizer=optimizer, problem=problem)

    found = make.comparison(
        *(study("a", "p", 40), study("a", "q", 12)),
        *(study("b", "p", 80), study("b", "q", 10)),
        *(study("c", "p", 10), make.study(MISSED, optimizer="c", problem="q")),
    ).lints()
    assert found == [
        "not separable at the first rank by 2 problem(s): b, c",
        "without c the order is another: a before b",
    ]


def test_lint_processors_and_load(make):
    study = make.study(HIT_10)
    elsewhere = dataclasses.replace(study.trials[0].clock, machine="another processor")
    mixed = dataclasses.replace(study, trials=(*study.trials, make.trial(HIT_10, seed=101, clock=elsewhere)))
    assert make.comparison(mixed).lints() == [
        "trials of 2 processors: last bits and times differ (a processor, another processor)"
    ]
    busy = make.comparison(study, environment={"cores": 2, "load": 3.5})
    assert busy.lints() == ["load average 3.5 on 2 cores: times are upper bounds"]
    assert make.comparison(study, environment={}).lints() == []


def test_columns_of_which_nothing_is_known_are_left_out(make):
    study = make.study(HIT_10)
    assert "lr basin" in printed(make.comparison(study))
    quick = printed(make.comparison(study, protocol=make_protocol(quick=True).to_dict()))
    assert "lr basin" not in quick
    assert row(quick, "adamw")[4:] == ["0.1", "1", "1.000", "1/1", "1", "1.00×", "(1)", "20", "2.0×"]


def test_the_learning_rates_that_won_are_shown(make):
    studies = [make.study(HIT_10, problem=problem, lr=lr) for problem, lr in (("p", 0.01), ("q", 1.0), ("r", 0.1))]
    text = printed(make.comparison(*studies))
    assert row(text, "adamw")[4] == "0.01–1"
    assert [row(text, "lr", index) for index in range(3)] == [["lr", "0.01"], ["lr", "1"], ["lr", "0.1"]]
    assert "nan" not in printed(make.comparison(dataclasses.replace(studies[0], chosen={})))


def test_readme_has_the_table_that_the_command_prints(make):
    """README shows what `optzoo compare run --quick` prints: the same columns, and a learning rate under each cell."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    block = readme.split("```text\n", 1)[1].split("```", 1)[0]
    study = make.study(HIT_10)
    text = printed(make.comparison(study, protocol=make_protocol(quick=True).to_dict()))
    for name in ("optimizer", "problem"):
        assert row(block, name)[:1] == row(text, name)[:1]
    assert row(block, "optimizer") == row(text, "optimizer")
    assert len(row(block, "adamw")) == len(row(text, "adamw"))
    assert row(block, "lr")
    assert max(map(len, block.splitlines())) <= 130


def test_which_weights_are_judged_is_said(make):
    dog = dataclasses.replace(make.study(HIT_10, optimizer="dog"), evaluate_on="average", own_schedule=True)
    slow = dataclasses.replace(make.study(HIT_10, optimizer="lookahead"), evaluate_on="slow_weights")
    free = dataclasses.replace(dog, optimizer="schedulefreesgd", evaluate_on="evaluation_weights")
    text = " ".join(printed(make.comparison(make.study(HIT_20), dog, slow, free)).split())
    assert "Judged as its paper does: dog on its average, lookahead on its slow weights, schedulefreesgd on its" in text
    assert "on its evaluation weights; the others on the weights of the last step." in text
    assert "Without the problem's schedule of lr, having its own: dog, schedulefreesgd." in text
    assert "Judged as" not in printed(make.comparison(make.study(HIT_20)))
