"""The `optzoo` command. PyTorch is imported by the commands that need it, so that help is immediate."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from optzoo.schedulers.cli import add_commands as add_schedule_commands

from .api import compare
from .errors import UsageError, require

RUN_DESCRIPTION = """\
Tune every optimizer on every problem by the same protocol, then measure it on seeds that tuning never saw:
steps to a fixed target, final metric, time per step, memory.

With --quick, a tuning run stops once it has reached the target, and 3 seeds judge the chosen learning rate: all
optimizers on all problems in a minute or two. Without, every learning rate is trained at full length and 5 seeds
judge. The same learning rates are tried either way; the footer of the table states the protocol in full."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 if an optimizer raised, 2 for a request that cannot be run."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except UsageError as error:
        print(f"optzoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("optzoo: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="optzoo", description="PyTorch optimizers, compared.")
    topics = parser.add_subparsers(title="commands", required=True, metavar="compare | schedule")
    verbs = topics.add_parser("compare", help="compare optimizers on bundled problems").add_subparsers(
        title="commands", required=True, metavar="run | list"
    )
    run = verbs.add_parser(
        "run",
        help="train, and print a table",
        description=RUN_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.set_defaults(command=_run)
    run.add_argument("--quick", action="store_true", help="stop tuning runs at their hit; 3 seeds")
    run.add_argument(
        "-o", "--optimizers", type=_names, metavar="NAMES", help="comma-separated; registry names or module:Class"
    )
    run.add_argument("-p", "--problems", type=_names, metavar="NAMES", help="comma-separated; default all")
    run.add_argument("--seeds", type=int, metavar="N", help="evaluation seeds (default: 3 if quick, else 5)")
    run.add_argument("--jobs", type=int, metavar="N", default=2, help="processes, one thread each (default: 2)")
    run.add_argument("--json", type=Path, metavar="FILE", help="also write every result, with all curves, to FILE")
    list_ = verbs.add_parser("list", help="name the problems and the optimizers")
    list_.set_defaults(command=_list)
    list_.add_argument("what", nargs="?", choices=["problems", "optimizers"], help="default: both")
    add_schedule_commands(topics)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _run(arguments: argparse.Namespace) -> int:
    sys.path.insert(0, os.getcwd())  # as `python -m` does, so that -o finds modules beside the user
    require("rich", "rich")  # before the work, not after it
    if arguments.json and not arguments.json.parent.is_dir():
        raise UsageError(f"--json: there is no folder {str(arguments.json.parent)!r}")
    result = compare(
        optimizers=arguments.optimizers,
        problems=arguments.problems,
        quick=arguments.quick,
        seeds=arguments.seeds,
        jobs=arguments.jobs,
        progress=True,
    )
    result.table()
    if arguments.json:
        result.to_json(arguments.json)
    return 1 if any(study.error for study in result.studies) else 0


def _list(arguments: argparse.Namespace) -> int:
    sections = {"problems": _list_problems, "optimizers": _list_optimizers}
    for name, print_section in sections.items():
        if arguments.what in (None, name):
            print_section()
    return 0


def _list_problems() -> None:
    from .problems import PROBLEMS

    for problem in PROBLEMS.values():
        print(f"{problem.name:<12} {problem.description}; {problem.metric_name} ≤ {problem.target}")


def _list_optimizers() -> None:
    from optzoo.optimizers import list_optimizers, optimizer_info

    for name in list_optimizers():
        info = optimizer_info(name)
        lr = info.defaults["lr"]
        print(f"{name:<12} lr {'own' if lr is None else f'{lr:g}':<8} {info.description}")


if __name__ == "__main__":
    sys.exit(main())
