"""The results folder. One line of JSON per trial, under the hash of everything that determines it.

A folder holds what its trials computed, the same bytes for the same request on the same machine:

    store.json       {"format": 3, "optzoo": "0.1.0", "torch": "2.13.0"}: the versions its trials were made with
    trials.jsonl     one trial per line, appended as it ends; sorted by identity when a run completes
    comparison.json  the latest completed run: "problems", "optimizers", "protocol", per study the keys of its trials

and, apart from that, what the clock said, which differs every time:

    clock.jsonl      one line per trial: "key", "step_us", "optimizer_us", "seconds", "load", "machine"
    measured.json    of the latest run: "environment", "seconds", and "timing" of the serial pass

A line of trials.jsonl is {"key": ..., "id": ..., "result": ...}:

    id      problem, problem_version; optimizer ("module.Class"), optimizer_version (of its package, with a hash of the
            source); hyperparameters (what the protocol sets); seed; schedule; stage; stop_at_hit; limit; torch
    key     sha256 of the id as JSON with sorted keys and no spaces
    result  target, curve ([[step, metric, gradient evaluations], ...]; null for a metric that is not finite), updates
            (of an evaluation run [[step, loss, lr, norm], ...], see `results.Update`), extra, parameters, state_bytes,
            failure (null, or why the run could not go on)

A key that is there is never computed again, so a run that was interrupted goes on, one more optimizer costs its own
trials alone, and runs of different protocols share a folder and whatever they have in common. `load` reads a folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from .errors import UsageError
from .results import Clock, Comparison, Evaluation, ProblemInfo, StepTime, Study, Trial, Update, finite

FORMAT = 3
Identity = dict[str, Any]


def key_of(identity: Identity) -> str:
    """The address of a trial.

    >>> key_of({"problem": "rosenbrock", "seed": 0}) == key_of({"seed": 0, "problem": "rosenbrock"})
    True
    """
    return hashlib.sha256(_line(identity).encode()).hexdigest()


def load(folder: str | Path) -> Comparison:
    """The comparison of the latest completed run in a results folder.

    Raises:
        UsageError: the folder is no results folder, of another format, damaged, or its run has not been completed.
    """
    folder = Path(folder)
    _check_format(folder)
    if not (folder / "comparison.json").exists():
        raise UsageError(f"the run in {str(folder)!r} was not completed; run the same command again and it goes on")
    trials = {record.trial.key: record.trial for record in _read(folder)}
    try:
        document = _read_json(folder / "comparison.json")
        measured = _read_json(folder / "measured.json") if (folder / "measured.json").exists() else {}
        return Comparison(
            problems=tuple(ProblemInfo(**{**entry, "tags": tuple(entry["tags"])}) for entry in document["problems"]),
            optimizers=tuple(document["optimizers"]),
            studies=tuple(_study(entry, trials) for entry in document["studies"]),
            protocol=document["protocol"],
            environment=measured.get("environment", {}),
            timing={
                problem: {optimizer: StepTime(**time) for optimizer, time in times.items()}
                for problem, times in measured.get("timing", {}).items()
            },
            seconds=measured.get("seconds", 0.0),
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{str(folder)!r} is damaged ({type(error).__name__}: {error}); give another --out") from error


class _Record(NamedTuple):
    identity: Identity
    trial: Trial
    line: str


class Store:
    """A results folder, open for a run: `with Store(folder, versions) as store`.

    Args:
        folder: Made if it is not there.
        versions: {"optzoo": ..., "torch": ...}, which all trials in the folder share.
        problems: Version of each problem of the run, by name.
        room: Bytes that the run may need at most.

    Raises:
        UsageError: on entering, before any work: the folder is of other versions (naming what differs), cannot be
            written to, is in use by another run, or the disk is too full.
    """

    def __init__(self, folder: str | Path, versions: dict[str, str], problems: dict[str, int], room: int = 0) -> None:
        self.folder = Path(folder)
        self.versions = {"format": FORMAT, **versions}
        self.problems = problems
        self.room = room
        self._records: dict[str, _Record] = {}

    def __enter__(self) -> Store:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("a")
            self._open()
        except OSError as error:
            hint = "give another --out"
            raise UsageError(f"cannot write to {str(self.folder)!r} ({error.strerror}); {hint}") from error
        try:
            _lock(self._lock, self.folder)
            self._check_room()
            self._check_versions()
            self._records = {record.trial.key: record for record in _read(self.folder)}
            self._check_problems()
            self._rewrite()  # drops a line that a crash cut off
            _write(self.folder / "store.json", _indented(self.versions))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def of(self, problem: str, optimizer: str) -> dict[str, Trial]:
        """The trials of an optimizer ("module.Class") on a problem, by key."""
        pair = problem, optimizer
        records = self._records.items()
        return {key: trial for key, (id_, trial, _) in records if (id_["problem"], id_["optimizer"]) == pair}

    def add(self, identity: Identity, trial: Trial) -> None:
        """Keep a trial: it is in the file when this returns."""
        line = _line({"key": trial.key, "id": identity, "result": _result(trial)})
        self._records[trial.key] = _Record(identity, trial, line)
        _append(self._trials_file, line)
        if trial.clock:
            _append(self._clock_file, _clock_line(trial.key, trial.clock))

    def complete(self, comparison: Comparison) -> None:
        """Write what the run amounts to; from now on `load` finds it."""
        self._rewrite()
        document = {
            "problems": [asdict(problem) for problem in comparison.problems],
            "optimizers": list(comparison.optimizers),
            "protocol": comparison.protocol,
            "studies": [_entry(study) for study in comparison.studies],
        }
        measured = {
            "environment": comparison.environment,
            "seconds": comparison.seconds,
            "timing": {
                problem: {optimizer: asdict(time) for optimizer, time in times.items()}
                for problem, times in comparison.timing.items()
            },
        }
        _write(self.folder / "measured.json", _indented(measured))
        _write(self.folder / "comparison.json", _indented(document))

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < self.room:
            raise UsageError(
                f"the disk of {str(self.folder)!r} has {free / 1e6:.0f} MB left and the run may need "
                f"{self.room / 1e6:.0f} MB; make room or give another --out"
            )

    def _check_versions(self) -> None:
        if not (self.folder / "store.json").exists():
            return
        _check_format(self.folder)
        found = _read_json(self.folder / "store.json")
        self._refuse({name: (found.get(name), version) for name, version in self.versions.items()})

    def _check_problems(self) -> None:
        identities = (record.identity for record in self._records.values())
        found = {identity["problem"]: identity["problem_version"] for identity in identities}
        common = self.problems.keys() & found.keys()
        self._refuse({f"problem {name}": (found[name], self.problems[name]) for name in sorted(common)})

    def _refuse(self, versions: dict[str, tuple[Any, Any]]) -> None:
        differing = [f"{name} {there} (here {here})" for name, (there, here) in versions.items() if there != here]
        if differing:
            raise UsageError(
                f"the results in {str(self.folder)!r} are of another version: {', '.join(differing)}; "
                "give another --out or delete the folder"
            )

    def _rewrite(self) -> None:
        """Both files in the order of the identities, whatever order the trials ended in."""
        records = sorted(self._records.values(), key=lambda record: _line(record.identity))
        clocks = [(trial.key, trial.clock) for _, trial, _ in records if trial.clock]
        self._trials_file.close()
        self._clock_file.close()
        try:
            _write(self.folder / "trials.jsonl", "".join(record.line + "\n" for record in records))
            _write(self.folder / "clock.jsonl", "".join(_clock_line(key, clock) + "\n" for key, clock in clocks))
        finally:
            self._open()

    def _open(self) -> None:
        self._trials_file = (self.folder / "trials.jsonl").open("a", encoding="utf-8", newline="\n")
        self._clock_file = (self.folder / "clock.jsonl").open("a", encoding="utf-8", newline="\n")

    def _close(self) -> None:
        for file in (self._trials_file, self._clock_file, self._lock):
            file.close()


def _entry(study: Study) -> dict[str, Any]:
    """A study with its trials as keys."""
    fields = {name: value for name, value in vars(study).items() if name != "trials"}
    return {**fields, "trials": [trial.key for trial in study.trials]}


def _study(entry: dict[str, Any], trials: dict[str, Trial]) -> Study:
    return Study(**{**entry, "trials": tuple(trials[key] for key in entry["trials"])})


def _result(trial: Trial) -> dict[str, Any]:
    names = ("target", "curve", "updates", "extra", "parameters", "state_bytes", "failure")
    return {name: getattr(trial, name) for name in names}


def _clock_line(key: str, clock: Clock) -> str:
    return _line({"key": key, **asdict(clock)})


def _trial(record: dict[str, Any], clock: Clock | None) -> Trial:
    identity, result = record["id"], record["result"]
    curve = tuple(Evaluation(step, _number(metric), gradients) for step, metric, gradients in result["curve"])
    updates = tuple(Update(step, _number(loss), lr, _number(norm)) for step, loss, lr, norm in result["updates"])
    extra = {name: _number(value) for name, value in result["extra"].items()}
    return Trial(
        key=record["key"],
        clock=clock,
        **{name: identity[name] for name in ("stage", "hyperparameters", "seed", "limit")},
        **{**result, "curve": curve, "updates": updates, "target": _number(result["target"]), "extra": extra},
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _read(folder: Path) -> Iterator[_Record]:
    clocks: dict[str, Clock] = {}
    for line in _complete_lines(folder / "clock.jsonl"):
        clock = json.loads(line)
        key = clock.pop("key")
        clocks[key] = Clock(**clock)
    for line in _complete_lines(folder / "trials.jsonl"):
        record = json.loads(line)
        yield _Record(record["id"], _trial(record, clocks.get(record["key"])), line)


def _complete_lines(path: Path) -> list[str]:
    """The lines that were written to their end; a crash can cut off the last."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.split("\n")[:-1]
    for number, line in enumerate(lines, start=1):
        if not (line.startswith('{"') and line.endswith("}")):
            raise UsageError(f"{str(path)!r} is damaged in line {number}; delete that line, its trial will run again")
    return lines


def _check_format(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"there is no results folder {str(folder)!r}; `optzoo compare run --out DIR` makes one")
    if not (folder / "store.json").exists():
        raise UsageError(f"{str(folder)!r} is no results folder: it has no store.json")
    found = _read_json(folder / "store.json").get("format")
    if found != FORMAT:
        raise UsageError(
            f"the results in {str(folder)!r} are of another version: format {found} (here {FORMAT}); "
            "read them with the optzoo that made them, or give another --out"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is damaged ({error}); delete the folder or give another --out") from error
    if not isinstance(document, dict):
        raise UsageError(f"{str(path)!r} is damaged (no JSON object); delete the folder or give another --out")
    return document


def _append(file: IO[str], line: str) -> None:
    file.write(line + "\n")
    file.flush()


def _write(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of either."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def _line(value: Any) -> str:
    return json.dumps(finite(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _indented(value: Any) -> str:
    return json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _lock(file: IO[str], folder: Path) -> None:
    """Two runs in one folder would overwrite each other's lines; the lock goes with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f"another run is writing to {str(folder)!r}; wait for it or give another --out") from error
