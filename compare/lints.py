"""Reasons to read a comparison with care; each finder returns one sentence or None."""

from collections.abc import Callable, Iterable, Sequence

from .results import MISS, Comparison, Study


def find_lints(comparison: Comparison) -> list[str]:
    judged = [study for study in comparison.studies if study.error is None]
    cores = int(comparison.environment["cores"])
    found = [
        *_raised(comparison.studies),
        _which(
            "the chosen lr is at an end of its grid", judged, lambda study: study.lr in (study.grid[0], study.grid[-1])
        ),
        _which("the evaluation seeds disagree", judged, lambda study: 0 < study.hits < len(study.evaluations)),
        _which("hit, then lost by the end", judged, lambda study: any(trial.lost for trial in study.evaluations)),
        *_unsolved(judged),
        _timed_under_load(judged, cores),
    ]
    return [lint for lint in found if lint]


def _which(what: str, studies: Iterable[Study], applies: Callable[[Study], bool]) -> str | None:
    names = [f"{study.problem}/{study.optimizer}" for study in studies if applies(study)]
    return f"{what}: {', '.join(names)}" if names else None


def _raised(studies: Iterable[Study]) -> list[str]:
    return [f"{study.problem}/{study.optimizer} raised {study.error}" for study in studies if study.error]


def _unsolved(studies: Sequence[Study]) -> list[str]:
    problems = dict.fromkeys(study.problem for study in studies)
    solved = {study.problem for study in studies if study.hit < MISS}
    return [f"{problem}: no optimizer reaches the target" for problem in problems if problem not in solved]


def _timed_under_load(studies: Iterable[Study], cores: int) -> str | None:
    load = max((study.load for study in studies if study.load is not None), default=0.0)
    return f"load average {load:.1f} on {cores} cores: times are upper bounds" if load > cores else None
