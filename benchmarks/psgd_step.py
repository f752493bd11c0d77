"""Time and state of one PSGD step, against kron_torch, HeavyBall and AdamW in the same run.

    pip install kron_torch heavyball
    python benchmarks/psgd_step.py [--models mlp,gpt,cnn] [--compiled] [--rounds 7] [--json FILE] [--smallest]

All whiten a momentum of 0.9 in float32 with the same dense and diagonal factors: those of PSGD's max_size=8192 and
max_skew=1. Geometries: Q0.5EQ1.5 is PSGD's default and HeavyBall's PSGDPRO, EQ is kron_torch's. Of each a step that
updates the preconditioner and one that does not are timed; p=0.03 is their mean with that weight. "P kept" spends
memory on P beside Q. All run eagerly, whatever a peer compiles is switched off; or, with --compiled, as each compiles
itself: PSGD by fused=True, kron_torch as it is, HeavyBall with compile_mode="default" (its own, max-autotune, takes
many minutes on CPU). F is torch.optim.AdamW(fused=True). Rounds are interleaved, and medians count: on a shared machine
only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
from step_time import SMALLEST, gpt_shapes, parameters
from torch import Tensor
from torch.utils._pytree import tree_leaves

from optzoo.optimizers import AdamW
from optzoo.optimizers.psgd import PSGD
from optzoo.optimizers.psgd.factors import layout

WARM_UP = 2
PROBABILITY = 0.03  # what the schedules of all three end at
FACTORS: dict[str, Any] = {"max_size": 8192, "max_skew": 1.0, "merge_dims": None}
SETTINGS: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.0}


class How:
    """How a case runs. As an update probability it says yes or no: 1, or as good as 0, by which one may divide."""

    def __init__(self, compiled: bool) -> None:
        self.compiled, self.update = compiled, True

    def __call__(self, *_: Any) -> float:
        return 1.0 if self.update else 1e-9


Make: TypeAlias = Callable[[list[Tensor], How], torch.optim.Optimizer]


CHANNELS = (3, 32, 64, 64, 128, 128, 256)
MODELS: dict[str, list[tuple[int, ...]]] = {
    "mlp": [(1024, 1024), (1024,)] * 4,
    "gpt": gpt_shapes(vocabulary=12_000, width=384, layers=4, context=512),
    "cnn": [shape for i, o in pairwise(CHANNELS) for shape in ((o, i, 3, 3), (o,), (o,), (o,))] + [(10, 256), (10,)],
}


def groups(params: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Parameters by the mode of the peers that has the dense factors of ``FACTORS``; of vectors they make none."""
    modes: dict[str | None, list[Tensor]] = {}
    for p in params:
        diagonal = layout(p.shape, FACTORS).dense.count(False) if p.ndim > 1 else 0
        modes.setdefault({0: None, 1: "one_diag"}.get(diagonal, "all_diag"), []).append(p)
    return [{"params": own, "memory_save_mode": mode} for mode, own in modes.items()]


def psgd(params: list[Tensor], how: How, keep: bool = False, **options: Any) -> torch.optim.Optimizer:
    fixed = {"precond_update_probability": how, "cache_preconditioner": keep, "fused": how.compiled or None}
    return PSGD(params, **fixed, **options, **FACTORS, **SETTINGS)


def kron_torch(params: list[Tensor], how: How) -> Any:
    """It would merge dimensions, by a rule of its own."""
    options = {"preconditioner_update_probability": how, "merge_dims": False, "max_size_triangular": 8192}
    return importlib.import_module("kron_torch").Kron(groups(params), **options, **SETTINGS)


def heavyball(params: list[Tensor], how: How, keep: bool = False) -> Any:
    """``precond_init_scale``: as the others, rather than from the gradient."""
    module = importlib.import_module("heavyball")
    module.utils.compile_mode = "default" if how.compiled else None
    options = {"preconditioner_update_probability": how, "max_size_triangular": 8192, "precond_init_scale": 1.0}
    return module.PSGDPRO(groups(params), beta=0.9, cached=keep, **options, **SETTINGS)


CASES: dict[str, tuple[Make, str | None]] = {
    "torch AdamW fused": (lambda params, _: torch.optim.AdamW(params, fused=True, **SETTINGS), None),
    "AdamW": (lambda params, _: AdamW(params, **SETTINGS), None),
    "PSGD": (psgd, None),
    "PSGD, P kept": (partial(psgd, keep=True), None),
    "PSGD, bf16, P kept": (partial(psgd, keep=True, precond_dtype="bfloat16"), None),
    "PSGD EQ": (partial(psgd, geometry="EQ"), None),
    "kron_torch Kron": (kron_torch, "kron_torch"),
    "HeavyBall PSGDPRO": (heavyball, "heavyball"),
    "HeavyBall, P kept": (partial(heavyball, keep=True), "heavyball"),
}
"""What is timed, and the package it comes from. Momentum is 0.9 by default in PSGD and kron_torch."""


