"""A user's own model as a problem: behind `Problem.from_module` and `Problem.from_lightning`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..problem import Problem, Target
from ._parts import seeded

Batches: TypeAlias = Iterable[Any] | Callable[[torch.Generator], Iterable[Any]]


class ModuleProblem(Problem):
    """A model, batches, a loss and a metric. Dropout and data order depend on the seed and the step alone."""

    model_fn: ClassVar[Callable[[], nn.Module]]
    batches_of: ClassVar[Callable[[torch.Generator], Iterable[Any]]]  # one epoch
    loss_fn: ClassVar[Callable[[Any, Any, int], Tensor]]
    metric_fn: ClassVar[Callable[[Any], float | Tensor]]

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.model = seeded(type(self).model_fn, self.generator)
        self._epoch: Iterator[Any] = iter(())
        self._step = -1

    def parameters(self) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def loss(self, step: int) -> Tensor:
        self.model.train()
        with self._randomness_of(step):
            if step != self._step:  # else an optimizer with a closure asks again
                self._batch, self._step = self._next_batch(), step
            loss: Tensor = type(self).loss_fn(self.model, self._batch, step)
        return loss

    @torch.no_grad()
    def metric(self) -> float:
        self.model.eval()
        with self._randomness_of(-1):
            return float(type(self).metric_fn(self.model))

    def _next_batch(self) -> Any:
        for _ in range(2):
            for batch in self._epoch:
                return batch
            self._epoch = iter(type(self).batches_of(self.generator))
        raise UsageError(f"problem {self.name!r}: batches are empty")

    @contextmanager
    def _randomness_of(self, step: int) -> Iterator[None]:
        """For what draws from the global generator: dropout, a DataLoader."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.generator.initial_seed() + 1_000_003 * (step + 1)) % 2**63)
            yield


def from_module(
    module_name: str,
    name: str,
    batches: Batches,
    functions: dict[str, Callable[..., Any]],
    target: float | Target,
    settings: dict[str, Any],
) -> type[Problem]:
    """The class of that problem, as if written in the module `module_name` under its `name`."""
    if not name.isidentifier():
        raise UsageError(f"the name of a problem must be that of the variable it is assigned to, not {name!r}")
    given = target if isinstance(target, Target) else Target(float(target))
    if not math.isfinite(given.value):
        raise UsageError(f"problem {name!r}: target must be finite, not {given.value!r}")

    def batches_of(generator: torch.Generator) -> Iterable[Any]:
        if callable(batches):
            return batches(generator)
        if isinstance(batches, Sequence):
            return (batches[index] for index in torch.randperm(len(batches), generator=generator).tolist())
        return batches

    methods = {key: staticmethod(function) for key, function in {**functions, "batches_of": batches_of}.items()}
    members = {**methods, **settings, "__module__": module_name, "name": name, "target": given}
    return type(name, (ModuleProblem,), members)


class LightningSteps:
    """Calls a LightningModule as a Trainer would, without one, and keeps what `self.log` is given."""

    def __init__(self, module_fn: Callable[[], Any], monitor: str, validation: Iterable[Any] | None) -> None:
        self.module_fn = module_fn
        self.monitor = monitor
        self.validation = validation

    def build(self) -> Any:
        module = self.module_fn()
        module.configure_model()
        if not module.automatic_optimization:
            raise UsageError(f"{type(module).__name__} optimizes manually; a comparison needs automatic_optimization")
        module.logged = {}
        module.log = lambda name, value, *_, **__: module.logged.update({name: float(value)})
        module.log_dict = lambda values, *_, **__: [module.log(name, value) for name, value in values.items()]
        return module

    def training_loss(self, module: Any, batch: Any, step: int) -> Tensor:
        output = _call_step(module.training_step, batch, step)
        loss = output.get("loss") if isinstance(output, dict) else output
        if not isinstance(loss, Tensor):
            raise UsageError(f"{type(module).__name__}.training_step must return the loss, not {loss!r}")
        return loss

    def monitored(self, module: Any) -> float:
        """The mean of the monitored value over the validation batches."""
        values: list[float] = []
        for index, batch in enumerate(module.val_dataloader() if self.validation is None else self.validation):
            module.logged.clear()
            _call_step(module.validation_step, batch, index)
            if self.monitor not in module.logged:
                raise UsageError(
                    f"{type(module).__name__}.validation_step logs {', '.join(module.logged) or 'nothing'}, "
                    f"not {self.monitor!r}, which is to be monitored"
                )
            values.append(module.logged[self.monitor])
        if not values:
            raise UsageError(f"{type(module).__name__}: there are no validation batches")
        return sum(values) / len(values)


def _call_step(step: Callable[..., Any], batch: Any, index: int) -> Any:
    return step(batch, index) if len(inspect.signature(step).parameters) > 1 else step(batch)
