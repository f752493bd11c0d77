"""Synthetic trials and studies: curves written by hand, so that what is measured from them is known."""

import dataclasses

import pytest

from optzoo.compare.results import Comparison, Evaluation, Stage, Study, Trial


class Make:
    """Builders; the clock fields are constants, since no test may depend on time."""

    @staticmethod
    def trial(
        metrics: list[float], target: float = 1.0, lr: float = 0.1, seed: int = 100, stage: Stage = "evaluate"
    ) -> Trial:
        """A trial whose metric, evaluated every 10 steps, was `metrics`."""
        curve = tuple(Evaluation(10 * index, metric) for index, metric in enumerate(metrics))
        return Trial(stage, lr, seed, target, curve, {}, parameters=2, state_bytes=16, step_us=50.0, optimizer_us=20.0)

    @classmethod
    def study(
        cls, *curves: list[float], problem: str = "rosenbrock", optimizer: str = "adamw", lr: float = 0.1
    ) -> Study:
        """A study that screened lrs 0.01, 0.1 and 1, chose `lr`, and saw `curves` on its evaluation seeds."""
        screened = [cls.trial([9, 9], lr=grid_lr, seed=0, stage="screen") for grid_lr in (0.01, 0.1, 1.0)]
        evaluated = [cls.trial(curve, lr=lr, seed=100 + index) for index, curve in enumerate(curves)]
        return Study(problem, 1, optimizer, 0.1, lr, (*screened, *evaluated), seconds=1.0, load=0.0)

    @staticmethod
    def comparison(*studies: Study) -> Comparison:
        return Comparison(studies, "The protocol.", {"torch": "2", "cores": 2}, seconds=1.0)

    @staticmethod
    def failed(study: Study, error: str) -> Study:
        return dataclasses.replace(study, trials=(), error=error)


@pytest.fixture
def make() -> type[Make]:
    return Make
