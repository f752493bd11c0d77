"""How many calls of the device one step makes: what a step of many small tensors costs on a GPU.

    pip install -e .
    python benchmarks/launches.py [optimizer ...] [--tensors 200] [--size 64] [--calls] [--smallest]

Counted on the meta device, so that no GPU is needed, in the third step: operators that read or write tensors of it. A
foreach function is one, though torch goes tensor by tensor where its operands are numbers on the device. Views and
empty tensors are none. A number that the host reads from the device, which would make it wait, raises. --calls shows
which operators they are.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optzoo.optimizers import create_optimizer, list_optimizers, optimizer_info

STEP = 3


class Calls(TorchDispatchMode):
    """Counts operators on the meta device by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        name = func._schema.name.split("::")[-1]
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if any(t.is_meta for t in tensors) and not is_view and "empty" not in name and name != "_unsafe_view":
            self.counts[name] += 1
        return result


def calls(name: str, shapes: Sequence[tuple[int, ...]], **options: Any) -> Counter[str]:
    """The operators of one step of the optimizer ``name``, when it has its state: first steps are made on the CPU."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = create_optimizer(name, params, **options)
    for _ in range(STEP - 1):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
    twins = [nn.Parameter(p.detach().to("meta")) for p in params]
    twin = create_optimizer(name, twins, **options)
    twin.init_state()  # which shows what the host keeps, such as counts
    for p, meta in zip(params, twins, strict=True):
        for key, value in optimizer.state[p].items():
            optimizer.state[p][key] = value if twin.state[meta][key].device.type == "cpu" else value.to("meta")
        torch.utils.swap_tensors(p, meta)
        p.grad = torch.zeros_like(p)
    with Calls() as counted:
        optimizer.step()
    return counted.counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optimizers", nargs="*", help="names of optzoo; default all that take no closure")
    parser.add_argument("--tensors", type=int, default=200)
    parser.add_argument("--size", type=int, default=64, help="rows and columns of each")
    parser.add_argument("--calls", action="store_true", help="the operators beside their number")
    parser.add_argument("--smallest", action="store_true", help="three tensors of 4 × 4")
    args = parser.parse_args()
    tensors, size = (3, 4) if args.smallest else (args.tensors, args.size)
    print(f"{'optimizer':<12}{'calls':>7}   one step on {tensors} tensors of {size} × {size}")
    for name in args.optimizers or [name for name in list_optimizers() if not optimizer_info(name).closure]:
        counts = calls(name, [(size, size)] * tensors)
        shown = ", ".join(f"{count} {op}" for op, count in counts.most_common()) if args.calls else ""
        print(f"{name:<12}{counts.total():>7}   {shown}".rstrip())


if __name__ == "__main__":
    main()
