"""Cautious AdamW and Cautious Lion: optimizers whose ``cautious`` option is on by default."""

from __future__ import annotations

from .adam import AdamW
from .lion import Lion


class CAdamW(AdamW):
    """C-AdamW: Cautious Optimizers: Improving Training with One Line of Code (Liang et al., 2024, arXiv:2411.16085).

        θ ← (1 - lr λ) θ - lr · s · φ·u,    u = m̂ / (√v̂ + eps),    φ = 1 where u·g > 0, else 0

    AdamW that leaves out the coordinates whose update disagrees with the gradient's sign and scales the rest up by
    s = 1 / max(n/d, 1e-3), n of a tensor's d coordinates being kept. The paper prints three different s; this is the
    one of the authors' code since January 2025 and of timm, ``cautious_scale="xi"`` is the one of its equation 1.
    Weight decay comes first and is neither masked nor scaled, as in the authors' code. The moments are AdamW's: it
    resumes AdamW runs.

    When: wherever AdamW works; try it at AdamW's settings. Leave it off (per group, ``cautious=False``) for embeddings
        with
    rare rows: coordinates without gradient count as disagreeing, so the few that have one are scaled up.

    State: 8 bytes per parameter (``exp_avg``, ``exp_avg_sq``) and 4 per tensor (``step``).

    Arguments, defaults and errors are :class:`AdamW`'s, but for ``cautious=True``.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = CAdamW(model.parameters(), lr=1e-3)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    presets = {"cautious": True}


class CLion(Lion):
    """C-Lion: Cautious Optimizers: Improving Training with One Line of Code (Liang et al., 2024, arXiv:2411.16085).

        θ ← (1 - lr λ) θ - lr · s · φ·u,    u = sign(β1 m + (1-β1) g),    φ = 1 where u·g > 0, else 0

    :class:`Lion` with the mask and scale of :class:`CAdamW`: s = 1 / max(n/d, 1e-3), n of a tensor's d coordinates
    being kept. The authors' c_lion.py uses ``cautious_scale="xi"``, d/(n+1), which halves the step of a scalar
    parameter.

    When: wherever Lion works. State: 4 bytes per parameter (``exp_avg``) and 4 per tensor (``step``).

    Arguments, defaults and errors are :class:`Lion`'s, but for ``cautious=True``.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = CLion(model.parameters(), lr=1e-4)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    """

    presets = {"cautious": True}
