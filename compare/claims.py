"""What the papers claim, and whether it comes out here: the small experiment of each optimizer's paper.

Every experiment takes seconds and is the paper's own toy, or the nearest thing a bundled problem offers to its setting.
A toy says what the rule does, not what it does for large models; where a claim does not come out, the row says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from optzoo.optimizers import (
    PSGD,
    Adafactor,
    Adam,
    AdamW,
    AdEMAMix,
    AMSGrad,
    DiffGrad,
    DoG,
    Grams,
    Lookahead,
)

from . import toys
from .candidates import get_candidate
from .errors import unknown_name
from .problems import get_problem
from .results import MISS
from .runner import Request, one_thread, train


@dataclass(frozen=True)
class Measured:
    """Numbers, in words, and whether they bear the claim out."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, and the experiment on it."""

    optimizer: str  # a name of the registry
    where: str  # in the paper
    text: str
    experiment: Callable[[], Measured]
    remark: str = ""  # what to know before drawing conclusions from it


@dataclass(frozen=True)
class ClaimResult:
    """A claim, and what came out.

    Attributes:
        optimizer: Name in the registry.
        where: Paper and place in it.
        claim: What it says.
        measured: The numbers.
        holds: Whether they bear it out.
        remark: What to know before drawing conclusions; may be empty.
        seconds: Wall time of the experiment.
    """

    optimizer: str
    where: str
    claim: str
    measured: str
    holds: bool
    remark: str
    seconds: float = field(compare=False)


def claims(optimizers: Iterable[str] | None = None) -> Iterator[ClaimResult]:
    """Run the experiments on the papers' claims, one after the other, on one thread.

    Args:
        optimizers: Names of those to check; default all ten that have claims here.

    Yields:
        ClaimResult: One per claim, as soon as it is measured, in the order of the optimizers.

    Raises:
        UsageError: No claims are known of such an optimizer; the message has the nearest name. At the first `next()`.

    Example::

        >>> from optzoo.compare.claims import claims
        >>> for result in claims(["lookahead"]):
        ...     print(result.holds, result.measured)
        True variance 0.443 of SGD's (theory 0.443)
    """
    known = list(dict.fromkeys(claim.optimizer for claim in CLAIMS))
    wanted = known if optimizers is None else list(dict.fromkeys(optimizers))
    for name in wanted:
        if name not in known:
            raise unknown_name("optimizer with claims", name, known)
    for claim in (claim for name in wanted for claim in CLAIMS if claim.optimizer == name):
        started = time.perf_counter()
        with one_thread(), torch.random.fork_rng(devices=[]):
            measured = claim.experiment()
        yield ClaimResult(
            claim.optimizer,
            claim.where,
            claim.text,
            measured.text,
            measured.holds,
            claim.remark,
            time.perf_counter() - started,
        )


def command(optimizers: Iterable[str] | None) -> int:
    """`optzoo compare claims`: prints each claim with what was measured, as soon as it is."""
    counts = {True: 0, False: 0}
    for result in claims(optimizers):
        counts[result.holds] += 1
        print(f"{result.optimizer:<10} {VERDICTS[result.holds]:<15} {result.claim}  [{result.where}]")
        print(f"{'':<26} {result.measured}")
        if result.remark:
            print(f"{'':<26} ({result.remark})", flush=True)
    print(f"{counts[True]} claims reproduced, {counts[False]} not. A toy shows what a rule does, not what it is worth.")
    return 0


VERDICTS = {True: "reproduced", False: "NOT reproduced"}


# The experiments


def _number(value: float) -> str:
    return f"{value:.2g}" if value < MISS else "never"


def _best(problem: str, optimizer: str | type[torch.optim.Optimizer], lrs: Iterable[float]) -> tuple[float, float]:
    """Steps to a bundled problem's target and the final metric, each at its best over `lrs`, on one seed."""
    candidate = get_candidate(optimizer)
    trials = [train(Request(get_problem(problem), candidate, {"lr": lr}, seed=100)) for lr in lrs]
    return min(trial.hit for trial in trials), min(trial.final for trial in trials)


