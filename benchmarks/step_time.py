"""Time of one optimizer step, in multiples of the memory-traffic floor, against torch in the same run.

    python benchmarks/step_time.py [--json FILE] [--rounds 9] [--only adamw,lion] [--device cuda] [--smallest]

F is torch.optim.AdamW(fused=True) on the same tensors, which moves 7 floats per parameter: read p, g, m, v, write p,
m, v. An optimizer that must move n floats has the floor n/7 F; one that arithmetic binds, such as PSGD, has none, and
so has a plugin. Every case steps once per round, rounds are interleaved, and the median over the rounds counts: on a
shared machine only ratios within one run mean anything. Left out, unless asked for, are optimizers that evaluate a
closure or keep more than 16 bytes per parameter.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optzoo.optimizers import create_optimizer, list_optimizers, optimizer_info
from optzoo.optimizers.core.closures import step_on_gradients

OPTIONS = {"lookahead": {"k": 1}}
"""Options other than the defaults: with k=1 every step has Lookahead's sync, which reads and writes p and slow."""


def gpt_shapes(
    vocabulary: int = 20_000, width: int = 768, layers: int = 6, context: int = 1024
) -> list[tuple[int, ...]]:
    """Parameter shapes of a GPT-2-like model; by default 58.7 M parameters in 76 tensors."""
    norm = [(width,), (width,)]
    attention = [(3 * width, width), (3 * width,), (width, width), (width,)]
    feedforward = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(vocabulary, width), (context, width), *(norm + attention + norm + feedforward) * layers, *norm]


SMALL_SHAPES = [(64, 64)] * 200
SMALLEST = {"vocabulary": 64, "width": 32, "layers": 1, "context": 32}
"""Of a model that shows that everything runs; times of it mean nothing."""


def parameters(shapes: Sequence[tuple[int, ...]], device: str) -> list[Tensor]:
    """Parameters with gradients, the same for every optimizer."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for shape in shapes:
        p = torch.nn.Parameter((torch.randn(shape, generator=generator) * 0.02).to(device))
        p.grad = (torch.randn(shape, generator=generator) * 0.01).to(device)
        result.append(p)
    return result


Cases: TypeAlias = dict[str, tuple[Callable[[list[Tensor]], Any], float | None]]


def cases(only: Sequence[str]) -> Cases:
    """Name, how to make the optimizer, and the floats of its floor."""
    result: Cases = {
        "torch AdamW fused": (lambda p: torch.optim.AdamW(p, fused=True), 7),
        "torch AdamW foreach": (lambda p: torch.optim.AdamW(p, foreach=True), 7),
        "torch AdamW loop": (lambda p: torch.optim.AdamW(p, foreach=False), 7),
        "torch Adafactor": (torch.optim.Adafactor, 6),
    }
    for name in only:
        floats = optimizer_info(name).floats
        modes: dict[str, dict[str, Any]] = {"default": {}}
        if "fused" in optimizer_info(name).defaults:
            modes["fused"] = {"fused": True}
        for mode, options in modes.items():
            options = {**options, **OPTIONS.get(name, {})}
            result[f"{name} {mode}"] = (lambda p, n=name, o=options: create_optimizer(n, p, **o), floats)
    return result


def timed() -> list[str]:
    """Those whose step needs no closure, and whose state fits into memory beside that of all others."""
    infos = map(optimizer_info, list_optimizers())
    return [info.name for info in infos if not info.closure and (info.state_bytes or 0) <= 16]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(
    shapes: Sequence[tuple[int, ...]],
    make: Cases,
    device: str,
    rounds: int,
) -> list[dict[str, Any]]:
    """Seconds per step of every case: one set of parameters for all, a state of its own for each."""
    params = parameters(shapes, device)
    optimizers = {name: factory(params) for name, (factory, _) in make.items()}
    for optimizer in optimizers.values():
        for _ in range(3):
            step_on_gradients(optimizer)
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            synchronize(device)
            start = time.perf_counter()
            step_on_gradients(optimizer)
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    unit = statistics.median(seconds["torch AdamW fused"])
    rows = []
    for name, times in seconds.items():
        quartiles = statistics.quantiles(times, n=4)
        floats = make[name][1]
        rows.append(
            {
                "case": name,
                "milliseconds": statistics.median(times) * 1e3,
                "times_F": statistics.median(times) / unit,
                "floor_F": floats and floats / 7,
                "times_floor": floats and statistics.median(times) / (unit * floats / 7),
                "spread": (quartiles[2] - quartiles[0]) / statistics.median(times),
            }
        )
    return rows


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{title}\n{'case':24}{'ms':>9}{'x F':>8}{'floor':>8}{'x floor':>9}{'spread':>8}")
    for row in rows:
        print(
            f"{row['case']:24}{row['milliseconds']:9.2f}{row['times_F']:8.2f}{number(row['floor_F']):>8}"
            f"{number(row['times_floor']):>9}{row['spread']:8.0%}"
        )


def number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write everything here")
    parser.add_argument("--rounds", type=int, default=9, help="steps per case that count (default 9)")
    parser.add_argument("--only", default=",".join(timed()), help="optimizers, comma-separated")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--smallest", action="store_true", help="tiny tensors, to see that everything runs")
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    shapes = gpt_shapes(**SMALLEST) if arguments.smallest else gpt_shapes()
    models = {f"{sum(torch.Size(s).numel() for s in shapes) / 1e6:.1f} M parameters in {len(shapes)} tensors": shapes}
    if not arguments.smallest:
        models["200 tensors of 64 x 64"] = SMALL_SHAPES
    results = {}
    for title, model in models.items():
        results[title] = measure(model, cases(only), arguments.device, arguments.rounds)
        show(title, results[title])
    if arguments.json:
        machine = (
            torch.cuda.get_device_name() if arguments.device == "cuda" else platform.processor() or platform.machine()
        )
        record = {
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": machine,
            "threads": torch.get_num_threads(),
            "results": results,
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
