"""The machinery every optimizer shares: the step loop, its modes, options and state.

An optimizer's own file holds its paper's update and nothing else; see :class:`optzoo.optimizers.core.Optimizer`.
"""

from .optimizer import Optimizer
from .options import Options
from .tensorlist import TensorList

__all__ = ["Optimizer", "Options", "TensorList"]
