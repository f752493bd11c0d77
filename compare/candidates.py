"""The optimizers to compare: names of optzoo's registry, or import paths of any other."""

import importlib
import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .errors import UsageError, unknown_name


@dataclass(frozen=True)
class Candidate:
    """An optimizer by name, to be built where it is needed: a name can be sent to a worker process, a class not always.

    Attributes:
        name: A name of `optzoo.optimizers.list_optimizers`, or "module:Class".
        default_lr: The optimizer's own default learning rate, or the one to begin tuning at: the centre of its grid.
    """

    name: str
    default_lr: float

    def build(self, parameters: list[Tensor], lr: float) -> Optimizer:
        """The optimizer with its own defaults, except for `lr` and no weight decay."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as DoG's: the grid leaves what is recommended on purpose
            if ":" in self.name:
                factory = _import(self.name)
                decay = {"weight_decay": 0.0} if "weight_decay" in inspect.signature(factory).parameters else {}
                return factory(parameters, lr=lr, **decay)
            from optzoo.optimizers import create_optimizer

            return create_optimizer(self.name, parameters, lr=lr, weight_decay=0.0)


def registered() -> list[str]:
    """The names of all optimizers in optzoo's registry."""
    from optzoo.optimizers import list_optimizers

    return list_optimizers()


def get_candidate(optimizer: str | type[Optimizer]) -> Candidate:
    """The candidate of a registry name, a "module:Class" path or a class.

    Raises UsageError if there is no such optimizer, or if it has no positive default learning rate to centre on.
    """
    name = optimizer if isinstance(optimizer, str) else f"{optimizer.__module__}:{optimizer.__qualname__}"
    default_lr = _imported_lr(name) if ":" in name else _registered_lr(name)
    if not (isinstance(default_lr, int | float) and 0 < default_lr < math.inf):
        raise UsageError(f"optimizer {name!r} has no positive default for lr, which would be the centre of its grid")
    return Candidate(name, float(default_lr))


def _registered_lr(name: str) -> Any:
    from optzoo.optimizers import optimizer_info

    if name not in registered():
        raise unknown_name("optimizer", name, registered())
    info = optimizer_info(name)
    return info.tuning_lr or info.defaults.get("lr")


def _imported_lr(path: str) -> Any:
    parameter = inspect.signature(_import(path)).parameters.get("lr")
    return parameter.default if parameter else None


def _import(path: str) -> Callable[..., Optimizer]:
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:  # ValueError: an empty or relative module name
        raise UsageError(f"optimizer {path!r}: cannot import {module_name!r} ({error})") from error
    factory: Callable[..., Optimizer] | None = getattr(module, attribute, None)
    if not callable(factory):
        raise unknown_name(f"optimizer of {module_name}", attribute, _optimizers_in(module))
    return factory


def _optimizers_in(module: object) -> list[str]:
    """The optimizer classes to suggest; those that can have no default lr, such as the base class, are left out."""
    classes = {name: item for name, item in vars(module).items() if isinstance(item, type)}
    return [name for name, item in classes.items() if issubclass(item, Optimizer) and item is not Optimizer]
