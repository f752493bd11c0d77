"""Long memory in a plain RNN: the exclusive or of two marked bits of a sequence, by PSGD and by AdamW.

python psgd_delayed_xor.py [length]     (default 16; at 32 AdamW often does not get there at all)
"""

import sys

import torch
from torch import nn

from optzoo.optimizers import PSGD, AdamW

torch.set_num_threads(1)  # on tensors this small the fastest
LENGTH = int(sys.argv[1]) if len(sys.argv) > 1 else 16
HIDDEN, BATCH, STEPS, SOLVED = 30, 128, 3000, 0.1


def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random bits of ±1, of which a second channel marks two, one at the beginning and one in the first half."""
    x = torch.randint(2, (BATCH, LENGTH), generator=generator) * 2.0 - 1
    first = torch.randint(max(1, LENGTH // 10), (BATCH,), generator=generator)
    second = torch.randint(max(1, LENGTH // 10), LENGTH // 2, (BATCH,), generator=generator)
    rows = torch.arange(BATCH)
    marks = torch.zeros(BATCH, LENGTH)
    marks[rows, first] = marks[rows, second] = 1
    return torch.stack([x, marks], dim=2), x[rows, first] * x[rows, second]


class Network(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        recurrent, _ = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=generator))
        inputs = 0.1 * torch.randn(HIDDEN, 3, generator=generator)
        self.step = nn.Parameter(torch.cat([recurrent, inputs], dim=1))  # one matrix: state, two channels, bias
        self.read = nn.Parameter(0.1 * torch.randn(1, HIDDEN + 1, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = x.new_ones(len(x), 1)
        state = x.new_zeros(len(x), HIDDEN)
        for t in range(x.shape[1]):
            state = torch.tanh(torch.cat([state, x[:, t], one], dim=1) @ self.step.T)
        return (torch.cat([state, one], dim=1) @ self.read.T).squeeze(1)


def steps_to_solve(make: type[torch.optim.Optimizer], seed: int, **options: object) -> str:
    network, generator = Network(seed), torch.Generator().manual_seed(seed)
    optimizer = make(network.parameters(), **options)
    for step in range(1, STEPS + 1):
        x, y = batch(generator)
        loss = nn.functional.softplus(-y * network(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < SOLVED:
            return f"{step} steps"
    return f"not in {STEPS} steps"


print("PSGD ", steps_to_solve(PSGD, seed=0, lr=1e-3, whiten="grad", precond_update_probability=1.0))
print("AdamW", steps_to_solve(AdamW, seed=0, lr=1e-3, weight_decay=0.0))
