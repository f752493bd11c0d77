"""The data that comes with the package."""

import hashlib
import string

from optzoo.compare import sonnets


def test_the_sonnets_are_whole():
    text = sonnets()
    assert text is sonnets()  # unpacked once
    assert (len(text), len(set(text)), text.count("\n\n")) == (95_728, 62, 308)
    assert set(text) <= set(string.ascii_letters + string.whitespace + string.punctuation)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "edb826e5a801c955ab21026b3660306838fbf29ec29ea01886b2854c6d639b55"
    )
