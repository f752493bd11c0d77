"""Studies, (problem, optimizer) pairs: which runs one is made of, and which of them are known already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .candidates import Candidate, is_importable
from .problem import Problem
from .protocol import GivenUpError, Protocol, study
from .results import Stage, Study, Trial
from .runner import Request, train
from .spaces import points
from .store import key_of

LIMIT_OF_STOPPED_RUNS = 2  # a study in which so many runs had to be stopped is given up: more would take minutes


@dataclass(frozen=True)
class Task:
    """The study to make."""

    problem: type[Problem]
    candidate: Candidate
    protocol: Protocol

    @property
    def portable(self) -> bool:
        """Whether another process can make it."""
        return isinstance(self.candidate.source, str) and is_importable(self.problem)


class Begun(NamedTuple):
    """A run begins; sent before it, so that one which takes its process down is known."""

    request: Request


class Trained(NamedTuple):
    """A run has ended, or was found among the results."""

    request: Request
    trial: Trial
    known: bool


Report = Callable[[Begun | Trained], None]


def run_study(task: Task, known: Mapping[str, Trial], report: Report) -> Study:
    """Tune and evaluate one optimizer on one problem, making only the runs that are not known by their key."""
    problem, candidate, protocol = task.problem, task.candidate, task.protocol
    trials: list[Trial] = []

    def run(
        hyperparameters: dict[str, Any], seed: int, stage: Stage, stop_at_hit: bool = False, limit: int | None = None
    ) -> Trial:
        request = Request(
            problem, candidate, hyperparameters, seed, stage, stop_at_hit, limit, protocol.schedule, protocol.seconds
        )
        trial = known.get(key_of(request.identity))
        if trial is None:
            report(Begun(request))
            trial = train(request)
            report(Trained(request, trial, known=False))
        else:
            report(Trained(request, trial, known=True))
        trials.append(trial)
        stopped = [trial.failure for trial in trials if trial.failure and not trial.failure.startswith("raised ")]
        if len(stopped) >= LIMIT_OF_STOPPED_RUNS:
            raise GivenUpError(f"{stopped[-1]} in {len(stopped)} runs")
        return trial

    chosen: dict[str, Any] = {}
    failure = None
    try:
        searched = points(candidate, protocol.trials) if protocol.ruleset == "search" else ()
        seeds = max(problem.evaluation_seeds, len(protocol.evaluation_seeds))
        chosen, _ = study(run, candidate.default_lr, protocol.with_seeds(seeds), candidate.untuned, searched)
    except GivenUpError as reason:
        failure = str(reason)
    return Study(
        problem=problem.name,
        optimizer=candidate.name,
        default_lr=candidate.default_lr,
        chosen=chosen,
        trials=tuple(trials),
        failure=failure,
        own_schedule=candidate.own_schedule or (protocol.ruleset == "default" and not candidate.untuned),
        evaluate_on=candidate.evaluate_on or "",
        vector_rule=candidate.vector_rule if problem.vectors_only else "",
    )
