"""The report: one HTML file with everything in it, which opens offline and asks nothing of the network."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, require
from ..results import Comparison

if TYPE_CHECKING:
    from ..race import Race

__all__ = ["command", "write_race", "write_report"]


def write_report(comparison: Comparison, path: str | Path, *, live: bool = True) -> None:
    """Write a comparison as a page of HTML.

    Args:
        comparison: What to show.
        path: The file; its folder must be there.
        live: Whether to train what is not among the results, a few seconds: the paths on functions of two variables
            and the invariance card; default True.

    Raises:
        UsageError: jinja2 or plotly is missing, or the file cannot be written.
    """
    _require()
    from .page import report_page

    _write(Path(path), lambda: report_page(comparison, live))


def write_race(race: Race, path: str | Path) -> None:
    """Write a race as a page of HTML; arguments and errors as of `write_report`."""
    _require()
    from .page import race_page

    _write(Path(path), lambda: race_page(race))


def command(folder: Path, output: Path | None, open: bool) -> int:
    """`optzoo compare report`."""
    _require()
    from ..store import load

    output = output or folder / "report.html"
    write_report(load(folder), output)
    print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    if open:
        webbrowser.open(output.absolute().as_uri())
    return 0


def _require() -> None:
    require("jinja2", "jinja2")
    require("plotly", "plotly")


def _write(path: Path, make: Any) -> None:
    if not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")
    text = make()
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r} ({error.strerror})") from error