class Case:
    """An optimizer with parameters of its own: whoever flattens or swaps them would change the others' step."""

    def __init__(self, make: Make, shapes: Sequence[tuple[int, ...]], compiled: bool) -> None:
        self.params, self.how = parameters(shapes, "cpu"), How(compiled)
        self.grads = [p.grad for p in self.params]
        self.optimizer = make(self.params, self.how)

    def seconds(self, update: bool) -> float:
        """Of one step, with an update of the preconditioner or without."""
        self.how.update = update
        for p, grad in zip(self.params, self.grads, strict=True):
            p.grad = grad  # which HeavyBall takes away in its step
        start = time.perf_counter()
        self.optimizer.step()
        return time.perf_counter() - start

    def state_bytes(self) -> int:
        """Bytes of memory behind the state; views of one tensor count once."""
        storages = [t.untyped_storage() for t in tree_leaves(dict(self.optimizer.state)) if isinstance(t, Tensor)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def measure(
    shapes: Sequence[tuple[int, ...]], names: Iterable[str], rounds: int, compiled: bool
) -> list[dict[str, Any]]:
    cases = {name: Case(CASES[name][0], shapes, compiled) for name in names}
    times: dict[tuple[str, bool], list[float]] = {(name, update): [] for name in cases for update in (True, False)}
    for i in range(WARM_UP + rounds):
        for (name, update), samples in times.items():
            with contextlib.redirect_stdout(io.StringIO()):  # kron_torch tells its sizes in its first step
                elapsed = cases[name].seconds(update)
            if i >= WARM_UP:
                samples.append(elapsed)
    median = {key: statistics.median(samples) for key, samples in times.items()}
    quartiles = {key: statistics.quantiles(samples, n=4) for key, samples in times.items()}
    unit = min(median["torch AdamW fused", True], median["torch AdamW fused", False])
    rows = []
    for name, case in cases.items():
        row: dict[str, Any] = {"case": name, "state_bytes": case.state_bytes()}
        for kind, key in (("update", (name, True)), ("plain", (name, False))):
            row[f"{kind}_ms"] = median[key] * 1e3
            row[f"{kind}_spread"] = (quartiles[key][2] - quartiles[key][0]) / median[key]
        mean = PROBABILITY * median[name, True] + (1 - PROBABILITY) * median[name, False]
        rows.append({**row, "p1_F": median[name, True] / unit, "p003_F": mean / unit})
    return rows


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{title}\n{'case':20}{'update ms':>11}{'spread':>8}{'plain ms':>10}{'spread':>8}", end="")
    print(f"{'p=1, F':>9}{'p=.03, F':>10}{'p=1, PSGD':>11}{'p=.03, PSGD':>13}{'state MiB':>11}")
    own = next(row for row in rows if row["case"] == "PSGD")
    for row in rows:
        print(
            f"{row['case']:20}{row['update_ms']:11.2f}{row['update_spread']:8.0%}{row['plain_ms']:10.2f}"
            f"{row['plain_spread']:8.0%}{row['p1_F']:9.1f}{row['p003_F']:10.2f}{row['p1_F'] / own['p1_F']:11.2f}"
            f"{row['p003_F'] / own['p003_F']:13.2f}{row['state_bytes'] / 2**20:11.1f}"
        )


def available() -> tuple[list[str], dict[str, str]]:
    names, versions = [], {}
    for name, (_, package) in CASES.items():
        try:
            if package is not None:
                versions[package] = version(package)
                importlib.import_module(package)
            names.append(name)
        except (PackageNotFoundError, ImportError) as error:
            print(f"{name} is left out: pip install {package} ({error})")
    return names, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="models, comma-separated (default all)")
    parser.add_argument("--compiled", action="store_true", help="let each optimizer compile itself")
    parser.add_argument("--rounds", type=int, default=7, help="steps per case and kind that count (default 7)")
    parser.add_argument("--json", type=Path, help="also write everything here")
    parser.add_argument("--smallest", action="store_true", help="a tiny model, to see that everything runs")
    arguments = parser.parse_args()
    if not arguments.compiled:
        torch.compiler.set_stance("force_eager")
    names, versions = available()
    print(
        "each compiled as it compiles itself;" if arguments.compiled else "all eager, nothing compiled;",
        ", ".join(f"{name} {number}" for name, number in versions.items()),
    )
    results = {}
    models = {"smallest": gpt_shapes(**SMALLEST)} if arguments.smallest else MODELS
    for model in models if arguments.smallest else arguments.models.split(","):
        shapes = models[model]
        results[model] = measure(shapes, names, arguments.rounds, arguments.compiled)
        count = sum(torch.Size(shape).numel() for shape in shapes)
        show(f"{model}: {count / 1e6:.1f} M parameters in {len(shapes)} tensors", results[model])
    if arguments.json:
        versions |= {"torch": torch.__version__, "python": platform.python_version()}
        machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        record = {
            "compiled": arguments.compiled,
            "date": date.today().isoformat(),
            "versions": versions,
            **machine,
            "results": results,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
