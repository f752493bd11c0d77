"""Synthetic trials and studies: curves written by hand, so that what is measured from them is known."""

import dataclasses
from typing import Any

import pytest

from optzoo.compare.protocol import make_protocol
from optzoo.compare.results import Clock, Comparison, Evaluation, ProblemInfo, Stage, Study, Trial

HERE = "a processor"


class Make:
    """Builders; the clock fields are constants, since no test may depend on time."""

    @staticmethod
    def trial(
        metrics: list[float],
        target: float = 1.0,
        lr: float = 0.1,
        seed: int = 100,
        stage: Stage = "evaluate",
        **fields: Any,
    ) -> Trial:
        """A trial whose metric, evaluated every 10 steps with two gradients each, was `metrics`."""
        curve = tuple(Evaluation(10 * index, metric, 20 * index) for index, metric in enumerate(metrics))
        clock = Clock(step_us=50.0, optimizer_us=20.0, seconds=1.0, load=0.0, machine=HERE)
        given = dict(
            key=f"{stage}-{lr}-{seed}",
            stage=stage,
            hyperparameters={"lr": lr},
            seed=seed,
            target=target,
            curve=curve,
            extra={},
            parameters=2,
            state_bytes=16,
            clock=clock,
        )
        return Trial(**{**given, **fields})

    @classmethod
    def study(
        cls, *curves: list[float], problem: str = "rosenbrock", optimizer: str = "adamw", lr: float = 0.1
    ) -> Study:
        """A study that screened lrs 0.01, 0.1 and 1, chose `lr`, and saw `curves` on its evaluation seeds."""
        screened = [cls.trial([9, 9], lr=grid_lr, seed=0, stage="screen") for grid_lr in (0.01, 0.1, 1.0)]
        evaluated = [cls.trial(curve, lr=lr, seed=100 + index) for index, curve in enumerate(curves)]
        return Study(problem, optimizer, 0.1, {"lr": lr}, (*screened, *evaluated))

    @staticmethod
    def problem(name: str, family: str = "surface", scored: bool = True) -> ProblemInfo:
        return ProblemInfo(name, 1, family, (), scored, "A problem", "f", "1", 40, 10, "constant")

    @classmethod
    def comparison(cls, *studies: Study, families: dict[str, str] | None = None, **fields: Any) -> Comparison:
        problems = dict.fromkeys(study.problem for study in studies)
        given = dict(
            problems=tuple(cls.problem(name, (families or {}).get(name, "surface")) for name in problems),
            optimizers=tuple(dict.fromkeys(study.optimizer for study in studies)),
            studies=studies,
            protocol=make_protocol(quick=False).to_dict(),
            environment={"torch": "2", "cores": 2, "load": 0.0},
            seconds=1.0,
        )
        return Comparison(**{**given, **fields})

    @staticmethod
    def failed(study: Study, failure: str) -> Study:
        return dataclasses.replace(study, trials=(), chosen={}, failure=failure)


@pytest.fixture
def make() -> type[Make]:
    return Make


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are those of files, whatever terminal the tests are started from."""
    monkeypatch.delenv("COLUMNS", raising=False)
