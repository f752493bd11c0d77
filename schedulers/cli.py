"""``optzoo schedule preview``: see a schedule before a run uses it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Show what a schedule comes to: its phases with their steps, the values of the first and the last step, and its shape.

SPEC is a YAML or JSON file, a list of phases in JSON, or a preset with its arguments:

  optzoo schedule preview wsd,warmup=500,cooldown=0.1 --total 10000
  optzoo schedule preview schedule.yaml --total 10000 --png schedule.png
  optzoo schedule preview '[{"start": 0, "to": 1, "steps": 0.1}, {"to": 0, "shape": "cosine"}]' --total 1000"""


def add_commands(topics: Any) -> None:
    """Add ``schedule`` to the subcommands of ``optzoo``."""
    topic = topics.add_parser("schedule", help="see a learning-rate schedule before it is used")
    verbs = topic.add_subparsers(title="commands", required=True, metavar="preview")
    preview = verbs.add_parser(
        "preview",
        help="print a schedule's steps and shape",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    preview.set_defaults(command=_preview, parser=preview)
    preview.add_argument("spec", metavar="SPEC", help="a file, a JSON list, or a preset")
    preview.add_argument("--total", type=int, metavar="N", help="steps of the run, which fractions and the rest need")
    preview.add_argument("--show", type=int, metavar="N", help="steps to show of a schedule without end")
    preview.add_argument("--steps-per-epoch", type=int, metavar="N", help='for lengths such as "3ep"')
    preview.add_argument("--untuned", type=int, metavar="N", help='for the length "untuned": 2/(1-beta2)')
    preview.add_argument("--png", "--svg", dest="picture", type=Path, metavar="FILE", help="also draw it: .png or .svg")
    preview.add_argument("--table", type=int, metavar="N", help="also print the value of every N-th step")
    preview.add_argument("--width", type=int, default=64, metavar="N", help="characters across (default: 64)")


def _preview(arguments: argparse.Namespace) -> int:
    from .sources import read_schedule

    try:
        schedule = read_schedule(arguments.spec)
        curve = schedule.resolve(arguments.total, steps_per_epoch=arguments.steps_per_epoch, untuned=arguments.untuned)
        if curve.total is None and arguments.show is None:
            raise ValueError("the schedule has no end; say how long the run is with --total N, or how much to --show N")
        print(curve.preview(arguments.width, total=arguments.show))
        if arguments.table:
            print(curve.table(arguments.table, total=arguments.show))
        if arguments.picture:
            curve.save(arguments.picture, total=arguments.show)
            print(f"drawn into {arguments.picture}")
    except (ValueError, TypeError, OSError) as error:
        print(f"optzoo: error: {error}", file=sys.stderr)
        return 2
    return 0
