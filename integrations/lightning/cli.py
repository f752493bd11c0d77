"""LightningCLI for optimizers that need the model: groups, sharded parameters, schedules per batch."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from pydoc import locate
from types import MethodType
from typing import Any, NoReturn, TypeAlias

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeUnion, ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden

from optzoo.optimizers import list_optimizers, optimizer_info
from optzoo.optimizers.core.making import Base
from optzoo.optimizers.core.options import nearest
from optzoo.optimizers.registry import default_lr, groups_for
from optzoo.schedulers import Scheduler, presets  # presets: short names are those of imported classes

from .schedules import for_run

_Schedule: TypeAlias = (  # in the order in which short names are looked up
    Callable[[torch.optim.Optimizer], Scheduler]
    | Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
    | Callable[[torch.optim.Optimizer], ReduceLROnPlateau]
)


class OptimizerCLI(LightningCLI):
    """LightningCLI that makes optimizer and schedule when the strategy has set up the model.

    The options ``--optimizer`` and ``--lr_scheduler`` are LightningCLI's own, on the command line, in YAML files and in
    the config that a run saves. What it does otherwise, and why:

    - **Late.** LightningCLI makes the optimizer before the Trainer has touched the model. Under FSDP2
      (``ModelParallelStrategy``) it then holds parameters that are no longer the model's, and nothing is trained. Here
      both are made in ``configure_optimizers``, which Lightning calls when layers are there and sharded.
    - **Groups.** The optimizer gets the parameters with their names, in groups: no decay for biases and norms. The
      option ``--groups`` is a mapping of :func:`optzoo.optimizers.param_groups`' options, such as ``{no_decay: [bias],
      layer_decay: 0.8}``, which decays the optimizer's lr unless there is one in the mapping; for PSGD those of
      :func:`optzoo.optimizers.psgd_groups`, which gives matrices to PSGD and the rest to AdamW, and for Muon those of
      :func:`optzoo.optimizers.matrix_groups`. ``--groups null`` passes ``model.parameters()`` as they are.
    - **Per batch.** The schedule steps after every optimizer step, not every epoch. ReduceLROnPlateau, which needs a
      metric, still steps every epoch. A ``total`` that is not given is ``trainer.estimated_stepping_batches``; with an
      IterableDataset that is known only with ``--trainer.max_steps``.
    - **Short names.** ``AdamW``, ``Lookahead``, ``WSD``, … are this library's, also where torch has one of that name.
      Every other optimizer or scheduler goes by its class path, and by name once its module is imported.

    Nested optimizers are nested options: ``--optimizer Lookahead --optimizer.base CAdamW --optimizer.base.lr 1e-3``.
    Override :meth:`configure_optimizers` as in LightningCLI. For several optimizers take LightningCLI itself and
    arguments of type ``OptimizerCallable`` in the LightningModule.

    Args:
        model_class, datamodule_class, …: those of LightningCLI; ``auto_configure_optimizers`` is without effect.

    Raises:
        SystemExit: an argument that cannot be parsed, with what is wrong on stderr, as LightningCLI.
        TypeError: ``groups`` has an option that the function which makes the groups does not have, with the nearest.

    >>> from lightning.pytorch.demos.boring_classes import BoringModel
    >>> class Model(BoringModel):
    ...     configure_optimizers = LightningModule.configure_optimizers  # none of its own
    >>> arguments = ["--optimizer=AdEMAMix", "--optimizer.weight_decay=0.1", "--trainer.accelerator=cpu"]
    >>> cli = OptimizerCLI(Model, run=False, args=arguments, seed_everything_default=False)
    >>> for group in cli.model.configure_optimizers().param_groups:
    ...     print(group["name"], group["weight_decay"], group["param_names"])
    decay 0.1 ['layer.weight']
    no_decay 0.0 ['layer.bias']
    """

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_core_arguments_to_parser(parser)
        self.auto_configure_optimizers = False  # Lightning would add these two and make them before the model is set up
        parser.add_argument("--optimizer", type=Base | None, help="An optimizer of optzoo or torch.")
        parser.add_argument("--lr_scheduler", type=_Schedule | None, help="A schedule, which steps every batch.")
        parser.add_argument(
            "--groups",
            type=dict[str, Any] | None,
            default={},
            help="Options of optzoo.optimizers.param_groups, or of psgd_groups for PSGD and matrix_groups for Muon; "
            "null: one group as it is.",
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = super().init_parser(**kwargs)
        parser.error = partial(_error, parser.error)  # type: ignore[method-assign]
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        subcommand = self.config.get("subcommand")
        optimizer = self.config.get(subcommand or "", self.config).get("optimizer")
        while isinstance(optimizer, Namespace):
            optimizer = optimizer.get("init_args", {}).get("base")
        if isinstance(optimizer, str) and optimizer.lower() not in list_optimizers():
            parser.error(f"{optimizer!r} is the name of no optimizer{_hint(optimizer)}")

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        made = self.config_init.get(self.subcommand or "", self.config_init)
        if made.get("optimizer") is None:
            return
        name = type(self).__name__
        if is_overridden("configure_optimizers", self.model):
            rank_zero_warn(f"{name}: --optimizer takes the place of {type(self.model).__name__}.configure_optimizers")
        parsed = self.config.get(self.subcommand or "", self.config)
        groups = _groups(name, parsed.optimizer, made.groups)

        def configure_optimizers(module: LightningModule) -> Any:
            optimizer = made.optimizer(groups(module))
            schedule = made.get("lr_scheduler") and _schedule(made.lr_scheduler, optimizer, module)
            return self.configure_optimizers(module, optimizer, schedule)

        self.model.configure_optimizers = MethodType(configure_optimizers, self.model)

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: LRSchedulerTypeUnion | None = None,
    ) -> Any:
        """As in LightningCLI, but per batch; override it for another interval."""
        if isinstance(lr_scheduler, Scheduler):
            return {"optimizer": optimizer, "lr_scheduler": lr_scheduler.lightning()}
        if lr_scheduler is None or isinstance(lr_scheduler, ReduceLROnPlateau):
            return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}


def _groups(owner: str, optimizer: Any, options: Mapping[str, Any] | None) -> Callable[[LightningModule], Any]:
    """What makes the parameter groups of a model, for an optimizer as it is configured."""
    if options is None:
        return lambda module: module.parameters()
    inside, lr = _innermost(optimizer)
    make: Any = groups_for(inside)
    allowed = [name for name in inspect.signature(make).parameters if name not in ("model", "weight_decay")]
    for name in options:
        if name not in allowed:
            raise TypeError(
                f"{owner}: groups are made by {make.__name__}, which has no option {name!r}; "
                + nearest(name, allowed, "it has")
            )
    if options.get("layer_decay") is not None:
        options = {"lr": lr, **options}
    return partial(make, weight_decay=None, **options)


def _error(report: Callable[..., NoReturn], message: str, *args: Any, **kwargs: Any) -> NoReturn:
    """What the parser says, and for the name of a class that there is not the nearest."""
    unknown = re.search(r"Expected a dot import path string: (\w+)", message)
    report(message + (_hint(unknown[1]) if unknown else ""), *args, **kwargs)


def _hint(name: str) -> str:
    """The optimizer or scheduler, of this library or else of torch, that may be meant; nothing where none is near."""
    ours = {optimizer_info(known).optimizer_class.__name__ for known in list_optimizers()}
    schedules = {"Scheduler", *(cls.__name__ for cls in presets.Preset.__subclasses__())}
    classes = {c.lower(): c for c in (*torch.optim.lr_scheduler.__all__, *torch.optim.__all__, *ours, *schedules)}
    near = difflib.get_close_matches(name.lower(), classes, n=1)
    return f"\nThere is no {name!r}; did you mean {classes[near[0]]!r}?" if near else ""


def _innermost(optimizer: Any) -> tuple[Any, Any]:
    """What makes the optimizer that is configured, of wrappers their base, and its lr."""
    lr = None
    while isinstance(optimizer, Namespace):  # else it is a function, or a name
        options = optimizer.get("init_args", {})
        lr = options.get("lr", lr)
        optimizer = options.get("base") or locate(optimizer.class_path)
    make = optimizer_info(optimizer).optimizer_class if isinstance(optimizer, str) else optimizer
    make = getattr(make, "default_base", make)
    return make, default_lr(make) if lr is None else lr


def _schedule(make: Callable[..., Any], optimizer: torch.optim.Optimizer, module: LightningModule) -> Any:
    """The schedule, as long as the run unless its length is configured."""
    keywords = getattr(make, "keywords", {})
    counts_steps = keywords.get("clock", "calls") in ("calls", "optimizer")
    if counts_steps and "total" in keywords and keywords["total"] is None:
        remedy = "give the schedule its total (--lr_scheduler.total)"
        return for_run(module.trainer, lambda steps: make(optimizer, total=steps), remedy)
    return make(optimizer)
