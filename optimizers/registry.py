"""Every optimizer by name, with what one wants to know before choosing it."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .catalogue import CATALOGUE
from .core.options import nearest
from .groups import param_groups
from .info import OptimizerInfo
from .plugins import Plugins, check_class, import_path, is_path, path_of

_REGISTRY = {info.name: info for info in CATALOGUE}
_PLUGINS = Plugins(_REGISTRY, OptimizerInfo)


def register_optimizer(info: OptimizerInfo) -> None:
    """Make an optimizer known by name: to ``create_optimizer``, as ``base`` of wrappers, and to ``optzoo compare``.

    A package does it for everyone who installs it by an entry point of the group ``optzoo.optimizers``, which is the
    class or an :class:`OptimizerInfo` of the same name::

        [project.entry-points."optzoo.optimizers"]
        mine = "my_package.optimizers:Mine"

    Args:
        info: name and class; all else is optional. The name is of lower-case letters, digits, ``_`` and ``-``. A class
            that is registered again, as by a notebook's cell that runs twice, replaces itself.

    Raises:
        ValueError: the name is taken, or of other characters.
        TypeError: no OptimizerInfo, or its class is no subclass of torch.optim.Optimizer.

    >>> class Signs(Optimizer):
    ...     def __init__(self, params, lr=1e-3):
    ...         super().__init__(params, {"lr": lr})
    ...     def step(self, closure=None):
    ...         for group in self.param_groups:
    ...             for p in group["params"]:
    ...                 p.data.sub_(p.grad.sign(), alpha=group["lr"])
    >>> register_optimizer(OptimizerInfo("signs", Signs, description="the sign of the gradient"))
    >>> create_optimizer("signs", nn.Linear(3, 2), lr=0.1).param_groups[0]["lr"]
    0.1
    """
    _PLUGINS.load()
    _PLUGINS.add(info)


def list_optimizers(pattern: str = "*") -> list[str]:
    """Names of the optimizers, plugins too, that match a glob pattern, sorted; upper and lower case are the same.

    >>> list_optimizers("c*")
    ['cadamw', 'cautious', 'clion']
    """
    _PLUGINS.load()
    return sorted(fnmatch.filter(_REGISTRY, pattern.lower()))


def failed_plugins() -> Mapping[str, str]:
    """Names of plugins that are installed and cannot be used, and why."""
    _PLUGINS.load()
    return _PLUGINS.failed


def optimizer_info(optimizer: str | type[Optimizer]) -> OptimizerInfo:
    """What is known of an optimizer; upper and lower case of a name are the same.

    Args:
        optimizer: one of :func:`list_optimizers`, an import path ("module:Class" or "module.Class") or a class. Of one
            that is not registered no more than the options is known.

    Raises:
        ValueError: there is none of that name or under that path; the message has the nearest.
        TypeError: no subclass of torch.optim.Optimizer.

    >>> optimizer_info("AdEMAMix").state_bytes
    12
    >>> optimizer_info("torch.optim:SGD").defaults["momentum"]
    0
    """
    if isinstance(optimizer, str) and not is_path(optimizer):
        name = optimizer.lower()
        if name not in _REGISTRY:
            _PLUGINS.load()
        if name in _REGISTRY:
            return _REGISTRY[name]
        if name in _PLUGINS.failed:
            raise ValueError(f"the optimizer {name!r} cannot be used ({_PLUGINS.failed[name]})")
        raise ValueError(f"no optimizer is called {optimizer!r}; {nearest(name, _REGISTRY, 'there are')}")
    made: Any = import_path(optimizer) if isinstance(optimizer, str) else optimizer
    if not isinstance(made, type):
        raise TypeError(f"an optimizer is a name, an import path (module:Class) or a class, not {optimizer!r}")
    check_class(made)
    registered = (info for info in _REGISTRY.values() if info.optimizer_class is made)
    return next(registered, OptimizerInfo(path_of(made), made))


def create_optimizer(
    name: str | type[Optimizer],
    params_or_model: nn.Module | Iterable[Any],
    lr: float | Tensor | None = None,
    weight_decay: float | None = None,
    **options: Any,
) -> Optimizer:
    """Make an optimizer by name, import path or class.

    Of a model it takes the trainable parameters, with their names, in two groups: matrices with weight decay, biases
    and norms without (:func:`param_groups` has more to choose from). Parameters or groups are taken as they are. The
    wrappers, Lookahead and Cautious, are made around AdamW; another one is given as ``base``, by name too.

    Args:
        name: one of :func:`list_optimizers`, an import path ("module:Class" or "module.Class") or a class: any subclass
            of torch.optim.Optimizer.
        params_or_model: a model, or what the optimizer's constructor takes as ``params``.
        lr: None (default) for the optimizer's own default.
        weight_decay: None (default) for the optimizer's own default.
        **options: options of that optimizer, and for a wrapper of the one inside; of a model also those of the function
            that makes its groups, such as ``no_decay``.

    Raises:
        ValueError: no optimizer of that name, or an option out of its range.
        TypeError: an option it does not have, with the nearest one it has.

    >>> optimizer = create_optimizer("ademamix", nn.Linear(3, 2), lr=3e-4, weight_decay=0.1, alpha=8.0)
    >>> [(group["param_names"], group["weight_decay"]) for group in optimizer.param_groups]
    [(['weight'], 0.1), (['bias'], 0.0)]
    """
    info = optimizer_info(name)
    if lr is not None:
        options["lr"] = lr
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    params: Any = params_or_model
    if isinstance(params_or_model, nn.Module):
        inside = _inside(info, options.get("base"))
        groups = groups_for(inside)
        own = [name for name in inspect.signature(groups).parameters if name not in info.defaults]
        grouping = {name: options.pop(name) for name in own if name in options}
        if grouping.get("layer_decay") is not None:
            grouping["lr"] = default_lr(inside) if lr is None else lr
        params = groups(params_or_model, weight_decay, **grouping)
    factory: Any = info.optimizer_class
    optimizer: Optimizer = factory(params, **options)
    return optimizer


def _inside(info: OptimizerInfo, base: Any) -> Any:
    """What makes the optimizer that moves the parameters: in a wrapper its base."""
    if isinstance(base, str):
        return optimizer_info(base).optimizer_class
    return base or info.base or info.optimizer_class


def groups_for(make: Any) -> Callable[..., list[dict[str, Any]]]:
    """What makes a model's groups for what ``make`` makes: ``param_groups`` unless it is registered with another."""
    return next((info.groups for info in _REGISTRY.values() if info.optimizer_class is make), param_groups)


def default_lr(make: Callable[..., Any]) -> Any:
    """The lr of what ``make`` makes unless told otherwise; None where it has none."""
    parameter = inspect.signature(make).parameters.get("lr")
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
