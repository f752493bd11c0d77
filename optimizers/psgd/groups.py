"""Which parameters PSGD is for, and AdamW for the rest, in one optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from ..groups import NO_DECAY, param_groups


def psgd_groups(
    model: nn.Module,
    weight_decay: float | None = 0.0,
    *,
    adamw_lr: float | None = 1e-3,
    no_decay: Sequence[str] = NO_DECAY,
    include_frozen: bool | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters of ``model`` for :class:`PSGD`: matrices and convolutions its own, the rest AdamW's.

    Vectors have nothing to whiten but their entries, and rows of embeddings mostly no gradient: both are better off
    with AdamW, at an lr of their own. It is one optimizer, so schedulers scale both.

    Args:
        model: the module to train.
        weight_decay: for the parameters that decay, >= 0. Default 0; None leaves it to the optimizer.
        adamw_lr: lr of AdamW's groups. Default 1e-3, AdamW's own; None: PSGD for everything.
        no_decay, include_frozen: which parameters do not decay, and whether frozen ones are there, see
            :func:`optzoo.optimizers.param_groups`.

    Raises:
        TypeError, ValueError: as :func:`optzoo.optimizers.param_groups`.

    >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    >>> for group in psgd_groups(model, weight_decay=0.1):
    ...     print(group["name"], group["weight_decay"], [name for name, _ in group["params"]])
    decay 0.1 ['1.weight']
    decay adamw 0.1 ['0.weight']
    no_decay adamw 0.0 ['1.bias']
    """
    groups = param_groups(model, weight_decay, no_decay=no_decay, include_frozen=include_frozen)
    return groups if adamw_lr is None else list(_split(model, groups, adamw_lr))


def _split(model: nn.Module, groups: Sequence[dict[str, Any]], adamw_lr: float) -> Iterator[dict[str, Any]]:
    lookups = [module for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))]
    embeddings = {id(p) for module in lookups for p in module.parameters(recurse=False)}
    for group in groups:
        matrices: list[Any] = []
        others: list[Any] = []
        for name, p in group["params"]:
            is_matrix = sum(n > 1 for n in p.shape) >= 2 and id(p) not in embeddings
            (matrices if is_matrix else others).append((name, p))
        if matrices:
            yield {**group, "params": matrices}
        if others:
            yield {**group, "params": others, "name": f"{group['name']} adamw", "adamw": True, "lr": adamw_lr}
