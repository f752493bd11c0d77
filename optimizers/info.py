"""What is known of an optimizer before it is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from . import core
from .core.wrapper import OptimizerWrapper
from .groups import param_groups

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
ELEMENTWISE = ("cautious", "foreach", "fused", "maximize", "capturable", "complex", "dtensor", "bfloat16")
"""What all subclasses of the library's base work with."""


@dataclass(frozen=True)
class OptimizerInfo:
    """What an optimizer is, where it comes from and what it costs; of a plugin, what its authors say of it."""

    name: str
    """The name ``create_optimizer`` takes, in lower case; of one that is not registered its import path."""
    optimizer_class: type[Optimizer]
    paper: str = ""
    """Title, authors and year."""
    arxiv: str = ""
    """Identifier of the paper: https://arxiv.org/abs/<arxiv>."""
    description: str = ""
    """What it does to the update."""
    use_when: str = ""
    state_bytes: int | None = None
    """State per float32 parameter at default options, in bytes; None where nobody has said.

    Of a tensor that is not factored, for Adafactor: a factored matrix of a × b has 4 (a + b) bytes in all. Without the
    factors of PSGD and PSGDNewton and the matrix of PSGDDense.
    """
    tensor_bytes: int = 8
    """State per tensor beside it, in bytes: its step count and other single numbers."""
    supports: tuple[str, ...] = ()
    """Modes and kinds of parameters it works with; by default, of optzoo's subclasses those of its base classes."""
    closure: str = ""
    """The closure that ``step`` needs at default options: "backward" if that is to call backward(), as torch's ordinary
    one does, "loss" if it is not to and returns the loss; "" if none is needed."""
    sums: bool = False
    """Whether a step depends on sums over whole tensors, whose last bits depend on the order of their memory."""
    floats: float | None = None
    """Floats per parameter that a step at default options reads and writes at least; None where arithmetic binds it, or
    nobody has said. A cautious step reads the gradient and the buffers once more, to count before it can scale."""
    tuning_lr: float | None = None
    """The lr to begin tuning at, where the default is no number or not meant for that."""
    groups: Callable[..., list[dict[str, Any]]] = param_groups
    """Makes the parameter groups of a model, from the model, the weight decay and options of its own."""

    def __post_init__(self) -> None:
        if not self.supports and isinstance(self.optimizer_class, type):
            ours = issubclass(self.optimizer_class, (core.Optimizer, OptimizerWrapper))
            object.__setattr__(self, "supports", ELEMENTWISE if ours else ())

    @property
    def base(self) -> type[Optimizer] | None:
        """What a wrapper such as Lookahead wraps unless told otherwise; None for other optimizers."""
        return getattr(self.optimizer_class, "default_base", None)

    @property
    def defaults(self) -> dict[str, Any]:
        """The constructor's options with their defaults; for a wrapper those of its default base too."""
        options: dict[str, Any] = {}
        for constructor in filter(None, (self.base, self.optimizer_class)):
            _, *parameters = inspect.signature(constructor).parameters.values()
            for parameter in parameters:
                if parameter.name != "base" and parameter.kind not in _VARIADIC:
                    options[parameter.name] = parameter.default
        return options
