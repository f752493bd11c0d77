"""The invariance card: what an optimizer's path does not depend on.

One problem, ½ tr(Wᵀ A W B) with W of 8 × 8 in double precision, is trained for 30 steps as it is and transformed, and
the second path is transformed back: the largest relative deviation says whether the optimizer can tell the problems
apart. Most of a table of results can be read off this card: a diagonal method is not invariant to rotations, and
`quad_rot` costs it more than `quad`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from optzoo.optimizers.core.closures import step_on

from .candidates import Candidate, get_candidate, registered
from .problems._parts import fixed_generator, logspace, rotation
from .runner import one_thread

Answer = Literal["yes", "approx", "no"]

SIZE, STEPS = 8, 30
IDENTITY = torch.eye(SIZE, dtype=torch.float64)
EXACT, APPROXIMATE = 1e-10, 1e-2  # largest deviation that counts as "yes", and as "approx"


@dataclass(frozen=True, eq=False)
class Transformation:
    """Another way to look at the same problem: the loss times `scale`, of W = L W' R."""

    name: str
    meaning: str
    scale: float = 1.0
    left: Tensor = IDENTITY
    right: Tensor = IDENTITY


@dataclass(frozen=True)
class Invariance:
    """One cell of the card.

    Attributes:
        optimizer: Name of the optimizer.
        transformation: Name of the transformation.
        deviation: ‖W - W'‖ / ‖W - W₀‖, the largest over the steps.
        answer: "yes" up to a deviation of 1e-10, "approx" up to 1e-2, else "no".
    """

    optimizer: str
    transformation: str
    deviation: float

    @property
    def answer(self) -> Answer:
        if self.deviation <= EXACT:
            return "yes"
        return "approx" if self.deviation <= APPROXIMATE else "no"


def invariances(optimizers: Iterable[str | type[torch.optim.Optimizer]] | None = None) -> Iterator[Invariance]:
    """Measure the card, optimizer by optimizer, each in a fraction of a second.

    Args:
        optimizers: Names, "module:Class" paths or classes; default all registered. At their default options and lr, but
            0.01 where the default lr is above it (a step must stay small against W).

    Yields:
        Invariance: One per optimizer and transformation of `TRANSFORMATIONS`.

    Raises:
        UsageError: There is no such optimizer.

    Example::

        >>> from optzoo.compare.invariances import invariances
        >>> {cell.transformation: cell.answer for cell in invariances(["adamw"])}
        {'scale': 'approx', 'permute': 'yes', 'rotate left': 'no', 'rotate both': 'no', 're-run': 'yes'}
    """
    candidates = [get_candidate(optimizer) for optimizer in (registered() if optimizers is None else optimizers)]
    for candidate in candidates:
        with one_thread():
            plain = _path(candidate, Transformation("", ""))
            for transformation in TRANSFORMATIONS:
                other = _path(candidate, transformation)
                travelled = (plain - plain[0]).flatten(1).norm(dim=1)[1:]
                apart = (plain - other).flatten(1).norm(dim=1)[1:]
                yield Invariance(candidate.name, transformation.name, float((apart / travelled).max()))


def _path(candidate: Candidate, transformation: Transformation) -> Tensor:
    """The points visited, transformed back."""
    left, right = transformation.left, transformation.right
    generator = fixed_generator("invariances")
    scales = logspace(1.0, 0.03, SIZE).sqrt()
    a, b = (scales[:, None] * rotation(SIZE, generator) for _ in range(2))
    start = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    w = (left.T @ start @ right.T).requires_grad_()
    points = [start]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = candidate.build([w], {"lr": min(candidate.default_lr, 0.01)})
        for _ in range(STEPS):
            step_on(optimizer, lambda: transformation.scale * (a @ left @ w @ right @ b.T).square().sum() / 2)
            points.append(left @ w.detach() @ right)
    return torch.stack(points)


def _shuffled_signs() -> Tensor:
    """A permutation with signs."""
    generator = fixed_generator("signs")
    signs = 1.0 - 2.0 * torch.randint(2, (SIZE, 1), generator=generator)
    return signs * torch.eye(SIZE, dtype=torch.float64)[torch.randperm(SIZE, generator=generator)]


_LEFT, _RIGHT = (rotation(SIZE, fixed_generator(side)) for side in ("left", "right"))
_SHUFFLE = _shuffled_signs()

TRANSFORMATIONS = (
    Transformation("scale", "the loss × 1000", scale=1e3),
    Transformation("permute", "rows and columns permuted, signs flipped", left=_SHUFFLE, right=_SHUFFLE),
    Transformation("rotate left", "W rotated from the left", left=_LEFT),
    Transformation(
        "rotate both",
        "W rotated from both sides",
        left=_LEFT,
        right=_RIGHT,
    ),
    Transformation("re-run", "nothing: the same run again"),
)
"""The columns of the card."""


def command(optimizers: Iterable[str] | None) -> int:
    """`optzoo compare invariances`: prints the card, a row as soon as it is measured."""
    names = [transformation.name for transformation in TRANSFORMATIONS]
    heading: str | None = f"{'':<12}" + "".join(f"{name:>18}" for name in names)
    row: list[Invariance] = []
    for cell in invariances(optimizers):
        row.append(cell)
        if len(row) == len(names):
            cells = "".join(f"{f'{cell.answer} ({cell.deviation:.0e})':>18}" for cell in row)
            print(*filter(None, (heading, f"{cell.optimizer:<12}{cells}")), sep="\n", flush=True)
            heading = None
            row.clear()
    for transformation in TRANSFORMATIONS:
        print(f"{transformation.name}: {transformation.meaning}")
    return 0
