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
                stacklevel=3,
            )
        flat = [(group, p) for group, p in members if _is_flat_piece(p)]
        shaped = any(p.dim() > 1 for _, p in flat)  # with sharding_strategy=NO_SHARD they are whole
        if not shaped and any(self.takes_whole_parameters(group) for group, _ in flat):
            warnings.warn(
                f"{name} needs whole parameters. FullyShardedDataParallel (FSDP1) leaves each rank a flat piece of "
                "them, and steps of pieces are another algorithm. Shard with torch.distributed.fsdp.fully_shard "
                "(FSDP2), which gets where one process gets, or take an optimizer that works on each coordinate alone, "
                "such as AdamW",
                stacklevel=3,
            )


def _is_flat_piece(p: Tensor) -> bool:
    return bool(getattr(p, "_fsdp_flattened", False))  # FSDP1's own mark, with use_orig_params or without


def in_modules(params: Iterable[Tensor]) -> bool:
    """Whether any module there is has any of these parameters; slow, as it looks at all objects."""
    ids = set(map(id, params))
    modules = (o for o in gc.get_objects() if issubclass(type(o), nn.Module))
    return any(id(p) in ids for module in modules for p in module.__dict__.get("_parameters", {}).values())
