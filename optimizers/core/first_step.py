"""What a first step tells of parameters that no step would train, or not as their optimizer promises."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


class FirstStep:
    """Mixed into optimizers: what is asked once, when the first gradients should be there."""

    param_groups: list[dict[str, Any]]
    _has_begun = False

    def takes_whole_parameters(self, group: Mapping[str, Any]) -> bool:
        """Whether a step of these options depends on numbers of whole parameters, which no rank knows of a piece."""
        return False

    def begin(self) -> None:
        """Warn of parameters that are not the model's any more, and of pieces where whole parameters are needed."""
        if self._has_begun:
            return
        self._has_begun = True
        name = type(self).__name__
        members = [(group, p) for group in self.param_groups for p in group["params"]]
        trained = [p for _, p in members if p.requires_grad]
        if trained and all(p.grad is None for p in trained) and not in_modules(trained):
            warnings.warn(
                f"{name}: no parameter has a gradient in the first step, and no module has these parameters, so "
                "nothing is trained. fully_shard, for one, gives a model new parameters: make the optimizer after it, "
                "of model.parameters(). Parameters that are in no module need backward() before step()",
                stacklevel=2,
            )
        pieces = set(flat_pieces(p for _, p in members))
        if any(p in pieces and self.takes_whole_parameters(group) for group, p in members):
            warnings.warn(
                f"{name} needs whole parameters. FullyShardedDataParallel (FSDP1) leaves each rank a flat piece of "
                "them, and steps of pieces are another algorithm. Shard with torch.distributed.fsdp.fully_shard "
                "(FSDP2), which gets where one process gets, or take an optimizer that works on each coordinate alone, "
                "such as AdamW",
                stacklevel=2,
            )


def flat_pieces(params: Iterable[Tensor]) -> list[Tensor]:
    """Those of ``params`` that FSDP1 has made pieces of, with use_orig_params or without."""
    marked = [p for p in params if getattr(p, "_fsdp_flattened", False)]
    return [] if any(p.dim() > 1 for p in marked) else marked  # with sharding_strategy=NO_SHARD they are whole


def in_modules(params: Iterable[Tensor]) -> bool:
    """Whether any module there is has any of these parameters; slow, as it looks at all objects."""
    ids = set(map(id, params))
    modules = (o for o in gc.get_objects() if issubclass(type(o), nn.Module))
    return any(id(p) in ids for module in modules for p in module.__dict__.get("_parameters", {}).values())
