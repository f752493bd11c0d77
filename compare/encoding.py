"""Text for terminals and files that cannot show all of it: cp1252 and ASCII, as Windows consoles and LC_ALL=C have."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from typing import Any

PLAIN = {
    **dict(zip("▁▂▃▄▅▆▇█", "..--==##", strict=True)),
    **dict(zip("─━│┤┌┐└┘╸╺", "--||++++--", strict=True)),
    **{"–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"'},
    **{"×": "x", "·": ".", "†": "+", "±": "+-", "≤": "<=", "≥": ">=", "≈": "~", "√": "sqrt ", "‖": "||", "⁄": "/"},
    **{"→": "->", "←": "<-", "✓": "+", "✕": "x", "●": "*", "○": "o", "★": "*", "μ": "u", "′": "'", "ß": "ss"},
    **{"∞": "inf", "∇": "grad", "°": " deg", "§": "section ", "λ": "lambda"},
}
"""One character for one wherever columns are aligned."""
HANDLER = "optzoo.plain"


@contextmanager
def encodable(*streams: Any) -> Iterator[None]:
    """Characters that a stream's encoding lacks come out as the nearest there are, instead of as an error."""
    with ExitStack() as restored:
        for stream in streams:
            if isinstance(stream, TextIOWrapper):
                restored.callback(_reconfigure, stream, stream.errors)
                _reconfigure(stream, HANDLER)
        yield


def _reconfigure(stream: TextIOWrapper, errors: str | None) -> None:
    if not stream.closed:
        stream.reconfigure(errors=errors)


def plain(character: str) -> str:
    """An ASCII stand-in.

    >>> "".join(map(plain, "½ x² ≤ 3 µs, β₁, café"))
    '1/2 x^2 <= 3 us, beta1, cafe'
    """
    parts = unicodedata.normalize("NFKD", character)  # letters without their accents, µ as Greek μ, ½ as 1⁄2
    power = "^" if unicodedata.decomposition(character).startswith("<super>") else ""
    return power + "".join(map(_letter, parts)).encode("ascii", "ignore").decode() or "?"


def _letter(character: str) -> str:
    name = unicodedata.name(character, "")
    greek = name.split()[-1].lower() if name.startswith("GREEK") else character
    return PLAIN.get(character, greek)


def _handle(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return plain(character), error.start + 1


codecs.register_error(HANDLER, _handle)
