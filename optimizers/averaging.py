"""Polynomial-decay averages of the parameters: what DoG is evaluated on, and any optimizer may be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .core.evaluation import EvaluationWeights
from .core.first_step import in_modules
from .core.options import NON_NEGATIVE

Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]  # what AveragedModel and torch._foreach_* take


def polynomial_decay_avg_fn(gamma: float = 8.0) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The ``avg_fn`` of ``torch.optim.swa_utils.AveragedModel`` for :class:`PolynomialDecayAverager`'s average.

    AveragedModel keeps the model's precision: in bfloat16 the average stops moving where w_t < 2⁻⁸, after about 2300
    steps. There take the class. With ``use_buffers=True`` running statistics are averaged too and integer buffers, such
    as BatchNorm's ``num_batches_tracked``, copied; without it AveragedModel copies all buffers, which fit the present
    parameters rather than their average: call ``torch.optim.swa_utils.update_bn`` before evaluating.

    Args:
        gamma: γ >= 0, see :class:`PolynomialDecayAverager`. Default 8, the DoG paper's.

    Raises:
        ValueError: gamma is not a finite number >= 0.

    >>> from torch.optim.swa_utils import AveragedModel
    >>> model = torch.nn.Linear(1, 1)
    >>> averaged = AveragedModel(model, avg_fn=polynomial_decay_avg_fn(), use_buffers=True)
    >>> for value in (0.0, 1.0):
    ...     _ = model.weight.data.fill_(value)
    ...     averaged.update_parameters(model)
    >>> averaged.module.weight.data  # w_2 = 9/10
    tensor([[0.9000]])
    """
    _check_gamma("polynomial_decay_avg_fn", gamma)
    return partial(_average, gamma=gamma)


def polynomial_decay_multi_avg_fn(gamma: float = 8.0) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """The ``multi_avg_fn`` of ``AveragedModel``: :func:`polynomial_decay_avg_fn` in place, over many tensors at once.

    Args:
        gamma: γ >= 0, see :class:`PolynomialDecayAverager`. Default 8, the DoG paper's.

    Raises:
        ValueError: gamma is not a finite number >= 0.

    >>> averages, parameters = [torch.zeros(2), torch.zeros(3)], [torch.ones(2), torch.ones(3)]
    >>> polynomial_decay_multi_avg_fn(gamma=0.0)(averages, parameters, 1); averages
    [tensor([0.5000, 0.5000]), tensor([0.5000, 0.5000, 0.5000])]
    """
    _check_gamma("polynomial_decay_multi_avg_fn", gamma)
    return partial(_average_all, gamma=gamma)


