"""The data that come with the package, or are read from others."""

import hashlib
import string

import numpy as np

from optzoo.compare import sonnets
from optzoo.compare.datasets import mnist5k, surnames


def test_the_sonnets_are_whole():
    text = sonnets()
    assert text is sonnets()  # unpacked once
    assert (len(text), len(set(text)), text.count("\n\n")) == (95_728, 62, 308)
    assert set(text) <= set(string.ascii_letters + string.whitespace + string.punctuation)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "edb826e5a801c955ab21026b3660306838fbf29ec29ea01886b2854c6d639b55"
    )


def test_mnist_is_whole():
    images, classes = mnist5k()
    assert (images.shape, images.dtype, images.min(), images.max()) == ((5000, 784), np.uint8, 0, 255)
    assert np.array_equal(classes, np.repeat(np.arange(10), 500))
    assert len(np.unique(images, axis=0)) == 5000
    assert (
        hashlib.sha256(images.tobytes()).hexdigest()
        == "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"
    )


def test_surnames_are_whole():
    names = surnames()
    assert (len(names), len(set(names)), sum(map(len, names))) == (88_799, 88_799, 606_623)
    assert set("".join(names)) == set(string.ascii_uppercase)
    assert (min(map(len, names)), max(map(len, names))) == (2, 13)