def _rescaled_gradients() -> Measured:
    def path(scale: float) -> torch.Tensor:
        def gradient(x: torch.Tensor, t: int) -> torch.Tensor:
            return scale * toys.rosenbrock_gradient(x, t)

        return toys.descend(Adam, (-1.2, 1.0), gradient, 500, lr=0.02, eps=1e-12)

    deviation = float((path(1.0) - path(1e3)).norm() / path(1.0).norm())
    return Measured(f"gradients × 1000: path differs by {deviation:.0e} in 500 steps", deviation < 1e-6)


def _sparse_features() -> Measured:
    adam, _ = _best("sparse_lr", "adam", (0.03, 0.1, 0.3))
    nesterov, _ = _best("sparse_lr", _Nesterov, (0.3, 1.0, 3.0))
    text = f"sparse_lr: Adam {_number(adam)} steps to the target, Nesterov {_number(nesterov)}"
    return Measured(text, adam < nesterov)


class _Nesterov(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr, momentum=0.9, nesterov=True)


def _theorem_1() -> Measured:
    gradient = toys.rare(3.0, -1.0, period=3)
    adam, amsgrad = (
        toys.descend(factory, (0.0,), gradient, 3000, lr=0.01, box=1.0, betas=(0.0, 0.1), eps=1e-8)[-1].item()
        for factory in (Adam, AMSGrad)
    )
    return Measured(f"optimum -1: Adam ends at {adam:+.3f}, AMSGrad at {amsgrad:+.3f}", adam > 0.99 and amsgrad < -0.99)


def _figure_1() -> Measured:
    gradient = toys.rare(1010.0, -10.0, period=101)
    adam, amsgrad = (
        toys.descend(factory, (0.0,), gradient, 15_150, lr=lambda t: t**-0.5, box=1.0, betas=(0.9, 0.99))[-1].item()
        for factory in (Adam, AMSGrad)
    )
    return Measured(f"optimum -1: Adam ends at {adam:+.3f}, AMSGrad at {amsgrad:+.3f}", adam > 0.99 and amsgrad < -0.75)


def _rosenbrock_arrival() -> Measured:
    runs: list[tuple[Any, float, dict[str, Any]]] = [
        (Adam, 0.01, {"betas": (0.9, 0.999)}),
        (AdEMAMix, 0.003, {"betas": (0.9, 0.999, 0.999), "alpha": 9.0}),
    ]
    adam, ademamix = (
        toys.arrival(toys.descend(factory, (-3.0, 5.0), toys.rosenbrock_gradient, 9600, lr=lr, **options))
        for factory, lr, options in runs
    )
    text = f"within 0.1 of the optimum after {ademamix} steps at lr 0.003, Adam after {adam} at 0.01"
    return Measured(text, ademamix is not None and (adam is None or ademamix < adam))


def _language_model(optimizer: str, lrs: Iterable[float]) -> Measured:
    _, theirs = _best("char_lm", optimizer, lrs)
    _, adamw = _best("char_lm", "adamw", (3e-3, 1e-2, 3e-2))
    return Measured(f"char_lm, 200 steps: validation loss {theirs:.3f}, AdamW {adamw:.3f}", theirs < adamw - 0.005)


def _convex(step: int, against: str, **options: Any) -> Measured:
    loss, gradient = toys.quadratic(0.25, 0.01)
    grams, other = (
        loss(toys.descend(factory, (1.0, 1.0), gradient, step, lr=0.1, eps=1e-8, **own)[-1]).item()
        for factory, own in ((Grams, dict[str, Any]()), (Adam, options))
    )
    return Measured(f"(w₁/2)² + (w₂/10)² after {step} steps: {grams:.1e}, {against} {other:.1e}", grams < other)


