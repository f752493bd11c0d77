"""Memory a step needs beside parameters, gradients and state: growth of a fresh process' peak resident set, CPU.

python benchmarks/step_memory.py [adamw ademamix ...]
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch
from step_time import gpt_shapes, parameters

from optzoo.optimizers import create_optimizer, list_optimizers

TORCH = "torch.optim.AdamW(foreach=True)"


def peak_growth(name: str) -> float:
    """MiB by which the first steps of this process raise its peak; the state is made and touched before."""
    params = parameters(gpt_shapes(), "cpu")
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
        optimizer.init_state()
    for state in optimizer.state.values():
        for value in state.values():
            value.add_(0.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        optimizer.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(peak_growth(sys.argv[2]))
        return
    size = sum(torch.Size(shape).numel() for shape in gpt_shapes()) * 4 / 2**20
    print(f"peak memory of a step beside a model of {size:.0f} MiB, its gradients and the state, MiB")
    for name in [TORCH, *(sys.argv[1:] or list_optimizers())]:
        done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
        print(f"{name:36}{float(done.stdout):8.1f}")


if __name__ == "__main__":
    main()
