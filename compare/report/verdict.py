"""What a comparison amounts to: a sentence, and cards, at the top of the page."""

from __future__ import annotations

from ..results import Comparison
from ..statistics import Row


def verdict(rows: list[Row]) -> str | None:
    """Who comes first, and how certain that is; None where no problem is scored."""
    if not rows or not rows[0].problems:
        return None
    first = rows[0]
    problems = f"{first.problems} problem{'s' if first.problems > 1 else ''}"
    if not first.solved:
        return "No optimizer reaches the target of any problem."
    if len(rows) == 1:
        return f"{first.optimizer} reaches the target of {first.solved} of {problems}."
    leaders = _best(rows, "score")
    many = len(leaders) > 1
    text = (
        f"{joined(leaders)} need{'' if many else 's'} the fewest steps (score {first.score:.3f}, "
        f"95 % interval {first.low:.2f} to {first.high:.2f})"
    )
    others = [row.optimizer for row in rows if row.best_rank == 1 and row.optimizer not in leaders]
    if others:
        text += f", but {problems} cannot separate {'them' if many else 'it'} from {joined(others)}."
    else:
        text += f", and by {problems} no other is first in 95 % of the resamples."
    if quickest := _best(rows, "score_cpu"):
        best = max(row.score_cpu for row in rows)
        text += f" By CPU time {joined(quickest)} lead{'' if len(quickest) > 1 else 's'} ({best:.3f})."
    return text


def cards(comparison: Comparison, rows: list[Row]) -> list[tuple[str, str, str]]:
    """(what, which, how much)."""
    found = []
    if rows and rows[0].problems:
        first = rows[0]
        solved = f"score {first.score:.3f}, {first.solved}/{first.problems} problems solved"
        found.append(("Fewest steps", joined(_best(rows, "score"), 3), solved))
        best = max(row.score_cpu for row in rows)
        found.append(("Least CPU time", joined(_best(rows, "score_cpu"), 3), f"score {best:.3f} by CPU-seconds"))
        if widest := _best(rows, "lr_basin"):
            decades = max(row.lr_basin or 0.0 for row in rows)
            found.append(("Easiest to tune", joined(widest, 3), f"{decades:.1f} decades of lr reach the target"))
    trials = sum(len(study.trials) for study in comparison.studies)
    found.append(
        ("Runs", f"{trials:,}", f"{len(comparison.optimizers)} optimizers, {len(comparison.problems)} problems")
    )
    return found


def joined(names: list[str], most: int = 8) -> str:
    """In words.

    >>> joined(["adam", "lion", "dog", "psgd"], most=3)
    'adam, lion and 2 more'
    """
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "none"


def _best(rows: list[Row], what: str) -> list[str]:
    """Those with the greatest of something, all that share it; nobody if nobody has any."""
    greatest = max(getattr(row, what) or 0.0 for row in rows)
    return [row.optimizer for row in rows if greatest and getattr(row, what) == greatest]
