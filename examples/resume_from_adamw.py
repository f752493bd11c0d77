"""Switch to AdEMAMix in the middle of a torch.optim.AdamW run, from its checkpoint, without losing the moments.

python resume_from_adamw.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

from optzoo.optimizers import AdEMAMix, adopt


def regression(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 16, generator=generator)
    return x, (x @ torch.randn(16, 1, generator=torch.Generator().manual_seed(99))).tanh()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    for step in range(steps):
        x, y = regression(step)
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
print(f"AdamW,    300 steps: loss {train(model, adamw, 300):.4f}")

checkpoint = Path(tempfile.mkdtemp()) / "checkpoint.pt"
torch.save({"model": model.state_dict(), "optimizer": adamw.state_dict()}, checkpoint)

# Another day, another process:
saved = torch.load(checkpoint, weights_only=True)
model.load_state_dict(saved["model"])
optimizer = AdEMAMix(model.parameters(), lr=1e-3, betas=(0.9, 0.999, 0.999), alpha=2.0)
adopt(optimizer, saved["optimizer"])  # moments and step counts from the file, options as given here
print(f"AdEMAMix, 300 more:  loss {train(model, optimizer, 300):.4f}")
