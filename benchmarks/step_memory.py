"""Memory a step needs beside parameters, gradients and state: growth of a fresh process' peak resident set, CPU.

python benchmarks/step_memory.py [--smallest] [adamw ademamix ...]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Sequence

import torch
from step_time import SMALLEST, gpt_shapes, parameters

from optzoo.optimizers import Optimizer, create_optimizer, list_optimizers
from optzoo.optimizers.core.closures import step_on_gradients
from optzoo.optimizers.core.wrapper import OptimizerWrapper

TORCH = "torch.optim.AdamW(foreach=True)"


def peak_growth(name: str, shapes: Sequence[tuple[int, ...]]) -> float:
    """MiB by which the first steps of this process raise its peak; the state is made and touched before."""
    params = parameters(shapes, "cpu")
    if name == TORCH:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(params, foreach=True)
        saved = optimizer.state_dict()
        moments = {"exp_avg": torch.zeros_like, "exp_avg_sq": torch.zeros_like}
        saved["state"] = {
            i: {"step": torch.tensor(1.0), **{key: make(p) for key, make in moments.items()}}
            for i, p in enumerate(params)
        }
        optimizer.load_state_dict(saved)
    else:
        optimizer = create_optimizer(name, params)
        if isinstance(optimizer, (Optimizer, OptimizerWrapper)):
            optimizer.init_state()
    for state in optimizer.state.values():
        for value in state.values():
            value.add_(0.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        step_on_gradients(optimizer)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optimizers", nargs="*", default=[TORCH, *list_optimizers()], help="default: all")
    parser.add_argument("--smallest", action="store_true", help="tiny tensors, to see that everything runs")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shapes = gpt_shapes(**SMALLEST) if arguments.smallest else gpt_shapes()
    if arguments.one:
        print(peak_growth(arguments.optimizers[0], shapes))
        return
    size = sum(torch.Size(shape).numel() for shape in shapes) * 4 / 2**20
    print(f"peak memory of a step beside a model of {size:.0f} MiB, its gradients and the state, MiB")
    again = [sys.executable, __file__, "--one", *(["--smallest"] if arguments.smallest else [])]
    for name in dict.fromkeys([TORCH, *arguments.optimizers]):
        done = subprocess.run([*again, name], stdout=subprocess.PIPE, text=True, check=True)
        print(f"{name:36}{float(done.stdout):8.1f}")


if __name__ == "__main__":
    main()
