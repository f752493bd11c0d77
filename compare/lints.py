"""Reasons to read a comparison with care; each finder returns sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .results import MISS, Comparison, Study

SHOWN = 6  # names in one sentence


def find_lints(comparison: Comparison) -> list[str]:
    """All of them, the gravest first."""
    studies = comparison.studies
    judged = [study for study in studies if study.evaluations]
    found = [
        *_failures(studies),
        _missing(comparison),
        _which("the lr judged is at an end of its grid", judged, _at_edge),
        _which("the evaluation seeds disagree", judged, lambda study: 0 < study.hits < len(study.evaluations)),
        _which("diverged on a tuning seed at the lr judged", judged, _diverged_in_tuning),
        _which("hit, then lost by the end", judged, lambda study: any(trial.lost for trial in study.evaluations)),
        *_without_contrast(comparison, judged),
        _unequal(comparison, judged),
        _alike(comparison),
        *_statistics(comparison),
        _machines(studies),
        _load(comparison),
    ]
    return [lint for lint in found if lint]


def _which(what: str, studies: Iterable[Study], applies: Callable[[Study], bool]) -> str | None:
    names = [f"{study.problem}/{study.optimizer}" for study in studies if applies(study)]
    return f"{what}: {_listed(names)}" if names else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _failures(studies: Iterable[Study]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for study in studies:
        reason = study.failure or next((trial.failure for trial in study.evaluations if trial.failure), None)
        if reason:
            reasons.setdefault(reason, []).append(f"{study.problem}/{study.optimizer}")
    return [f"a miss, {reason}: {_listed(names)}" for reason, names in reasons.items()]


def _missing(comparison: Comparison) -> str | None:
    made = {(study.problem, study.optimizer) for study in comparison.studies}
    pairs = [(problem.name, optimizer) for problem in comparison.problems for optimizer in comparison.optimizers]
    names = ["/".join(pair) for pair in pairs if pair not in made]
    return f"missing: {_listed(names)}" if names else None


def _at_edge(study: Study) -> bool:
    grid = study.grid
    return len(grid) > 1 and study.lr in (grid[0], grid[-1])


def _diverged_in_tuning(study: Study) -> bool:
    return any(
        trial.diverged and trial.stage != "evaluate" and trial.hyperparameters == study.chosen for trial in study.trials
    )


def _without_contrast(comparison: Comparison, studies: Sequence[Study]) -> list[str | None]:
    """Problems that tell nothing: nobody solves them, or everybody does at once."""
    lints: list[str | None] = []
    for problem in comparison.problems:
        hits = [study.hit for study in studies if study.problem == problem.name]
        if hits and problem.scored and min(hits) == MISS:
            lints.append(f"{problem.name}: no optimizer reaches the target")
        if len(hits) > 1 and max(hits) <= problem.eval_every:
            lints.append(f"{problem.name}: every optimizer is at the target at the first evaluation")
    return lints


def _unequal(comparison: Comparison, studies: Sequence[Study]) -> str | None:
    for problem in comparison.problems:
        counts = {len(study.evaluations) for study in studies if study.problem == problem.name}
        if len(counts) > 1:
            return f"{problem.name}: unequal numbers of evaluation seeds ({', '.join(map(str, sorted(counts)))})"
    return None


def _alike(comparison: Comparison) -> str | None:
    """Optimizers of which one says as much as all: they differ in what the protocol switches off, or by name alone."""
    groups: dict[object, list[str]] = {}
    for optimizer in comparison.optimizers:
        studies = [study for study in comparison.studies if study.optimizer == optimizer and study.evaluations]
        if studies:
            curves = tuple((study.problem, *(trial.curve for trial in study.evaluations)) for study in studies)
            groups.setdefault(curves, []).append(optimizer)
    names = [" = ".join(group) for group in groups.values() if len(group) > 1]
    return f"the same runs to the last bit under this protocol: {_listed(names)}" if names else None


def _statistics(comparison: Comparison) -> list[str | None]:
    from .intervals import rank_ranges
    from .statistics import leave_one_out, order, times_of

    times = times_of(comparison)
    if len(times.optimizers) < 2 or not times.problems:
        return []
    first = [name for name, best in zip(times.optimizers, rank_ranges(times)[0], strict=True) if best == 1]
    names = [name for name in order(times) if name in first]
    lints: list[str | None] = []
    if len(names) > 1:
        lints.append(f"not separable at the first rank by {len(times.problems)} problem(s): {_listed(names)}")
    for left_out, pairs in leave_one_out(times).items():
        swaps = _listed([f"{b} before {a}" for a, b in pairs])
        lints.append(f"without {left_out} the order is another: {swaps}")
    return lints


def _machines(studies: Iterable[Study]) -> str | None:
    machines = {trial.clock.machine for study in studies for trial in study.trials if trial.clock}
    if len(machines) < 2:
        return None
    return f"trials of {len(machines)} processors: last bits and times differ ({_listed(sorted(machines))})"


def _load(comparison: Comparison) -> str | None:
    load, cores = comparison.environment.get("load"), comparison.environment.get("cores")
    if load is None or cores is None or load <= cores:
        return None
    return f"load average {load:.1f} on {cores} cores: times are upper bounds"