def _cautious(factory: Any, name: str, at: int, **options: Any) -> Measured:
    loss, gradient = toys.quadratic(4.0, 1.0)
    plain, cautious = (
        loss(toys.descend(factory, (1.0, 1.0), gradient, 200, cautious=flag, **options)) for flag in (False, True)
    )
    text = (
        f"{name}: loss {plain[at]:.1e} → {cautious[at]:.1e}, rises {toys.increases(plain)} → {toys.increases(cautious)}"
    )
    return Measured(text, bool(cautious[at] < plain[at]) and toys.increases(cautious) < toys.increases(plain))


def _variance() -> Measured:
    lookahead = partial(Lookahead, base=torch.optim.SGD, k=5, alpha=0.5)
    sgd, theory = toys.lookahead_variance(0.1, 5, 0.5)
    ratio = toys.stationary_variance(lookahead, 0.1) / sgd
    return Measured(f"variance {ratio:.3f} of SGD's (theory {theory / sgd:.3f})", abs(ratio * sgd / theory - 1) < 0.03)


def _local_minima() -> Measured:
    ends = [
        tuple(toys.descend_line(factory, derivative)[-1].item() for derivative in (toys.f1, toys.f2))
        for factory in (Adam, DiffGrad)
    ]
    adam, diffgrad = (f"{f1:+.2f}, {f2:+.2f}" for f1, f2 in ends)
    holds = ends[1][0] < -0.25 and ends[1][1] < -0.6 and ends[0][0] > 0 and ends[0][1] > -0.1
    return Measured(f"better minima at -0.30, -0.64: Adam ends at {adam}, diffGrad at {diffgrad}", holds)


def _friction() -> Measured:
    halved = [toys.descend_line(Adam, derivative, lr=0.05)[-1].item() for derivative in (toys.f1, toys.f2)]
    text = f"Adam at half the lr ends at {halved[0]:+.2f}, {halved[1]:+.2f}: there too"
    return Measured(text, halved[0] > -0.25 or halved[1] > -0.6)


def _no_tuning() -> Measured:
    sgd = min(toys.suboptimality(torch.optim.SGD, lr=lr)[0] for lr in (0.3, 1.0, 3.0))
    dog = [toys.suboptimality(DoG, reps_rel=reps_rel)[0] for reps_rel in (1e-8, 1e-4, 1.0)]
    text = f"suboptimality {min(dog):.1e} … {max(dog):.1e} over 8 decades of r_ε, SGD at its best lr {sgd:.1e}"
    return Measured(text, max(dog) <= 1.3 * sgd and max(dog) <= 1.2 * min(dog))


def _conditioning() -> Measured:
    psgd = partial(PSGD, whiten="grad", precond_update_probability=1.0)
    ours = [toys.matrix_regression(psgd, lr) for lr in (0.01, 0.1)]
    adam = min(toys.matrix_regression(Adam, lr) for lr in (0.01, 0.03, 0.1))
    return Measured(f"f/f₀ ≤ {max(ours):.0e} after 1000 steps, Adam at its best lr {adam:.0e}", max(ours) < 1e-3 * adam)


