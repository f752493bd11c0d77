"""Wrapped optimizers of several libraries, and what they do in other processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

from optzoo.optimizers import AdamW, ScheduleFreeAdamW, evaluation_weights, has_evaluation_weights
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.lookahead import Lookahead

from .problems import gradients, trajectory
from .processes import SAVED_AFTER, STEPS, network, train

Make = Callable[[Iterable[Any]], torch.optim.Optimizer]
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)

WRAPPED: Mapping[str, Make] = {
    "Lookahead(AdamW)": partial(Lookahead, k=3, lr=0.01),
    "Lookahead(AdamW), pullback": partial(Lookahead, k=3, lr=0.01, pullback_momentum="pullback"),
    "Lookahead(torch AdamW)": partial(Lookahead, base=torch.optim.AdamW, k=3, alpha=0.8, lr=0.01),
    "Lookahead(torch fused AdamW)": partial(Lookahead, base=torch.optim.AdamW, k=3, lr=0.01, fused=True),
    "Lookahead(SGD), stateless": partial(Lookahead, base=torch.optim.SGD, k=3, lr=0.05),
    "Lookahead(SGD), pullback": partial(Lookahead, base=SGD, k=3, pullback_momentum="pullback"),
    "Cautious(AdamW)": partial(Cautious, lr=0.01),
    "Cautious(torch AdamW)": partial(Cautious, base=torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "Cautious(SGD)": partial(Cautious, base=SGD, weight_decay=0.1),
    "Lookahead(Cautious(AdamW))": partial(Lookahead, base=Cautious, k=3, lr=0.01),
    "Lookahead(Cautious(SGD))": partial(Lookahead, base=partial(Cautious, base=SGD), k=3),
}


def resume_wrapped(source: str, target: str) -> None:
    """Go on with every run in ``source`` and save where it ends."""
    ends = {}
    for key, run in torch.load(source, weights_only=True).items():
        params = [torch.nn.Parameter(p) for p in run["params"]]
        optimizer = WRAPPED[key](params)
        optimizer.load_state_dict(run["optimizer"])
        trajectory(optimizer, params, gradients(STEPS, dtype=params[0].dtype)[SAVED_AFTER:])
        ends[key] = {"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()}
    torch.save(ends, target)


SHARDED: Mapping[str, Make] = {
    "Lookahead(AdamW)": partial(Lookahead, base=partial(AdamW, lr=0.01, weight_decay=0.1), k=2),
    "Lookahead(SGD), pullback": partial(Lookahead, base=SGD, k=2, pullback_momentum="pullback"),
    "Cautious(torch AdamW)": partial(Cautious, base=torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "Cautious(SGD), coupled": partial(Cautious, base=SGD, weight_decay=0.1, cautious_scale="xi"),
    "Lookahead(Cautious(torch AdamW))": partial(
        Lookahead, base=partial(Cautious, base=torch.optim.AdamW, lr=0.01, weight_decay=0.1), k=2
    ),
    "Cautious(Schedule-Free)": partial(Cautious, base=ScheduleFreeAdamW, lr=0.01, weight_decay=0.1, warmup_steps=3),
}


def fully_sharded(rank: int, directory: Path) -> None:
    """Where FSDP2 gets to with every wrapper, saved per rank."""
    torch.save({name: _train_fully_sharded(make, rank) for name, make in SHARDED.items()}, directory / f"{rank}.pt")


def _train_fully_sharded(make: Make, rank: int) -> dict[str, Any]:
    """Parameters not stopped, and stopped after three steps and resumed from a full state dict; those to evaluate."""
    full, part = StateDictOptions(full_state_dict=True), slice(rank, None, 2)
    model, resumed = fully_shard(network()), fully_shard(network())
    optimizer: Any = make(model.parameters())
    train(model, optimizer, range(3), part)
    second = make(resumed.parameters())
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=full))
    set_optimizer_state_dict(resumed, second, saved, options=full)
    set_model_state_dict(resumed, get_model_state_dict(model, options=full), options=full)
    train(model, optimizer, range(3, 5), part)
    train(resumed, second, range(3, 5), part)
    seen = {"params": get_model_state_dict(model, options=full), "resumed": get_model_state_dict(resumed, options=full)}
    if has_evaluation_weights(optimizer):
        with evaluation_weights(optimizer):
            seen["slow"] = get_model_state_dict(model, options=full)
        seen["after"] = get_model_state_dict(model, options=full)
    return seen


def in_one_process(name: str) -> dict[str, Mapping[str, Tensor]]:
    """What the ranks should see: the whole batch on one network."""
    model = network()
    optimizer: Any = SHARDED[name](model.parameters())
    train(model, optimizer, range(5))
    seen = {"params": copy.deepcopy(model.state_dict())}
    if has_evaluation_weights(optimizer):
        with evaluation_weights(optimizer):
            seen["slow"] = copy.deepcopy(model.state_dict())
    return seen
