"""The weights to evaluate, where they are others than those that are trained: one swap for all that have such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optzoo.unwrapping import unwrapped

from .buckets import local

EVALUATING = "evaluating"
"""Key that the groups of an optimizer have as long as its parameters hold the weights to evaluate, and not else."""


class EvaluationWeights:
    """Mixed into what has weights to evaluate beside those it trains: it says which they are (``evaluated``).

    >>> class Zeroed(EvaluationWeights):
    ...     def __init__(self, params):
    ...         self.params = params
    ...     def evaluated(self):
    ...         return ((p, torch.zeros_like(p)) for p in self.params)
    >>> w = torch.nn.Parameter(torch.tensor([8.0]))
    >>> with Zeroed([w]).evaluation_weights():
    ...     w.item()
    0.0
    >>> w.item()
    8.0
    """

    evaluate_on = "evaluation_weights"
    """What tables call the weights that are judged."""
    _way_out = "leave the with block first"

    def evaluated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Parameters, each with weights to evaluate of its dtype: a tensor that has the trained ones meanwhile."""
        raise NotImplementedError("what has weights to evaluate defines evaluated()")

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Within the block the parameters hold the weights to evaluate: ``with x.evaluation_weights(): evaluate()``.

        After it they are the trained ones, bit for bit, also if the block raises. Raises RuntimeError when nested.
        """
        self.check("evaluation_weights()")
        exchanged: list[tuple[Tensor, Tensor]] = []
        self._mark(True)
        try:
            self._exchange(exchanged)
            yield
        finally:
            for pair in exchanged:
                exchange(*pair)
            self._mark(False)

    @torch.inference_mode(False)  # what is made here outlives the evaluation
    @torch.no_grad()
    def _exchange(self, exchanged: list[tuple[Tensor, Tensor]]) -> None:
        """Put the weights to evaluate into the parameters; ``exchanged`` has the pairs, also if one raises."""
        for pair in self.evaluated():
            exchange(*pair)
            exchanged.append(pair)

    def check(self, action: str) -> None:
        """Raise RuntimeError where ``action`` is not possible now."""
        if self.is_evaluating:
            raise RuntimeError(
                f"{type(self).__name__}: {action} within evaluation_weights(), where the parameters hold the weights "
                f"to evaluate; {self._way_out}"
            )

    @property
    def is_evaluating(self) -> bool:
        """Whether the parameters hold the weights to evaluate now."""
        return any(EVALUATING in notes for notes in self._places())

    def _mark(self, evaluating: bool) -> None:
        for notes in self._places():
            notes.pop(EVALUATING, None)
            if evaluating:
                notes[EVALUATING] = True

    def _places(self) -> list[dict[str, Any]]:
        """Where it is noted: of an optimizer its groups, which frameworks' stand-ins for it and wrappers share."""
        groups: list[dict[str, Any]] = getattr(self, "param_groups", None) or [vars(self)]
        return groups


@torch.inference_mode(False)
@torch.no_grad()
def exchange(a: Tensor, b: Tensor) -> None:
    """Exchange the values of two tensors of one dtype and sharding, by copies."""
    torch.clear_autocast_cache()  # within torch.autocast there may be copies of parameters
    a, b = local((a.detach(), b))
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)


def evaluation_weights(optimizer: Any) -> AbstractContextManager[None]:
    """``with evaluation_weights(optimizer): validate(model)``, whatever has weights of its own to evaluate.

    Lookahead's slow weights, Schedule-Free's x, the average of a
    :class:`~optzoo.optimizers.PolynomialDecayAverager`; out of wrappers such as Cautious, and of what
    ``accelerator.prepare``, Lightning's ``self.optimizers()`` and ``fabric.setup`` return. Optimizers of other packages
    that have ``eval()`` and ``train()``, as schedulefree's do, are switched. Within the block the parameters are those
    weights, after it the trained ones.

    Raises:
        TypeError: there are no such weights, the trained ones are all there is; :func:`has_evaluation_weights` asks.
        RuntimeError: within such a block.

    >>> from optzoo.optimizers import Lookahead
    >>> w = torch.nn.Parameter(torch.tensor([8.0]))
    >>> optimizer = Lookahead([w], torch.optim.SGD, lr=1.0, k=2)
    >>> w.grad = torch.ones(1)
    >>> optimizer.step()
    >>> with evaluation_weights(optimizer):
    ...     w.item()
    8.0
    >>> w.item()
    7.0
    """
    block = _block(optimizer)
    if block is None:
        raise TypeError(
            f"evaluation_weights: {type(unwrapped(optimizer)).__name__} has none to evaluate but those it trains; wrap "
            "it, Lookahead(optimizer), or average them, PolynomialDecayAverager(model.named_parameters())"
        )
    return block()


def has_evaluation_weights(optimizer: Any) -> bool:
    """Whether :func:`evaluation_weights` finds any."""
    return _block(optimizer) is not None


def holder(optimizer: Any) -> Any:
    """What has the weights to evaluate, if anything has, out of frameworks' and other wrappers."""
    inner = unwrapped(optimizer)
    while not isinstance(inner, EvaluationWeights) and hasattr(inner, "base_optimizer"):
        inner = unwrapped(inner.base_optimizer)
    return inner


def _block(optimizer: Any) -> Callable[[], AbstractContextManager[None]] | None:
    inner = holder(optimizer)
    own: Any = getattr(inner, "evaluation_weights", None)
    if callable(own):
        return own  # type: ignore[no-any-return]
    modes = [getattr(inner, name, None) for name in ("eval", "train")]
    return partial(_modes, *modes) if all(map(callable, modes)) else None


@contextmanager
def _modes(evaluate: Any, train: Any) -> Iterator[None]:
    evaluate()
    try:
        yield
    finally:
        train()
