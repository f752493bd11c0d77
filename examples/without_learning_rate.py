"""Train without choosing a learning rate: DoG, evaluated on the average of its iterates, on scikit-learn's digits.

pip install 'optzoo[compare]'
python without_learning_rate.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from optzoo.optimizers import DoG, PolynomialDecayAverager

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)
order = torch.randperm(len(x))
train, test = order[:1437], order[1437:]

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = DoG(model.parameters())
averager = PolynomialDecayAverager(model.named_parameters())


def accuracy() -> float:
    return (model(x[test]).argmax(1) == y[test]).float().mean().item()


for step in range(1000):
    batch = train[torch.randint(len(train), (128,))]
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
    optimizer.step()
    averager.update()
    if step % 200 == 199:
        with averager.evaluation_weights():
            print(
                f"step {step + 1}: step size {optimizer.effective_lr()[0].item():.3f}, accuracy of the average "
                f"{accuracy():.3f}"
            )
