"""The optimizers to compare: names of optzoo's registry, or import paths, classes and functions of anybody's."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from optzoo.optimizers import list_optimizers, optimizer_info
from optzoo.optimizers.plugins import import_path, is_optimizer, is_path
from optzoo.optimizers.registry import failed_plugins

from .errors import UsageError, unknown_name

Factory = Callable[..., Optimizer]

BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("torch.optim:SGD", {"lr": 0.1}),
    "sgdm": ("torch.optim:SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": ("torch.optim:SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "nadamw": ("torch.optim:NAdam", {"decoupled_weight_decay": True}),
    "rmsprop": ("torch.optim:RMSprop", {}),
    "adagrad": ("torch.optim:Adagrad", {}),
}
"""torch.optim's classics under short names, to compare with; SGD about lr 0.1, torch's default of 1e-3 is far off."""

AVERAGE = "average"  # as what an optimizer is to be evaluated on
CENTRE = 1e-3  # of the grid of a function that has no default for lr; torch.optim.Adam's


@dataclass(frozen=True)
class Candidate:
    """An optimizer to be built where it is needed: a name can be sent to a worker process, a function not always."""

    name: str
    """What tables call it."""
    source: str | Factory
    """A name of `optzoo.optimizers.list_optimizers`, "module:Class", or a function that no other process can import."""
    default_lr: float
    """The optimizer's own default learning rate, or the one to begin tuning at: the centre of its grid."""
    untuned: dict[str, float]
    """{"lr": ...} where nothing is tuned; empty if its default is None, and it finds its own step sizes."""
    qualname: str
    version: str
    """Of its package, with a hash of its source, so that an edited optimizer is trained again."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that differ from its defaults, in every run."""

    @property
    def factory(self) -> Factory:
        return _factory(self.source)

    @property
    def own_schedule(self) -> bool:
        """Whether it says that the schedule of a problem is not for it, by a class attribute of this name."""
        return bool(getattr(self.factory, "own_schedule", False))

    @property
    def evaluate_on(self) -> str | None:
        """Which weights its paper judges, by a class attribute of this name: `AVERAGE` for the polynomial-decay average
        of the iterates, or a method of its own that puts the weights in place as a context manager; empty for those of
        the last step; None where it does not say: those that `evaluation_weights` finds, if any."""
        said = getattr(self.factory, "evaluate_on", None)
        return None if said is None else str(said)

    @property
    def vector_rule(self) -> str:
        """What an optimizer for matrices does with vectors instead, by a class attribute of this name; else empty."""
        return str(getattr(self.factory, "vector_rule", ""))

    def build(self, parameters: list[Tensor], hyperparameters: Mapping[str, Any]) -> Optimizer:
        """The optimizer with its own defaults, except for the hyperparameters given and no weight decay."""
        decay = {"weight_decay": 0.0} if "weight_decay" in options_of(self.source) else {}
        given = {**decay, **self.options, **hyperparameters}
        arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as DoG's: the grid leaves what is recommended on purpose
            return self.factory(parameters, **arguments)


def is_importable(thing: Any) -> bool:
    """Whether other processes find a class or function under its module and name."""
    return getattr(sys.modules.get(thing.__module__), getattr(thing, "__qualname__", ""), None) is thing


def registered() -> list[str]:
    """The names of all optimizers in optzoo's registry."""
    return list_optimizers()


def default_field() -> list[str]:
    """Those of them whose step costs one gradient: no closure is evaluated again, or differentiated twice."""
    return [name for name in registered() if not optimizer_info(name).closure]


def get_candidate(
    optimizer: str | Factory, name: str | None = None, options: Mapping[str, Any] | None = None
) -> Candidate:
    """The candidate of a registry name, a baseline, an import path, a class, or a function of (parameters, lr).

    Args:
        optimizer: What makes the optimizer.
        name: What tables call it; default the name or path.
        options: Options to build it with, in every run; default its own defaults.

    Raises:
        UsageError: There is no such optimizer or option, or it has no positive default lr to centre the grid on.
    """
    if isinstance(optimizer, str) and optimizer in BASELINES:
        path, fixed = BASELINES[optimizer]
        return get_candidate(path, name or optimizer, {**fixed, **(options or {})})
    source = optimizer if isinstance(optimizer, str) else _path(optimizer)
    if isinstance(source, str) and is_path(source) and ":" not in source:
        source = ":".join(source.rsplit(".", 1))  # jsonargparse's and Lightning's spelling
    factory = _factory(source)
    if isinstance(source, str) and not is_path(source) and not factory.__module__.startswith("optzoo."):
        name, source = name or source, _path(factory)  # a plugin, which a worker process may not know by name
    known = options_of(source)
    for option in options or {}:
        if option not in known and inspect.Parameter.VAR_KEYWORD not in known.values():
            raise unknown_name(f"option of {name or source}", option, known)
    given = (options or {}).get("lr", known.get("lr"))
    if given is inspect.Parameter.empty and not isinstance(factory, type):
        given = CENTRE
    default_lr = (_tuning_lr(factory) if given is None or "lr" not in (options or {}) else None) or given
    name = name or (source if isinstance(source, str) else factory.__name__)
    if not (isinstance(default_lr, int | float) and 0 < default_lr < math.inf):
        raise UsageError(f"optimizer {name!r} has no positive default for lr, which would be the centre of its grid")
    qualname = f"{factory.__module__}.{getattr(factory, '__qualname__', type(factory).__qualname__)}"
    options = {option: value for option, value in (options or {}).items() if option != "lr"}
    untuned = {} if given is None else {"lr": float(given)}
    return Candidate(name, source, float(default_lr), untuned, qualname, _version(factory), options)


