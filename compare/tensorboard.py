"""A comparison as TensorBoard logs: the curve of every evaluation run, and what it was run with."""

from __future__ import annotations

import math
from pathlib import Path

from .errors import require
from .results import Comparison, Study, Trial


def write_tensorboard(comparison: Comparison, folder: str | Path) -> None:
    """Write a folder to look at with `tensorboard --logdir FOLDER`: one run per problem, optimizer and evaluation seed.

    Each has the scalar `metric` over steps and, in the tab HPARAMS, its hyperparameters with the steps to the target
    (none for a miss) and the metric at the end.

    Args:
        comparison: What to show.
        folder: Where to write `<problem>/<optimizer>/seed<k>`; it is made if need be.

    Raises:
        UsageError: tensorboard is missing.
    """
    require("tensorboard", "tensorboard", "optzoo[tensorboard]")
    for study in comparison.studies:
        for trial in study.evaluations:
            _write(study, trial, Path(folder) / study.problem / study.optimizer / f"seed{trial.seed}")


def _write(study: Study, trial: Trial, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step, metric, _ in trial.curve:
            writer.add_scalar("metric", metric, step)
        values = {"problem": study.problem, "optimizer": study.optimizer, **trial.hyperparameters}
        hyperparameters = {
            name: value if isinstance(value, (bool, int, float, str)) else repr(value) for name, value in values.items()
        }
        measured = {"steps to target": trial.hit, "metric at the end": trial.final}
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        writer.add_hparams(hyperparameters, finite, run_name=".")
