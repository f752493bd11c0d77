"""The results folder: what is written is read again, the same bytes, and nothing foreign is touched."""

import dataclasses
import json
import math
import shutil
from collections import namedtuple

import pytest

from optzoo.compare import UsageError, load
from optzoo.compare.results import StepTime, Update
from optzoo.compare.store import Store, key_of

VERSIONS = {"optzoo": "0.1.0", "torch": "2.13.0"}
PROBLEMS = {"rosenbrock": 1}


def identity(trial, problem="rosenbrock", version=1, optimizer="optzoo.optimizers.adam.AdamW"):
    return {
        "problem": problem,
        "problem_version": version,
        "optimizer": optimizer,
        "hyperparameters": trial.hyperparameters,
        "seed": trial.seed,
        "stage": trial.stage,
        "limit": trial.limit,
    }


def keyed(trial):
    return dataclasses.replace(trial, key=key_of(identity(trial)))


@pytest.fixture
def comparison(make):
    study = make.study([9, 0.5, 0.5, math.nan], [9, 9, 1e-3, 0.1])
    odd = make.trial([9], seed=5, failure="raised E: é", extra={"accuracy": 0.5}, limit=30, hyperparameters={"lr": 0.1})
    updates = (Update(10, 0.1, 1e-3 / 3, 0.25), Update(20, math.nan, None, math.nan))
    odd = dataclasses.replace(odd, updates=updates)
    trials = tuple(keyed(trial) for trial in (*study.trials, odd))
    return make.comparison(
        dataclasses.replace(study, trials=trials), timing={"rosenbrock": {"adamw": StepTime(1.0, 2.0, 3.0)}}
    )


def write(folder, comparison, order=1):
    with Store(folder, VERSIONS, PROBLEMS) as store:
        for trial in comparison.studies[0].trials[::order]:
            store.add(identity(trial), trial)
        store.complete(comparison)


def lines(folder, name="trials.jsonl"):
    return (folder / name).read_text(encoding="utf-8").splitlines()


def test_a_comparison_is_read_as_it_was_written(comparison, tmp_path):
    write(tmp_path / "new" / "folder", comparison)
    found = load(tmp_path / "new" / "folder")
    (before,), (after,) = comparison.studies, found.studies
    assert repr(after) == repr(before)  # nan is not equal to itself
    assert [trial.clock for trial in after.trials] == [trial.clock for trial in before.trials]
    assert (found.problems, found.optimizers, found.protocol["seconds"]) == (
        comparison.problems,
        comparison.optimizers,
        30.0,
    )
    assert (found.timing, found.environment, found.seconds) == (comparison.timing, comparison.environment, 1.0)


def test_bytes_do_not_depend_on_the_order_trials_end_in(comparison, tmp_path):
    write(tmp_path / "a", comparison)
    write(tmp_path / "b", comparison, order=-1)
    for name in ("store.json", "trials.jsonl", "comparison.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_key_is_the_hash_of_the_identity(comparison, tmp_path):
    write(tmp_path, comparison)
    for line in lines(tmp_path):
        record = json.loads(line, parse_constant=pytest.fail)
        assert list(record) == ["id", "key", "result"]
        assert record["key"] == key_of(record["id"])
    assert key_of({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_what_is_there_is_found_by_problem_and_optimizer(comparison, tmp_path):
    write(tmp_path, comparison)
    with Store(tmp_path, VERSIONS, PROBLEMS) as store:
        found = store.of("rosenbrock", "optzoo.optimizers.adam.AdamW")
        assert set(found) == {trial.key for trial in comparison.studies[0].trials}
        assert store.of("rosenbrock", "another.Adam") == {}
        assert store.of("quad", "optzoo.optimizers.adam.AdamW") == {}


def test_a_trial_is_in_the_file_at_once(comparison, tmp_path):
    first, *_ = comparison.studies[0].trials
    with Store(tmp_path, VERSIONS, PROBLEMS) as store:
        store.add(identity(first), first)
        assert len(lines(tmp_path)) == len(lines(tmp_path, "clock.jsonl")) == 1
        assert first.key in store


def test_a_line_cut_off_by_a_crash_is_dropped_and_the_rest_kept(comparison, tmp_path):
    write(tmp_path, comparison)
    whole = lines(tmp_path)
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write(whole[0][:40])
    with Store(tmp_path, VERSIONS, PROBLEMS):
        assert lines(tmp_path) == whole


def test_a_damaged_line_is_named(comparison, tmp_path):
    write(tmp_path, comparison)
    (tmp_path / "trials.jsonl").write_text("\n".join([lines(tmp_path)[0], "garbage", ""]))
    with pytest.raises(UsageError, match=r"trials\.jsonl' is damaged in line 2; delete that line"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("versions", "problems", "said"),
    [
        ({"optzoo": "0.2.0", "torch": "2.13.0"}, PROBLEMS, r"another version: optzoo 0\.1\.0 \(here 0\.2\.0\)"),
        ({"optzoo": "0.2.0", "torch": "3.0"}, PROBLEMS, r"0\.2\.0\), torch 2\.13\.0 \(here 3\.0\)"),
        (VERSIONS, {"rosenbrock": 2}, r"problem rosenbrock 1 \(here 2\)"),
    ],
)
def test_results_of_another_version_are_refused_with_what_differs(comparison, tmp_path, versions, problems, said):
    write(tmp_path, comparison)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=said), Store(tmp_path, versions, problems):
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_format_is_refused(comparison, tmp_path):
    write(tmp_path, comparison)
    (tmp_path / "store.json").write_text('{"format": 7}')
    for use in (lambda: load(tmp_path), lambda: Store(tmp_path, VERSIONS, PROBLEMS).__enter__()):
        with pytest.raises(UsageError, match=r"format 7 \(here 3\)"):
            use()


def test_a_folder_that_cannot_be_made_or_has_no_room_is_said_before_the_run(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match=r"cannot write to .*file/runs.*give another --out"),
        Store(tmp_path / "file" / "runs", VERSIONS, PROBLEMS),
    ):
        pass
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    said = r"has 1 MB left and the run may need 5 MB; make room"
    with pytest.raises(UsageError, match=said), Store(tmp_path / "full", VERSIONS, PROBLEMS, room=5 * 10**6):
        pass


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with (
        Store(tmp_path, VERSIONS, PROBLEMS),
        pytest.raises(UsageError, match="another run is writing"),
        Store(tmp_path, VERSIONS, PROBLEMS),
    ):
        pass
    with Store(tmp_path, VERSIONS, PROBLEMS):
        pass


def test_folders_that_cannot_be_shown(comparison, tmp_path):
    with pytest.raises(UsageError, match="there is no results folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"it has no store\.json"):
        load(tmp_path)
    with Store(tmp_path, VERSIONS, PROBLEMS):
        pass
    with pytest.raises(UsageError, match="was not completed; run the same command again"):
        load(tmp_path)
    write(tmp_path, comparison)
    (tmp_path / "comparison.json").write_text('{"problems": []}')
    with pytest.raises(UsageError, match=r"is damaged \(KeyError"):
        load(tmp_path)
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        load(tmp_path)
