"""The table and the lints, on results that are made up."""

import dataclasses
import io

import pytest

HIT_10, HIT_20, MISSED, LOST = [9, 0.5, 0.5, 0.4], [9, 5, 0.5, 0.25], [9, 9, 9, 7], [9, 0.5, 0.5, 5]


def printed(comparison) -> str:
    file = io.StringIO()
    comparison.table(file)
    return file.getvalue()


def row(text: str, optimizer: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.split()[:1] == [optimizer])
    return line.split()


def test_rows_are_ranked_by_steps_then_seeds_and_a_miss_is_a_dash(make):
    text = printed(
        make.comparison(
            make.study(MISSED, MISSED, MISSED, optimizer="never"),
            make.study(MISSED, HIT_10, MISSED, optimizer="once"),
            make.study(HIT_10, HIT_20, HIT_20, optimizer="slow"),
            make.study(HIT_10, HIT_10, MISSED, optimizer="twice"),
            make.study(HIT_10, HIT_10, HIT_10, optimizer="fast"),
        )
    )
    names = ["fast", "twice", "slow", "once", "never"]
    positions = [text.index(f" {name} ") for name in names]
    assert positions == sorted(positions)
    assert row(text, "fast") == ["fast", "0.1", "10", "0.4", "50", "20", "16", "8"]
    assert row(text, "twice")[2:4] == ["10", "(2/3)"]
    assert row(text, "once")[2:4] == ["–", "(1/3)"]
    assert row(text, "never")[2:4] == ["–", "7"]
    assert "The protocol." in text


def test_divergence_and_errors_have_words(make):
    diverged = make.study([9, float("nan")], optimizer="wild")
    failed = make.failed(make.study(HIT_10, optimizer="broken"), "TypeError: no closure")
    text = printed(make.comparison(diverged, failed))
    assert row(text, "wild")[2:4] == ["–", "diverged"]
    assert row(text, "broken") == ["broken", "error"]
    assert "rosenbrock/broken raised TypeError: no closure" in text


def test_validation_accuracy_has_a_column_only_where_it_is_measured(make):
    study = make.study(HIT_10, problem="digits_mlp")
    trials = tuple(dataclasses.replace(trial, extra={"val_accuracy": 0.9812}) for trial in study.trials)
    text = printed(make.comparison(dataclasses.replace(study, trials=trials)))
    assert "accuracy" in text
    assert "0.981" in row(text, "adamw")
    assert "accuracy" not in printed(make.comparison(make.study(HIT_10)))


def test_nothing_to_warn_about(make):
    assert make.comparison(make.study(HIT_10, HIT_20)).lints() == []


@pytest.mark.parametrize("lr", [0.01, 1.0])
def test_lint_edge(make, lr):
    lints = make.comparison(make.study(HIT_10, optimizer="edgy", lr=lr), make.study(HIT_10)).lints()
    assert lints == ["the chosen lr is at an end of its grid: rosenbrock/edgy"]


def test_lint_seeds_disagree(make):
    lints = make.comparison(make.study(HIT_10, MISSED), make.study(HIT_10, HIT_20, optimizer="sure")).lints()
    assert lints == ["the evaluation seeds disagree: rosenbrock/adamw"]


def test_lint_lost(make):
    assert make.comparison(make.study(HIT_10, LOST)).lints() == ["hit, then lost by the end: rosenbrock/adamw"]


def test_lint_unsolved(make):
    solved, unsolved = make.study(HIT_10), make.study(MISSED, problem="digits_mlp")
    assert make.comparison(solved, unsolved).lints() == ["digits_mlp: no optimizer reaches the target"]


def test_lint_load(make):
    busy = dataclasses.replace(make.study(HIT_10), load=3.5)
    assert make.comparison(busy).lints() == ["load average 3.5 on 2 cores: times are upper bounds"]
    assert make.comparison(dataclasses.replace(busy, load=None)).lints() == []
