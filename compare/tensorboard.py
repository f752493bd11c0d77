"""A comparison as TensorBoard logs: the series of every evaluation run with what it was run with, and the figures."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from .errors import require
from .results import Comparison, Study, Trial


def command(folder: Path, output: Path | None) -> int:
    """`optzoo compare tensorboard`."""
    check_installed()
    from .store import load

    output = output or folder / "tensorboard"
    write_tensorboard(load(folder), output)
    print(f"to look at: tensorboard --logdir {output}")
    return 0


def check_installed() -> None:
    """Raise UsageError if what `write_tensorboard` needs is missing."""
    require("tensorboard", "tensorboard", "optzoo[tensorboard]")
    require("matplotlib", "matplotlib")


def write_tensorboard(comparison: Comparison, folder: str | Path) -> None:
    """Write a folder to look at with `tensorboard --logdir FOLDER`; logs of the same runs there are superseded.

    There is one run per problem, optimizer and evaluation seed, with these scalars at step s:

    - `metric`: the noise-free metric after s steps; the first is at step 0.
    - `loss`: the training loss that the s-th step differentiated, of its mini-batch and of the parameters before it,
      those after s - 1 steps. If an optimizer asks for several, the first.
    - `lr`: the learning rate that the s-th step used, the schedule included: that of the first parameter group.
      Left out where the optimizer has none, since it finds its own.
    - `update_norm`: ‖θ_s − θ_{s−1}‖₂, how far the s-th step moved all parameters together. Of optimizers that are
      evaluated at other points than they train at, such as schedule-free ones, the points they train at.

    Steps are those at which the problem is evaluated. The tab HPARAMS has the hyperparameters of every run with its
    steps to the target (none for a miss) and the metric at the end.

    The run `figures` has the figures of `plots.FIGURES` of which the comparison has anything to show, as images.

    Args:
        comparison: What to show.
        folder: Where to write `<problem>/<optimizer>/seed<k>` and `figures`; it is made if need be.

    Raises:
        UsageError: tensorboard or matplotlib is missing.
    """
    check_installed()
    folder = Path(folder)
    for study in comparison.studies:
        for trial in study.evaluations:
            _write_run(study, trial, folder / study.problem / study.optimizer / f"seed{trial.seed}")
    _write_figures(comparison, folder / "figures")


def _write_run(study: Study, trial: Trial, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=0) as writer:
        for step, metric, _ in trial.curve:
            writer.add_scalar("metric", metric, step)
        for step, loss, lr, norm in trial.updates:
            writer.add_scalar("loss", loss, step)
            if lr is not None:
                writer.add_scalar("lr", lr, step)
            writer.add_scalar("update_norm", norm, step)
        values = {"problem": study.problem, "optimizer": study.optimizer, **trial.hyperparameters}
        hyperparameters = {
            name: value if isinstance(value, (bool, int, float, str)) else repr(value) for name, value in values.items()
        }
        measured = {"steps to target": trial.hit, "metric at the end": trial.final}
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        writer.add_hparams(hyperparameters, finite, run_name=".")


def _write_figures(comparison: Comparison, folder: Path) -> None:
    from matplotlib import rc_context
    from torch.utils.tensorboard import SummaryWriter

    from .plots import FIGURES, LOOK, NothingToDrawError

    with rc_context(LOOK), SummaryWriter(str(folder), purge_step=0) as writer:
        for name, draw in FIGURES.items():
            with suppress(NothingToDrawError):
                writer.add_figure(name, draw(comparison))
