"""What an optimizer tells of its last step beside what it did to the parameters, for monitors to log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from .buckets import is_dtensor

Reported: TypeAlias = "float | Tensor | Mapping[Tensor, float | Tensor]"
"""One number, or one for each of some parameters. Tensors have one element; whoever reads them waits for the device."""


@runtime_checkable
class Reporter(Protocol):
    """The protocol of :mod:`optzoo.integrations`' monitors: any optimizer may have a method ``report``."""

    def report(self) -> Mapping[str, Reported]:
        """Numbers about the last step by name, the same on every rank, without waiting for the device.

        ``lr`` is what the step was in effect multiplied by, and is logged instead of the group's ``lr``.

        >>> import torch
        >>> class Momentum(torch.optim.SGD):
        ...     def report(self):
        ...         return {"velocity": {p: s["momentum_buffer"].norm() for p, s in self.state.items()}}
        >>> isinstance(Momentum([torch.zeros(1)], momentum=0.9), Reporter)
        True
        """
        ...


class Reporting:
    """An optimizer that can note numbers while it steps, which it does only when asked to: other steps are free.

    Notes are no state: checkpoints and copies come without them.
    """

    _notes: dict[str, dict[Tensor, float | Tensor]] | None = None

    def report(self) -> dict[str, Reported]:
        """Numbers about the last step by name, each for the whole or by parameter, for logging.

        What only the step itself knows is there where :meth:`record` was on. Tensors are not waited for.
        """
        return dict(self._notes or {})

    def record(self, on: bool = True) -> None:
        """Note in the steps to come what only they know; False forgets it and stops."""
        self._notes = {} if on else None

    @property
    def recording(self) -> bool:
        """Whether notes are kept: what takes work to know is not worked out else."""
        return self._notes is not None

    def note(self, name: str, params: Sequence[Tensor], values: float | Tensor) -> None:
        """Keep a number of this step if it is recorded: one of several parameters, or a vector with one for each."""
        if self._notes is None:
            return
        each = values.reshape(-1).expand(len(params)).unbind() if isinstance(values, Tensor) else [values] * len(params)
        self._notes.setdefault(name, {}).update(zip(params, each, strict=True))


def number(value: float | Tensor) -> Tensor:
    """A reported number as a plain tensor without dimensions, still on its device."""
    if not isinstance(value, Tensor):
        return torch.tensor(value, dtype=torch.float64, device="cpu")
    if value.numel() != 1:
        raise ValueError(f"report() has a tensor of shape {tuple(value.shape)}, where one number is expected")
    whole: Tensor = value.detach().full_tensor() if is_dtensor(value) else value.detach()  # type: ignore[attr-defined]
    return whole.reshape(())