def _memory() -> Measured:
    weight = nn.Parameter(torch.zeros(1024, 4096))
    optimizer = Adafactor([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    numbers = sum(value.numel() for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor))
    text = f"{numbers:,} numbers of state for a 1024 × 4096 matrix, Adam {2 * weight.numel():,}"
    return Measured(text, numbers <= 1024 + 4096 + 1)


def _factored(scales: Callable[[torch.Generator], torch.Tensor]) -> Measured:
    generator = torch.Generator().manual_seed(0)
    factory = partial(
        Adafactor, lr=1.0, scale_parameter=False, clip_threshold=None, beta2_cap=0.99, min_dim_size_to_factor=100
    )
    mean = toys.mean_square_update(factory, scales(generator), generator)
    return Measured(f"mean square of the update {mean:.2f}, of a whole second moment 1", abs(math.log(mean)) < 0.2)


CLAIMS: tuple[Claim, ...] = (
    Claim("adam", "Kingma & Ba 2015, §2.1", "steps do not depend on the scale of gradients", _rescaled_gradients),
    Claim(
        "adam",
        "Kingma & Ba 2015, §6.1",
        "on sparse features ahead of SGD with Nesterov momentum",
        _sparse_features,
        "a synthetic stand-in for the paper's IMDB reviews",
    ),
    Claim("amsgrad", "Reddi et al. 2018, Theorem 1", "converges where Adam goes to the worst point", _theorem_1),
    Claim(
        "amsgrad",
        "Reddi et al. 2018, Figure 1",
        "the same, at β = (0.9, 0.99)",
        _figure_1,
        "lr 1/√t is ours, the paper gives none; Adam's default β₂ = 0.999 is safe at this period",
    ),
    Claim(
        "ademamix",
        "Pagliardini et al. 2024, Figure 2",
        "on Rosenbrock's function there sooner than Adam",
        _rosenbrock_arrival,
        "the lrs are ours, the paper gives none; it overshoots after its arrival",
    ),
    Claim(
        "ademamix",
        "Pagliardini et al. 2024, §4",
        "trains language models to a lower loss than AdamW",
        partial(_language_model, "ademamix", (3e-3, 1e-2, 3e-2)),
        "the paper trains for 256,000 steps and more; its slow average remembers 10,000",
    ),
    Claim(
        "grams",
        "Cao et al. 2024, toy example",
        "ahead of Adam on a convex function",
        partial(_convex, 200, "Adam"),
    ),
    Claim(
        "grams",
        "Cao et al. 2024, toy example",
        "ahead of cautious Adam on a convex function",
        partial(_convex, 200, "cautious Adam", cautious=True),
        "at lr 0.01 it is ahead, at 0.1 it is not",
    ),
    Claim(
        "cautious",
        "Liang et al. 2024, §3.1",
        "speeds momentum up, and the loss rarely rises",
        partial(_cautious, toys.HeavyBall, "heavy ball, β = 0.99, 100 steps", 100, lr=0.01, momentum=0.99),
        "at β = 0.5 nothing opposes the gradient, and the two are one",
    ),
    Claim(
        "cautious",
        "Liang et al. 2024, §3",
        "the same for AdamW",
        partial(_cautious, AdamW, "AdamW, β₁ = 0.99, 200 steps", 200, lr=0.1, betas=(0.99, 0.999), weight_decay=0.0),
    ),
    Claim(
        "lookahead",
        "Zhang et al. 2019, Proposition 2",
        "less variance than SGD at the same lr",
        _variance,
    ),
    Claim("diffgrad", "Dubey et al. 2020, synthetic functions", "passes bad minima where Adam stops", _local_minima),
    Claim(
        "diffgrad",
        "Dubey et al. 2020, synthetic functions",
        "and it is its friction coefficient that does it",
        _friction,
        "the coefficient is near ½ where gradients change little: half of Adam's step",
    ),
    Claim("dog", "Ivgi et al. 2023, §4", "as good as SGD at its best lr, with nothing to tune", _no_tuning),
    Claim("psgd", "Li 2024", "converges where two condition numbers multiply", _conditioning),
    Claim("adafactor", "Shazeer & Stern 2018, §3", "second moments in sublinear memory", _memory),
    Claim(
        "adafactor",
        "Shazeer & Stern 2018, §3",
        "a row and a column stand for all: scales of rank one",
        partial(_factored, toys.rank_one_scales),
    ),
    Claim(
        "adafactor",
        "Shazeer & Stern 2018, §3",
        "a row and a column stand for all: unrelated scales",
        partial(_factored, toys.scattered_scales),
        "which is why updates are clipped",
    ),
)
