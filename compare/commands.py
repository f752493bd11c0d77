"""What the verbs of `optzoo compare` do, given what was typed."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .api import compare
from .errors import UsageError, require, unknown_name
from .results import MISS, Comparison
from .tensorboard import check_installed, write_tensorboard

RUN: dict[str, Any] = {
    "optimizers": None,
    "problems": None,
    "quick": False,
    "full": False,
    "ruleset": "lr",
    "seeds": None,
    "trials": None,
    "schedule": "auto",
    "jobs": 2,
    "out": "runs/compare",
    "timing": True,
    "json": None,
    "tensorboard": None,
}
"""The options of `run` with their defaults: the keys of a configuration file."""


def run(config: str | None = None, print_config: bool = False, **typed: Any) -> int:
    """`optzoo compare run`: the status is 1 if an optimizer or problem failed."""
    _find_modules_here()
    options = {**RUN, **(_read_config(Path(config)) if config else {}), **typed}
    if options["quick"] and options["full"]:
        raise UsageError("quick and full exclude each other")
    if print_config:
        import yaml

        print(yaml.safe_dump(options, sort_keys=False), end="")
        return 0
    require("rich", "rich")  # before the work, not after it
    json, full, tensorboard = options.pop("json"), options.pop("full"), options.pop("tensorboard")
    if tensorboard:
        check_installed()
    if json and not Path(json).parent.is_dir():
        raise UsageError(f"--json: there is no folder {str(Path(json).parent)!r}")
    if full:
        options["problems"] = options["problems"] or ["full"]
        options["seeds"] = options["seeds"] or 5
    try:
        result = compare(**options, progress=True)
    except KeyboardInterrupt:
        out = options["out"]
        print(f"optzoo: interrupted; what has been run is kept in {out!r}, the same command goes on", file=sys.stderr)
        return 130
    result.table()
    print(f"results: {options['out']}; a page of them: optzoo compare report {options['out']}")
    if json:
        result.to_json(json)
    if tensorboard:
        write_tensorboard(result, tensorboard)
        print(f"to look at: tensorboard --logdir {tensorboard}")
    return 1 if any(_failed(result)) else 0


def list_(what: str | None, tags: bool) -> int:
    """`optzoo compare list`."""
    if what in (None, "problems"):
        from .problems import PROBLEMS

        width = max(map(len, PROBLEMS))
        for problem in PROBLEMS.values():
            tagged = f"  [{', '.join([problem.family, *sorted(problem.tags)])}]" if tags else ""
            print(f"{problem.name:<{width}}  {problem.description}; {problem.metric_name} ≤ {problem.target}{tagged}")
    if what in (None, "optimizers"):
        from optzoo.optimizers import list_optimizers, optimizer_info

        from .candidates import BASELINES

        width = max(map(len, [*list_optimizers(), *BASELINES]))
        for name in list_optimizers():
            info = optimizer_info(name)
            lr = info.defaults.get("lr")
            shown = "own" if lr is None else f"{lr:g}" if isinstance(lr, int | float) else "needed"
            print(f"{name:<{width}}  lr {shown:<8} {info.description}".rstrip())
        for name, (path, options) in BASELINES.items():
            given = ", ".join(f"{option}={value}" for option, value in options.items())
            print(f"{name:<{width}}  to compare with: {path.replace(':', '.')}({given})")
    return 0


def show(folder: Path, by: Any, json: str | None) -> int:
    """`optzoo compare show`."""
    from .store import load

    result = load(folder)
    result.table(by=by)
    if json:
        result.to_json(json)
    return 0


def sweep(optimizer: str, problem: str, schedule: str, seed: int) -> int:
    """`optzoo compare sweep`: one line per learning rate."""
    _find_modules_here()
    from .candidates import get_candidate
    from .problems import get_problem
    from .protocol import Protocol, rank, screen
    from .results import Stage, Trial
    from .runner import Request, train
    from .schedule import check_schedule

    candidate, problem_class = get_candidate(optimizer), get_problem(problem)
    check_schedule(schedule, [problem_class])
    protocol = Protocol("lr", evaluation_seeds=(), tuning_seeds=(seed,))

    def run(
        hyperparameters: dict[str, Any], seed: int, stage: Stage, stop_at_hit: bool = False, limit: int | None = None
    ) -> Trial:
        trial = train(Request(problem_class, candidate, hyperparameters, seed, stage, stop_at_hit, limit, schedule))
        print(f"lr {trial.lr:.2g} …", file=sys.stderr)
        return trial

    trials = screen(run, candidate.default_lr, protocol)
    best = min(trials, key=rank)
    print(
        f"{candidate.name} on {problem_class.name}: {problem_class.metric_name} ≤ {problem_class.target}, seed {seed}"
    )
    print(f"{'lr':>9}  {'steps':>6}  {'final':>9}")
    for trial in trials:
        steps = f"{trial.hit:g}" if trial.hit < MISS else "–"
        final = trial.failure or (f"{trial.final:.3g}" if trial.final < math.inf else "diverged")
        bar = "█" * max(1, round(20 * best.hit / max(trial.hit, 1))) if trial.hit < MISS else ""
        default = " default" if math.isclose(trial.lr, candidate.default_lr) else ""
        print(f"{trial.lr:9.2g}  {steps:>6}  {final:>9}  {bar}{' best' if trial is best else ''}{default}")
    return 0


def timing(optimizers: list[str] | None, shape: str | None) -> int:
    """`optzoo compare timing`: a line per optimizer and shape."""
    _find_modules_here()
    from .candidates import get_candidates
    from .timing import SHAPES, time_updates

    if shape is not None and shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES)
    candidates = get_candidates(_all(optimizers))
    for name in SHAPES if shape is None else [shape]:
        shapes = SHAPES[name]
        print(f"{name}: {len(shapes)} tensors, {sum(map(math.prod, shapes)):,} parameters; one thread")
        print(f"{'':<24}{'µs/update':>10}{'ns/param':>10}{'state/params':>14}")
        for cost in sorted(time_updates(candidates, shapes), key=lambda cost: cost.update_us):
            ratio = cost.state_bytes / cost.parameter_bytes
            line = f"{cost.update_us:>10.0f}{4e3 * cost.update_us / cost.parameter_bytes:>10.2f}{ratio:>13.2f}×"
            print(f"{cost.optimizer:<24}{cost.failure or line}")
    return 0


def diff(old: Path, new: Path, fail_if_slower: float | None) -> int:
    """`optzoo compare diff`: the pairs whose time to the target differs; status 1 if one is too slow."""
    if fail_if_slower is not None and not fail_if_slower >= 1:
        raise UsageError(f"--fail-if-slower must be at least 1, not {fail_if_slower:g}")
    from .diff import changes
    from .store import load

    found = changes(load(old), load(new))
    for note in found.notes:
        print(f"! {note}")
    for change in found.changes:
        print(change)
    print(f"{len(found.changes)} of {found.common} common studies differ in steps to the target")
    slow = [change for change in found.changes if fail_if_slower is not None and change.factor > fail_if_slower]
    if slow:
        print(f"{len(slow)} slower than {fail_if_slower:g} times the old", file=sys.stderr)
    return 1 if slow else 0


def _failed(result: Comparison) -> list[bool]:
    return [bool(study.failure or any(trial.failure for trial in study.evaluations)) for study in result.studies]


def _all(names: Sequence[str] | None) -> Sequence[str] | None:
    return None if names == ["all"] else names


def _find_modules_here() -> None:
    sys.path.insert(0, os.getcwd())  # as `python -m` does, so that module:Class finds what lies beside the user


def _read_config(path: Path) -> dict[str, Any]:
    """The options in a YAML file. `optimizers` may have entries {name: {class_path: ..., init_args: {...}}}."""
    require("yaml", "PyYAML")
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config: cannot read {str(path)!r} ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config: {str(path)!r} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(document, dict):
        raise UsageError(f"--config: {str(path)!r} must have options with their values, such as `quick: true`")
    for name, value in document.items():
        if name not in RUN:
            raise unknown_name("option", str(name), RUN)
        expected = type(RUN[name]) if RUN[name] is not None else {"seeds": int, "trials": int, "json": str}.get(name)
        if value is not None and expected and not isinstance(value, expected):
            raise UsageError(f"--config: {name} must be {expected.__name__}, not {value!r}")
    return document
