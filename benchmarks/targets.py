"""How hard the targets of the bundled problems are, by the recipe AlgoPerf sets targets with: ``targets.json``.

    python benchmarks/targets.py [--problems full] [--trials 64] [--seeds 20] [--jobs 2] [--out DIR] [--record FILE]

AdamW, NAdamW, SGD with Nesterov's and with heavy-ball momentum are tuned on every problem, each with the same number of
trials in its search space; the best of the four is trained on fresh seeds (Dahl et al., "Benchmarking Neural Network
Training Algorithms", 2023, arXiv:2306.07179). A target is fair if the median of these runs reaches it by about half of
the budget: then there is room to be faster, and time for the slower ones to arrive. The targets are constants of the
problems' classes and stay what they are; a test demands that the record knows the problem as it is and that its target
is fair. A problem that changes is measured again: name it with --problems, the record of the others is kept.

An interrupted run goes on where it was. Everything together took its two processes 43 minutes on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from optzoo.compare import Comparison, compare
from optzoo.compare.problems import get_problem
from optzoo.compare.results import Study

RECORD = Path(__file__).with_suffix(".json")
OPTIMIZERS = ("adamw", "nadamw", "nesterov", "sgdm")


def evidence(comparison: Comparison, problem: str) -> dict[str, Any]:
    """What is known of one problem's target."""
    studies = [study for study in comparison.studies if study.problem == problem]
    best = min(studies, key=lambda study: (study.hit, study.final))
    definition = get_problem(problem)
    return {
        "version": definition.version,
        "budget": definition.budget,
        "target": str(definition.target),
        "best": best.optimizer,
        "hyperparameters": best.chosen,
        "reached": f"{best.hits}/{len(best.evaluations)}",
        "steps": steps(best),
        "metric_at_half": statistics.median(metric_at_half(best, definition.budget)),
        "threshold": statistics.median(trial.target for trial in best.evaluations),
        "others": {study.optimizer: steps(study) for study in studies if study is not best},
    }


def steps(study: Study) -> float | None:
    """The median of the steps to the target, None for a miss: JSON knows no infinity."""
    return study.hit if math.isfinite(study.hit) else None


def metric_at_half(study: Study, budget: int) -> list[float]:
    """Of every evaluation run, the metric of the last evaluation in the first half of the budget."""
    return [[e.metric for e in trial.curve if e.step <= budget / 2][-1] for trial in study.evaluations]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="full", help="names or selections, comma-separated (default full)")
    parser.add_argument("--trials", type=int, default=64, help="per optimizer and problem (default 64)")
    parser.add_argument("--seeds", type=int, default=20, help="of the evaluation (default 20)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--out", default="runs/targets", help="results folder (default runs/targets)")
    parser.add_argument("--record", type=Path, default=RECORD, help="what to write (default targets.json beside this)")
    arguments = parser.parse_args()
    comparison = compare(
        OPTIMIZERS,
        arguments.problems.split(","),
        ruleset="search",
        trials=arguments.trials,
        seeds=arguments.seeds,
        jobs=arguments.jobs,
        out=arguments.out,
        timing=False,
        progress=True,
    )
    known: Path = arguments.record
    record = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    record |= {problem.name: evidence(comparison, problem.name) for problem in comparison.problems}
    known.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
