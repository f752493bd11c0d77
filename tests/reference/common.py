"""What every reference shares: the step around an update rule, and the driver.

    θ ← θ − η (T(u) + λθ),    u = update(g, s, t, h)

An update rule reads the gradient g, the state s (every quantity starts at 0), the step count t = 1, 2, … of its own
tensor and the options h, and returns u. Complex parameters are passed as their real view, the way torch treats them.
An optimizer whose step is not of this form has a function for the whole step, of all tensors that have a gradient.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import adafactor, adam, ademamix, amsgrad, diffgrad, dog, grams, lion, muon, schedulefree
from .notation import Array, Options, State
from .transforms import SHARED, transform

RULES: Mapping[str, tuple[Callable[[Array, State, int, Options], Array], Mapping[str, Any]]] = {
    "adam": (adam.update, adam.ADAM),
    "adamw": (adam.update, adam.ADAMW),
    "amsgrad": (amsgrad.update, amsgrad.AMSGRAD),
    "ademamix": (ademamix.update, ademamix.ADEMAMIX),
    "grams": (grams.update, grams.GRAMS),
    "lion": (lion.update, lion.LION),
    "diffgrad": (diffgrad.update, diffgrad.DIFFGRAD),
    "cadamw": (adam.update, {**adam.ADAMW, "cautious": True}),
    "clion": (lion.update, {**lion.LION, "cautious": True}),
}

STEPS: Mapping[str, tuple[Callable[..., list[Array]], Mapping[str, Any]]] = {
    "dog": (dog.step, dog.DOG),
    "ldog": (dog.step, dog.LDOG),
    "muon": (muon.step, muon.MUON),
    "adafactor": (adafactor.step, adafactor.ADAFACTOR),
    "schedulefreeadamw": (schedulefree.step, schedulefree.ADAMW),
    "schedulefreesgd": (schedulefree.step, schedulefree.SGD),
}


class Reference:
    """One optimizer at work: options in `h`, state and step count per tensor; `step` maps parameters to new ones."""

    def __init__(self, name: str, **options: Any) -> None:
        self.rule, defaults = {**RULES, **STEPS}[name]
        self.whole = name in STEPS
        known = {**SHARED, **defaults}
        if unknown := options.keys() - known.keys():
            raise TypeError(f"reference {name!r} has no option {sorted(unknown)}; it has {sorted(known)}")
        self.h = Options(**{**known, **options})
        self.states: defaultdict[int, State] = defaultdict(lambda: defaultdict(lambda: np.zeros(())))
        self.steps: Counter[int] = Counter()

    def step(self, theta: Sequence[Array], gradients: Sequence[Array | None]) -> list[Array]:
        pairs = enumerate(zip(theta, gradients, strict=True))
        gs = {i: -g if self.h.maximize else g for i, (_, g) in pairs if g is not None and g.size}
        if self.whole:
            return self.rule(theta, gs, self.states, self.steps, self.h)
        return [self._step(i, p, gs[i]) if i in gs else p for i, p in enumerate(theta)]

    def _step(self, i: int, θ: Array, g: Array) -> Array:
        h, η, λ = self.h, self.h.lr, self.h.weight_decay
        if not h.decoupled_weight_decay:
            g, λ = g + λ * θ, 0.0
        self.steps[i] += 1
        u = transform(self.rule(g, self.states[i], self.steps[i], h), g, h)
        return θ - η * (u + λ * θ)


def run(
    name: str, theta0: Sequence[Array], gradients: Iterable[Sequence[Array | None]], **options: Any
) -> list[list[Array]]:
    """Parameters after every step, for gradients given in advance; a tensor whose gradient is None does not step."""
    reference = Reference(name, **options)
    theta = [np.asarray(p, dtype=np.float64) for p in theta0]
    trajectory = []
    for g in gradients:
        theta = reference.step(theta, [None if x is None else np.asarray(x, dtype=np.float64) for x in g])
        trajectory.append(theta)
    return trajectory
