"""The types of an update rule, `u = update(g, s, t, h)`."""

from collections import defaultdict
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
State: TypeAlias = defaultdict[str, Array]  # m, v, … of one tensor; every quantity starts at 0
Options: TypeAlias = SimpleNamespace  # the library's constructor arguments, under their names
