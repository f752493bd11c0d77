"""Train without a schedule: Schedule-Free AdamW on scikit-learn's digits, a network with batch norm, stopped anywhere.

pip install 'optzoo[compare]'
python schedule_free.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import update_bn

from optzoo.optimizers import ScheduleFreeAdamW

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)
order = torch.randperm(len(x))
train, test = order[:1437], order[1437:]

model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.01, warmup_steps=20)


def loss() -> float:
    """On the digits that are not trained on."""
    model.eval()
    with torch.no_grad():
        value = nn.functional.cross_entropy(model(x[test]), y[test]).item()
    model.train()
    return value


for step in range(400):
    batch = train[torch.randint(len(train), (128,))]
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
    optimizer.step()
    if step % 100 == 99:
        trained = loss()
        with optimizer.evaluation_weights():
            update_bn(x[train].split(128), model)  # the running statistics are of the trained weights
            print(f"step {step + 1}: loss {trained:.3f} where it trains, {loss():.3f} where it is evaluated")

with optimizer.evaluation_weights():
    update_bn(x[train].split(128), model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}  # the ones to save for use
print(f"{len(weights)} tensors to save")
