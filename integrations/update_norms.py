"""How far each optimizer step moves the parameters: what is measured, whatever trains and whoever writes it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from optzoo.optimizers.core.options import Rule, one_of, optional, validate
from optzoo.unwrapping import unwrapped

from ._names import Names, group_names, parameter_names, prefixes
from ._watch import Watch, Write

QUANTITIES = (
    "update_norm",
    "update_ratio",
    "grad_norm",
    "grad_norm_clipped",
    "weight_norm",
    "update_momentum_cos",
    "lr",
    "optimizer",
)
"""All there is to log."""

_COUNT = Rule(lambda x: type(x) is int and x >= 1, "an integer >= 1")
_RULES: Mapping[str, Rule] = {
    "every_n_steps": _COUNT,
    "per": one_of("parameter", "module", "group", "total"),
    "include": optional(Rule(lambda x: isinstance(x, str) and x != "", "a pattern such as '*.weight'")),
    "quantities": Rule(
        lambda x: isinstance(x, tuple) and x != () and all(q in QUANTITIES for q in x),
        f"a tuple of some of {', '.join(map(repr, QUANTITIES))}",
    ),
    "histogram": one_of(True, False),
    "low_memory": one_of(True, False),
    "ratio_band": optional(
        Rule(lambda x: isinstance(x, tuple) and len(x) == 2 and 0 <= x[0] < x[1], "two numbers (low, high), low < high")
    ),
    "ratio_patience": _COUNT,
    "prefix": Rule(lambda x: isinstance(x, str), "a text such as 'generator/'"),
}


class UpdateNorms:
    """What ``UpdateNormMonitor`` (Lightning), ``UpdateNormCallback`` (Hugging Face) and ``log_update_norms`` log.

    Every N optimizer steps, of all parameters the optimizer trains (``<quantity>/total``) and of each of them:

    - ``update_norm``: ‖θ' - θ‖, what the step made of θ being θ', weight decay and wrappers included.
    - ``update_ratio``: ‖θ' - θ‖ / ‖θ‖, not a number where θ = 0. About 1e-3 is healthy for Adam at its usual settings.
    - ``grad_norm``, ``grad_norm_clipped``: ‖g‖ before clipping, and as the step used it; unscaled.
    - ``weight_norm``: ‖θ‖, before the step.
    - ``update_momentum_cos``: the cosine of the angle between θ' - θ and -m, m being the ``exp_avg`` or
      ``momentum_buffer`` in the optimizer's state after the step.
    - ``lr/<group>``: what the step was multiplied by, before a schedule moves it; groups are called by their ``name``,
      or pg1, pg2, ... Where the optimizer reports an effective ``lr`` (DoG, Adafactor) it is that.
    - ``optimizer/<name>``: what the optimizer reports of itself, see :class:`optzoo.optimizers.core.reports.Reporter`:
      DoG's ``eta`` and ``distance``, the share of coordinates that Cautious ``kept``, Adafactor's ``clip_factor``,
      ``Q0_norm`` and so on of PSGD's factors. Of several parameters together it is the mean over their coordinates.

    A parameter without gradient counts, with a gradient of 0. Sharded parameters (DTensor) are measured whole: all
    ranks must log at the same steps. Numbers are of float32 or better.

    Steps that are not logged cost a comparison. One that is takes a copy of the trainable parameters while it lasts, in
    float32 where they are of less, a pass over them per quantity, and waits for the device once. A compiled
    ``optimizer.step`` calls its hooks outside of the graph, so leave out ``fullgraph=True`` there.

    Args:
        every_n_steps: N >= 1, steps the optimizer made. Those a GradScaler skips do not count, unless the optimizer
            unscales by itself and is called all the same (torch's ``fused=True``). Default 50.
        per: of what beside the total: each ``"parameter"`` (default), ``"module"`` or parameter ``"group"``, or of
            nothing, ``"total"``.
        include: only of those whose name matches this pattern, with * and ? as in file names. Default None: of all.
            The total is always of everything.
        quantities: which of those above. Default all the optimizer has; one that is asked for and is missing is warned
            of once.
        histogram: also a histogram of every parameter's update, for TensorBoard; copies it to the host. Default False.
        low_memory: take no copy of the parameters. Of the update there are only ``update_norm/total`` and
            ``update_ratio/total``, from random projections onto 2^20 numbers: exact up to a million parameters, beyond
            with a relative standard deviation of about 0.1 % for steps that many coordinates share. Default False.
        ratio_band: (low, high): warn, once by name, of what has an ``update_ratio`` outside of it at
            ``ratio_patience`` logged steps running. Default None: do not.
        ratio_patience: M >= 1 of that. Default 3.
        prefix: what every key begins with, such as ``"generator/"``, to keep apart what several of these write to one
            place: ``total`` and ``lr`` they have in common. Default none.

    Raises:
        ValueError: an argument out of its range, named with its value; at the start of training, a pattern that
            matches nothing.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        per: str = "parameter",
        include: str | None = None,
        quantities: Sequence[str] = QUANTITIES,
        histogram: bool = False,
        *,
        low_memory: bool = False,
        ratio_band: tuple[float, float] | None = None,
        ratio_patience: int = 3,
        prefix: str = "",
    ) -> None:
        given: dict[str, Any] = {name: value for name, value in locals().items() if name in _RULES}
        owner = type(self).__name__
        validate(owner, given, given, _RULES)
        self.every_n_steps, self.per, self.include = every_n_steps, per, include
        self.quantities: tuple[str, ...] = given["quantities"]
        self.histogram, self.low_memory = histogram, low_memory
        self.ratio_band: tuple[float, float] | None = given["ratio_band"]
        self.ratio_patience, self.prefix = ratio_patience, prefix
        self.explicit = self.quantities != QUANTITIES
        if low_memory and (histogram or (self.explicit and "update_momentum_cos" in self.quantities)):
            wanted = "histogram=True" if histogram else "'update_momentum_cos'"
            raise ValueError(f"{owner}: low_memory=True keeps no update, which {wanted} needs; leave out one of them")
        if ratio_band is not None and "update_ratio" not in self.quantities:
            raise ValueError(f"{owner}: ratio_band={ratio_band} needs 'update_ratio' among the quantities")
        self._watches: list[Watch] = []

    def watch(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        names: Names | None,
        write: Write,
        at_step: bool,
        steps: Mapping[str, int],
    ) -> None:
        """Begin to watch these optimizers.

        names: of their parameters. A model is asked anew at every logged step: parameters may be replaced.
        at_step: a step begins where ``step`` is called; else where ``before`` of its watch is.
        steps: how many each has made, by the prefix of its keys.

        Raises ValueError, and watches nothing, if ``include`` matches none of their parameters.
        """
        self.unwatch()
        optimizers = [unwrapped(optimizer) for optimizer in optimizers]
        names = names if names is None or isinstance(names, nn.Module) else dict(names)

        def prefixed(scalars: dict[str, float], histograms: dict[str, Tensor], step: int) -> None:
            write(
                {f"{self.prefix}{key}": value for key, value in scalars.items()},
                {f"{self.prefix}{key}": values for key, values in histograms.items()},
                step,
            )

        watches = [
            Watch(optimizer, self, partial(self.labels, optimizer, names), prefixed, prefix)
            for optimizer, prefix in zip(optimizers, prefixes(optimizers), strict=True)
        ]
        if self.include is not None and self.per != "total":
            known = [known for watch in watches for _, known in watch.labels().values()]
            if not any(map(self.includes, known)):
                shown = ", ".join(sorted(set(known))[:8])
                raise ValueError(
                    f"{type(self).__name__}: include={self.include!r} matches no {self.per}; there are {shown}"
                    + (", ..." if len(set(known)) > 8 else "")
                )
        for watch in watches:
            watch.start(steps.get(watch.prefix, 0), at_step)
        self._watches = watches

    def unwatch(self) -> None:
        """Remove all hooks from the optimizers."""
        for watch in self._watches:
            watch.stop()
        self._watches = []

    def watching(self, optimizer: torch.optim.Optimizer) -> Watch | None:
        """The watch over this optimizer."""
        optimizer = unwrapped(optimizer)
        return next((watch for watch in self._watches if watch.optimizer is optimizer), None)

    def includes(self, label: str) -> bool:
        """Whether what is called so has keys of its own."""
        return self.per != "total" and (self.include is None or fnmatchcase(label, self.include))

    def labels(self, optimizer: torch.optim.Optimizer, names: Names | None) -> dict[Tensor, tuple[str, str]]:
        """The name of each parameter, and of what it is logged as part of."""
        of_parameters = parameter_names(optimizer, names)
        labels = {}
        for group, group_name in zip(optimizer.param_groups, group_names(optimizer), strict=True):
            for p in group["params"]:
                name = of_parameters[p]
                module = name.rpartition(".")[0] or "root"
                labels[p] = (name, {"module": module, "group": group_name}.get(self.per, name))
        return labels