def get_candidates(
    optimizers: Mapping[str, Any] | Iterable[Any] | None, everything: Iterable[str] | None = None
) -> list[Candidate]:
    """The candidates of what `compare` and its configuration file take as optimizers; by default the registered ones of
    one gradient a step.

    Every entry is a name, path, class or function, or a mapping {"class_path": ..., "init_args": {...}}; with names of
    their own, the entries are the values of a mapping, or each is a mapping {name: entry}.
    """
    entries: list[tuple[str | None, Any]] = []
    if isinstance(optimizers, Mapping):
        entries.extend(optimizers.items())
    else:
        chosen = default_field() if optimizers is None else optimizers
        for entry in chosen:
            if isinstance(entry, Mapping) and "class_path" not in entry:
                entries.extend(entry.items())
            else:
                entries.append((None, entry))
    candidates: dict[str, Candidate] = {}
    for name, entry in entries:
        candidate = _from_entry(name, entry)
        if candidates.setdefault(candidate.name, candidate) != candidate:
            raise UsageError(f"two optimizers are called {candidate.name!r}; give them names of their own")
    return list(candidates.values())


@functools.cache
def options_of(source: str | Factory) -> dict[str, Any]:
    """The options of an optimizer's constructor with their defaults; a wrapper's include those of what it wraps."""
    if isinstance(source, str) and not is_path(source):
        return optimizer_info(source).defaults
    try:
        parameters = list(inspect.signature(_factory(source)).parameters.values())[1:]
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimizer {source!r}: cannot read its options ({error})") from error
    keywords = (parameter for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL)
    return {item.name: item.kind if item.kind is item.VAR_KEYWORD else item.default for item in keywords}


def _from_entry(name: str | None, entry: Any) -> Candidate:
    if not isinstance(entry, Mapping):
        if not (isinstance(entry, str) or callable(entry)):
            raise UsageError(f"optimizer {entry!r} is no name, no module:Class, no class and no function")
        return get_candidate(entry, name)
    for key in entry:
        if key not in ("class_path", "init_args"):
            raise unknown_name(f"key of optimizer {name or ''}".strip(), str(key), ("class_path", "init_args"))
    path = entry.get("class_path")
    if not isinstance(path, str):
        raise UsageError(f"optimizer {name!r} needs a class_path, such as torch.optim.SGD")
    return get_candidate(path, name, entry.get("init_args") or {})


def _tuning_lr(factory: Factory) -> float | None:
    """The lr to begin tuning at, where the registry knows one."""
    return optimizer_info(factory).tuning_lr if is_optimizer(factory) else None


def _path(factory: Factory) -> str | Factory:
    """The import path of a class or function, or itself if other processes cannot import it."""
    return f"{factory.__module__}:{factory.__qualname__}" if is_importable(factory) else factory


def _factory(source: str | Factory) -> Factory:
    if not isinstance(source, str):
        return source
    try:
        if is_path(source):
            return import_path(source)
        if source in registered() or source in failed_plugins():
            return optimizer_info(source).optimizer_class
    except ValueError as error:
        raise UsageError(str(error)) from error
    raise unknown_name("optimizer", source, [*registered(), *BASELINES])


def _version(factory: Factory) -> str:
    """The version of the factory's package, and a hash of the source that is most likely to change under it."""
    module = sys.modules.get(factory.__module__)
    package = factory.__module__.partition(".")[0]
    if package == "optzoo":
        return f"{importlib.metadata.version('optzoo')}+{_hash_of_optzoo()}"
    version = getattr(sys.modules.get(package), "__version__", "0")
    path = getattr(module, "__file__", None)
    return f"{version}+{_hash([Path(path)])}" if path and Path(path).is_file() else str(version)


@functools.cache
def _hash_of_optzoo() -> str:
    from optzoo import optimizers

    return _hash(sorted(Path(optimizers.__path__[0]).rglob("*.py")))


def _hash(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
