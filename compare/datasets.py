"""Data that comes with the package; credits are in data/CREDITS.md."""

import functools
import gzip
from importlib import resources


@functools.cache
def sonnets() -> str:
    """Shakespeare's sonnets (1609), in the public domain: 95,728 characters of 62 symbols.

    Returns:
        str: The whole text, titles and numbers of the poems included.

    Example::

        >>> from optzoo.compare import sonnets
        >>> text = sonnets()
        >>> len(text), len(set(text))
        (95728, 62)
        >>> text[:35].splitlines()
        ['THE SONNETS', 'by William Shakespeare']
    """
    packed = (resources.files(__package__) / "data" / "sonnets.txt.gz").read_bytes()
    return gzip.decompress(packed).decode("ascii")
