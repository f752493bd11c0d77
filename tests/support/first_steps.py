"""First steps on two ranks: what is warned of, what is refused, and where it leads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from optzoo.optimizers import (
    PSGD,
    PSGDLRA,
    Adafactor,
    AdamW,
    CAdamW,
    Cautious,
    DoG,
    LDoG,
    Lion,
    Lookahead,
    PolynomialDecayAverager,
    PSGDDense,
    PSGDNewton,
)

from .processes import network, train

Make = Callable[[Any], torch.optim.Optimizer]

WHOLE: Mapping[str, Make] = {
    "Adafactor": partial(Adafactor, lr=0.01),
    "AdamW with cautious=True": partial(AdamW, cautious=True),
    "CAdamW": CAdamW,
    "Cautious around SGD": partial(Cautious, base=torch.optim.SGD, lr=0.01),
    "DoG": partial(DoG, reps_rel=1.0),
    "LDoG": partial(LDoG, reps_rel=1.0),
    "Lookahead around DoG": partial(Lookahead, base=DoG, reps_rel=1.0),
    "PSGD": PSGD,
}
"""Optimizers that need whole parameters."""
ANY_PIECE: Mapping[str, Make] = {
    "AdamW": AdamW,
    "CAdamW without scale": partial(CAdamW, cautious_scale=None),
    "Lion": Lion,
    "Lookahead around SGD": partial(Lookahead, base=torch.optim.SGD, lr=0.01),
    "PSGD's AdamW": partial(PSGD, adamw=True),
}
FLAT: Mapping[str, Mapping[str, Any]] = {
    "original parameters": {"use_orig_params": True},
    "flat parameters": {"use_orig_params": False},
    "not sharded": {"use_orig_params": True, "sharding_strategy": ShardingStrategy.NO_SHARD},
}
NEWTON: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "PSGDNewton": PSGDNewton,
    "PSGDDense": PSGDDense,
    "PSGDLRA": PSGDLRA,
}


def first_steps(rank: int, directory: Path) -> None:
    """All that is to be seen, saved per rank."""
    seen = {
        "FSDP1": {
            (name, how): warned(partial(step_flat, make, options, rank))
            for name, make in {**WHOLE, **ANY_PIECE}.items()
            for how, options in FLAT.items()
        },
        "replaced": {name: warned(partial(step_replaced, make)) for name, make in {**WHOLE, **ANY_PIECE}.items()},
        "averager": warned(average_replaced),
        "refused": {name: refused(make, rank) for name, make in NEWTON.items()},
        "sharded": {
            (name, how): refused_sharded(make, FLAT[how], rank) for name, make in NEWTON.items() for how in FLAT
        },
        "finite_difference": {name: replicas(make, rank) for name, make in NEWTON.items()},
    }
    torch.save(seen, directory / f"{rank}.pt")


def warned(call: Callable[[], object]) -> list[str]:
    """What this library warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    texts = [str(warning.message) for warning in caught]
    return [text for text in texts if "fully_shard" in text]  # torch has warnings of its own


def step_flat(make: Make, options: Mapping[str, Any], rank: int) -> None:
    model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), **options)
    train(model, make(model.parameters()), range(2), slice(rank, None, 2))


def step_replaced(make: Make) -> None:
    """An optimizer that is made before the model is sharded, and one that is made after it."""
    model = network()
    optimizer = make(model.parameters())
    train(fully_shard(model), optimizer, range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, make(model.parameters()), range(2))


def average_replaced() -> None:
    model = network()
    early = PolynomialDecayAverager(model.parameters())
    fully_shard(model)
    late = PolynomialDecayAverager(model.parameters())
    train(model, AdamW(model.parameters()), range(2))
    for averager in (early, late):
        averager.update()


def loss_on(model: nn.Module, rank: int, step: int) -> Tensor:
    """That of this rank's half of a batch."""
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    loss: Tensor = model(x[rank::2]).square().mean()
    return loss


def refused(make: Callable[..., torch.optim.Optimizer], rank: int) -> dict[str, Any]:
    """Exact products where gradients are averaged by backward(), and where each rank trains a model of its own."""
    model = network()
    replicated = DistributedDataParallel(model)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = make(model.parameters(), lr=0.01, hessian="exact")
    try:
        optimizer.step(lambda: loss_on(replicated, rank, 0))
        error = ""
    except RuntimeError as raised:
        error = str(raised)
    unchanged = all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)) and not optimizer.state
    optimizer.step(lambda: loss_on(model, rank, 0))
    moved = not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    return {"error": error, "unchanged": unchanged, "alone": moved}


def refused_sharded(make: Callable[..., torch.optim.Optimizer], options: Mapping[str, Any], rank: int) -> str:
    model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), **options)
    optimizer = make(model.parameters(), hessian="finite_difference")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_on(model, rank, 0)
        loss.backward()
        return loss

    try:
        optimizer.step(closure)
    except NotImplementedError as raised:
        return str(raised)
    return ""


def replicas(make: Callable[..., torch.optim.Optimizer], rank: int) -> float:
    """How far apart the ranks are after steps with Hv from two gradients, each averaged."""
    model = network()
    replicated = DistributedDataParallel(model)
    optimizer = make(model.parameters(), lr=0.01, hessian="finite_difference")
    for number in range(4):

        def closure(number: int = number) -> Tensor:
            optimizer.zero_grad()
            loss = loss_on(replicated, rank, number)
            loss.backward()
            return loss

        optimizer.step(closure)
    own = torch.cat([p.detach().flatten() for p in model.parameters()])
    both = [torch.empty_like(own) for _ in range(2)]
    dist.all_gather(both, own)
    return float((both[0] - both[1]).abs().max())
