"""One look per optimizer, the same in every figure: a colour that the colour-blind can tell, and a dash for the next.

Eight colours after Okabe & Ito ("Color Universal Design", 2008), each with a lighter twin for dark backgrounds; from
the ninth optimizer on, they come again with other dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Style(NamedTuple):
    light: str  # colour on a light background
    dark: str  # on a dark one
    dash: str  # plotly's name


COLORS = (
    ("#0072b2", "#4da3ff"),  # blue
    ("#d55e00", "#ff7f3f"),  # vermilion
    ("#009e73", "#2fcf9f"),  # green
    ("#c0609c", "#ec8fc8"),  # purple
    ("#b8860b", "#f0c23c"),  # ochre
    ("#2aa5dc", "#8bd3f7"),  # sky
    ("#6b2d5c", "#b98cf0"),  # plum
    ("#6d6d6d", "#b4b4b4"),  # grey
)
DASHES = ("solid", "dash", "dot")
MATPLOTLIB_DASHES = {"solid": "-", "dash": "--", "dot": ":"}


def styles(optimizers: Sequence[str]) -> dict[str, Style]:
    """The look of each, by its place in the comparison.

    >>> styles(["adam", "lion"])["lion"].dash
    'solid'
    """
    return {
        name: Style(*COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)])
        for index, name in enumerate(optimizers)
    }


def turn(name: str, same: Mapping[str, str]) -> tuple[int, int]:
    """Of lines that lie on each other, as `figures.coinciding` finds them: which this one is, and of how many.

    >>> turn("c", {"a": "a", "c": "a"})
    (1, 2)
    """
    together = [other for other, first in same.items() if first == same.get(name)] or [name]
    return together.index(name), len(together)
