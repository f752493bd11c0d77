"""The `optzoo` command: what can be typed. What is done is in the modules named here, imported by the command that
needs them, so that help is immediate."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from optzoo import __version__
from optzoo.schedulers.cli import add_commands as add_schedule_commands

from .encoding import encodable
from .errors import UsageError, nearest_names

RUN_DESCRIPTION = """\
Tune every optimizer on every problem by the same protocol, then measure it on seeds that tuning never saw: steps,
CPU-seconds and gradient evaluations to a fixed target, final metric, sensitivity to the learning rate, memory.

With --quick, five problems, and tuning runs that end as soon as they are decided: all optimizers in a minute. The
footer of the table states the protocol in full. Results are kept in a folder, and what is there is not run again: an
interrupted run goes on, and one more optimizer costs its own runs alone."""

EXAMPLES = """\
examples:
  optzoo compare run --quick
  optzoo compare run -o adamw,psgd,my_package.optimizers:Mine -p core,my_problems:Mine --out runs/mine
  optzoo compare report runs/compare --open
"""


class Verb(NamedTuple):
    """A command: its help, what it takes, and the function that does it as "module:function"."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    function: str


class Parser(argparse.ArgumentParser):
    """Says which command, option or choice may have been meant."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"(?:invalid choice: '?|unrecognized arguments: )([^'\s=]+)", message)
        known = {*self._option_string_actions, *(choice for action in self._actions for choice in action.choices or ())}
        nearest = nearest_names(wrong[1], known) if wrong else []
        super().error(f"{message}; did you mean {' or '.join(nearest)}?" if nearest else message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 if a run failed, 2 for a request that cannot be run."""
    with encodable(sys.stdout, sys.stderr):
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    try:
        arguments, unknown = _parser().parse_known_args(argv)
        if unknown:
            arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        status: int = arguments.command(arguments)
    except UsageError as error:
        print(f"optzoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("optzoo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it flushes
        return 141
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="optzoo", description="PyTorch optimizers, compared.")
    parser.add_argument("--version", action="version", version=f"optzoo {__version__}")
    topics = parser.add_subparsers(title="commands", required=True, metavar="compare | schedule")
    _add_verbs(topics.add_parser("compare", help="compare optimizers on bundled problems"), COMPARE)
    add_schedule_commands(topics)
    return parser


def _add_verbs(parser: argparse.ArgumentParser, verbs: dict[str, Verb]) -> None:
    subparsers = parser.add_subparsers(title="commands", required=True, metavar=" | ".join(verbs))
    for name, verb in verbs.items():
        subparser = subparsers.add_parser(
            name,
            help=verb.help,
            description=RUN_DESCRIPTION if name == "run" else None,
            epilog=EXAMPLES if name == "run" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(subparser)
        subparser.set_defaults(command=functools.partial(_call, verb.function), parser=subparser)


def _call(path: str, arguments: argparse.Namespace) -> int:
    module, _, function = path.partition(":")
    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "parser")}
    status: int = getattr(importlib.import_module(module, __package__), function)(**options)
    return status


def names(text: str) -> list[str]:
    """A comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _run(parser: argparse.ArgumentParser) -> None:
    """No defaults here: what is not typed is taken from the configuration file, and only then from `commands.RUN`."""
    parser.argument_default = argparse.SUPPRESS
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="five problems; tuning runs end as soon as they are decided")
    size.add_argument("--full", action="store_true", help="all scored problems, 5 seeds")
    parser.add_argument(
        "-o",
        "--optimizers",
        type=names,
        metavar="NAMES",
        help="comma-separated; names of `list optimizers`, plugins too, or module:Class",
    )
    parser.add_argument(
        "-p",
        "--problems",
        type=names,
        metavar="NAMES",
        help="comma-separated; names, core, quick, full, @family or module:Class (default: core)",
    )
    parser.add_argument("--ruleset", metavar="NAME", help="default (nothing is tuned), lr (the default) or search")
    parser.add_argument("--seeds", type=int, metavar="N", help="evaluation seeds (default: 3; 5 if full)")
    parser.add_argument("--trials", type=int, metavar="N", help="points of the ruleset search (default: 16)")
    parser.add_argument(
        "--schedule",
        metavar="NAME",
        help="of lr: auto (each problem's own), constant, linear, or as in `schedule preview`",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes, one thread each (default: 2)")
    parser.add_argument("--out", metavar="DIR", help="results folder (default: runs/compare)")
    parser.add_argument(
        "--no-timing", dest="timing", action="store_false", help="no serial timing pass: CPU times are of the runs"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every result, with all curves, to FILE")
    parser.add_argument(
        "--tensorboard", metavar="DIR", help="also write the evaluation runs and figures as TensorBoard logs to DIR"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML with any of these options; what is typed comes first")
    parser.add_argument("--print_config", action="store_true", help="print the configuration as YAML, and stop")


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=["problems", "optimizers"], help="default: both")
    parser.add_argument("--tags", action="store_true", help="with family and tags of the problems")


def _show(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("--by", choices=["steps", "cpu", "gradients", "final"], default="steps", help="default: steps")
    parser.add_argument("--json", metavar="FILE", help="write every result, with all curves, to FILE")


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("optimizer")
    parser.add_argument("problem")
    parser.add_argument("--schedule", default="auto", metavar="NAME", help="of lr (default: the problem's own)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0, the first of tuning")


def _timing(parser: argparse.ArgumentParser) -> None:
    _add_optimizers(parser)
    parser.add_argument("--shape", metavar="NAME", help="tensors, mlp or transformer (default: all three)")


def _diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", type=Path, help="results folder")
    parser.add_argument("new", metavar="NEW", type=Path, help="results folder")
    parser.add_argument(
        "--fail-if-slower",
        type=float,
        metavar="FACTOR",
        help="exit with status 1 if any time to the target is more than FACTOR times the old one, or has become a miss",
    )


def _report(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: report.html in the folder")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def _plot(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("figure", choices=["trajectories", "curves", "lr", "profile", "cost"])
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help=".svg or .png")


def _tensorboard(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: tensorboard in the folder")


def _race(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("problem")
    parser.add_argument(
        "-o",
        "--optimizers",
        type=names,
        action="extend",
        metavar="NAMES",
        help="comma-separated (default: all); a name that ends in .html or .gif is the file",
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help=".html or .gif (default: race-PROBLEM.html in this folder)"
    )


def _add_optimizers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--optimizers", type=names, metavar="NAMES", help="comma-separated (default: all)")


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="results folder, such as runs/compare")


COMPARE = {
    "run": Verb("train, and print a table", _run, ".commands:run"),
    "list": Verb("name the problems and the optimizers", _list, ".commands:list_"),
    "show": Verb("print the table of a results folder", _show, ".commands:show"),
    "report": Verb("write a page of HTML", _report, ".report:command"),
    "plot": Verb("draw one figure", _plot, ".plots:command"),
    "tensorboard": Verb("write TensorBoard logs", _tensorboard, ".tensorboard:command"),
    "race": Verb("animate optimizers on a surface", _race, ".race:command"),
    "sweep": Verb("learning rates of one optimizer on one problem", _sweep, ".commands:sweep"),
    "invariances": Verb("what an optimizer does not depend on", _add_optimizers, ".invariances:command"),
    "timing": Verb("time and memory of an update", _timing, ".commands:timing"),
    "diff": Verb("what has become slower between two results folders", _diff, ".commands:diff"),
    "claims": Verb("check what is claimed of the optimizers", _add_optimizers, ".claims:command"),
}

if __name__ == "__main__":
    sys.exit(main())
