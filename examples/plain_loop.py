"""A training loop on real data; changing the optimizer is changing one line.

pip install "optzoo[compare]"      (for scikit-learn's digits)
python plain_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from optzoo.optimizers import CAdamW

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
train, test = slice(0, 1437), slice(1437, None)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = CAdamW(model.parameters(), lr=1e-2)  # was: torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=300)

for step in range(1, 301):
    batch = torch.randint(1437, (128,))
    loss = nn.functional.cross_entropy(model(images[train][batch]), labels[train][batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 50 == 0:
        with torch.no_grad():
            accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean()
        print(f"step {step:3}  loss {loss.item():.4f}  test accuracy {accuracy:.3f}")