class PolynomialDecayAverager(EvaluationWeights):
    """Polynomial-decay averaging (Shamir & Zhang, 2013, arXiv:1212.1824), in float32 or better.

        x̄_t = (1 - w_t) x̄_{t-1} + w_t x_t,    w_t = (1+γ) / (t+γ),    t = 1, 2, …

    x_t gets a weight proportional to about t^γ: the average spans the last 1/(1+γ) or so of the run, however long it
    is. γ = 0 is the plain mean.

    When: with :class:`DoG`, whose step size does not decay: "DoG is SGD's Best Friend" (Ivgi, Hinder & Carmon, 2023,
    arXiv:2302.12022) evaluates this average. Instead of decaying the lr, with any optimizer. Buffers, such as
    BatchNorm's statistics, are not averaged: call ``torch.optim.swa_utils.update_bn`` inside
    ``evaluation_weights()``, or let ``AveragedModel`` average them, see :func:`polynomial_decay_avg_fn`.

    State: 4 bytes per parameter, 8 for float64; ``evaluation_weights()`` keeps a copy of the parameters beside it.

    Args:
        params: tensors or (name, tensor) pairs, such as ``model.named_parameters()``, on the device they train on.
            Names are for messages and checkpoints; without them it is the position.
        gamma: γ >= 0; larger forgets sooner. Default 8, the DoG paper's.
        dtype: least precision of the averages, a floating-point dtype; parameters of more keep theirs. Default
            ``torch.float32``: averages in bfloat16 stop moving after about 2300 steps.

    Raises:
        ValueError: gamma or dtype is not as above, params is empty, two have one name, or one is not floating-point.
        TypeError: params are neither tensors nor pairs.

    >>> w = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD([w], lr=1.0)
    >>> averager = PolynomialDecayAverager([w])
    >>> for _ in range(3):
    ...     w.grad = -torch.ones(1)
    ...     optimizer.step()
    ...     averager.update()
    >>> with averager.evaluation_weights():  # x̄ = 2/11 · (1/10 · 1 + 9/10 · 2) + 9/11 · 3
    ...     w.data
    tensor([2.8000])
    >>> w.data
    tensor([3.])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
        gamma: float = 8.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        owner = type(self).__name__
        _check_gamma(owner, gamma)
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"{owner}: dtype must be a floating-point dtype such as torch.float32, got {dtype!r}")
        self.gamma = gamma
        self._params = _named(owner, params)
        self._averages = {
            name: p.detach().to(torch.promote_types(p.dtype, dtype), copy=True) for name, p in self._params.items()
        }
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the present parameters into the average: call it after every step of the optimizer."""
        self.check("update()")
        if not self._steps:
            self._look_for_replaced_parameters()
        self._steps += 1
        w = (1 + self.gamma) / (self._steps + self.gamma)
        for name, average in self._averages.items():
            p = self._params[name]
            if w == 1:  # whatever the average was before, even if it was nan
                average.copy_(p)
            else:
                average.lerp_(p.to(average.dtype), w)

    def evaluated(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The parameters with copies of their averages; before the first ``update()`` of themselves."""
        for name, average in self._averages.items():
            p = self._params[name]
            yield p, (average if self._steps else p.detach()).to(p.dtype, copy=True)

    def averaged_parameters(self) -> AbstractContextManager[None]:
        """The older name of ``evaluation_weights()``: the parameters are their averages, rounded to their dtype.

        After the block they are what they were before it, bit for bit, also if it raises; what it writes into them is
        lost. Before the first ``update()`` the parameters stay as they are.

        Raises RuntimeError when nested, and for ``update()``, ``reset()`` and ``load_state_dict()`` inside.
        """
        return self.evaluation_weights()

    def reset(self) -> None:
        """Forget the past: the next ``update()`` is the first."""
        self.check("reset()")
        self._steps = 0
        _copy(self._params, self._averages)

    def state_dict(self) -> dict[str, Any]:
        """``step``, ``gamma`` and the ``averages`` by name; loads with ``weights_only=True``."""
        return {"step": self._steps, "gamma": self.gamma, "averages": dict(self._averages)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue, bit for bit, from what ``state_dict()`` returned, with its gamma; dtype and device stay as here.

        Raises ValueError, and leaves everything as it is, where names or shapes do not fit.
        """
        self.check("load_state_dict()")
        owner = type(self).__name__
        if missing := {"step", "gamma", "averages"} - state_dict.keys():
            raise ValueError(
                f"{owner}.load_state_dict takes what its state_dict() returned; this has no {sorted(missing)[0]!r}"
            )
        _check_gamma(owner, state_dict["gamma"])
        saved = state_dict["averages"]
        if differing := sorted(saved.keys() ^ self._averages.keys()):
            here, there = ("none", "one") if differing[0] in saved else ("one", "none")
            raise ValueError(
                f"{owner}: the checkpoint has {there} of parameter {differing[0]!r} and there is {here} here; pass the "
                "parameters it was saved with, under the same names"
            )
        for name, average in self._averages.items():
            if saved[name].shape != average.shape:
                raise ValueError(
                    f"{owner}: the average of parameter {name!r} has shape {tuple(saved[name].shape)} in the "
                    f"checkpoint, the parameter has {tuple(average.shape)}"
                )
        loaded = {name: torch.empty_like(average) for name, average in self._averages.items()}
        _copy(saved, loaded)
        self._averages, self._steps, self.gamma = loaded, int(state_dict["step"]), state_dict["gamma"]

    def _look_for_replaced_parameters(self) -> None:
        pairs = [(self._params[name], average) for name, average in self._averages.items()]
        if all(torch.equal(p.to(a.dtype), a) for p, a in pairs) and not in_modules(self._params.values()):
            warnings.warn(
                f"{type(self).__name__}: no parameter has moved before the first update(), and no module has these "
                "parameters, so their average is that of a model that is not trained. fully_shard, for one, gives a "
                "model new parameters: make the averager after it, of model.parameters()",
                stacklevel=2,
            )


def _average(average: Tensor, current: Tensor, count: Tensor | int, *, gamma: float) -> Tensor:
    if not _is_inexact(average):
        return current
    return torch.lerp(average, current, _weight(count, gamma, average))


@torch.no_grad()
def _average_all(averages: Tensors, currents: Tensors, count: Tensor | int, *, gamma: float) -> None:
    """Tensors of one dtype and device, as AveragedModel groups them."""
    if _is_inexact(averages[0]):
        torch._foreach_lerp_(averages, currents, [_weight(count, gamma, averages[0])] * len(averages))
        return
    for average, current in zip(averages, currents, strict=True):
        average.copy_(current)


def _weight(count: Tensor | int, gamma: float, like: Tensor) -> Tensor:
    """w_t with t = count + 1, since AveragedModel copies the first parameters by itself.

    A tensor, because the count may be on the device, where reading it would make the host wait.
    """
    precision = torch.float64 if like.dtype in (torch.float64, torch.complex128) else torch.float32
    t = torch.as_tensor(count, dtype=precision, device=like.device) + 1
    return ((1 + gamma) / (t + gamma)).to(like.dtype)


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


@torch.no_grad()
def _copy(sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        target.copy_(sources[name])


def _check_gamma(owner: str, gamma: object) -> None:
    if not NON_NEGATIVE.holds(gamma):
        raise ValueError(f"{owner}: gamma must be {NON_NEGATIVE.wording}, got {gamma!r}")


def _named(owner: str, params: Iterable[Any]) -> dict[str, Tensor]:
    """The parameters by name, or by position where they have none."""
    if isinstance(params, (Tensor, torch.nn.Module)):
        raise TypeError(
            f"{owner}: params must be an iterable of tensors or (name, tensor) pairs, such as "
            f"model.named_parameters(), got one {type(params).__name__}"
        )
    named: dict[str, Tensor] = {}
    for position, entry in enumerate(params):
        name, tensor = entry if isinstance(entry, tuple) and len(entry) == 2 else (str(position), entry)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{owner}: params must be tensors or (name, tensor) pairs, got {type(tensor).__name__}")
        if name in named:
            raise ValueError(f"{owner}: two parameters are called {name!r}; give each a name of its own")
        if not _is_inexact(tensor):
            raise ValueError(f"{owner}: parameter {name!r} is {tensor.dtype}, which has no averages; leave it out")
        named[name] = tensor
    if not named:
        raise ValueError(f"{owner}: params is empty; the model has none, or the iterator was read before")
    return named
