"""Newton's method without a Hessian: the rank-5 decomposition of an 8 x 10 x 12 tensor, by PSGD and by Adam.

PSGDDense fits one dense preconditioner to all 150 parameters, PSGDLRA one of rank 10, both to products of the Hessian
with random vectors: their closure returns the loss and does not call backward().

python psgd_tensor_decomposition.py
"""

import torch

from optzoo.optimizers import PSGDLRA, Adam, PSGDDense

torch.set_num_threads(1)  # on tensors this small the fastest
RANK, SHAPE, STEPS, TARGET = 5, (8, 10, 12), 1000, 1e-6


def factors(seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(RANK, n, generator=generator)) for n in SHAPE]


def product(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ri,rj,rk->ijk", x, y, z)


def steps_to_target(optimizer: torch.optim.Optimizer, parts: list[torch.nn.Parameter], tensor: torch.Tensor) -> str:
    start = (product(*parts) - tensor).square().mean().item()

    def closure() -> torch.Tensor:
        loss = (product(*parts) - tensor).square().mean()
        if isinstance(optimizer, Adam):
            optimizer.zero_grad()
            loss.backward()
        return loss

    for step in range(1, STEPS + 1):
        if optimizer.step(closure).item() < TARGET * start:
            return f"{step} steps"
    return f"not in {STEPS} steps"


for seed in range(3):
    with torch.no_grad():
        tensor = product(*factors(100 + seed))
    for name, make in {
        "PSGDDense": lambda params: PSGDDense(params, lr=1.0, lr_preconditioner=0.5),
        "PSGDLRA": lambda params: PSGDLRA(params, lr=0.5, lr_preconditioner=0.2, hessian="exact", clip=None),
        "Adam": lambda params: Adam(params, lr=1e-2),
    }.items():
        parts = factors(seed)
        print(f"seed {seed}: {name:9} {steps_to_target(make(parts), parts, tensor)}")
