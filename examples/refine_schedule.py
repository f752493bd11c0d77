"""Two runs: record the gradient norms of the first, refine its schedule, train again.

A fifth of the labels are wrong, so that gradient noise stays when the problem is solved.

pip install "optzoo[compare]"      (for scikit-learn's digits)
python refine_schedule.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from optzoo.schedulers import Schedule, Scheduler
from optzoo.schedulers.recorder import GradNormRecorder
from optzoo.schedulers.refine import refine

digits = load_digits()
images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
torch.manual_seed(0)
labels = torch.where(torch.rand(len(labels)) < 0.2, torch.randint(10, labels.shape), labels)
STEPS, LINEAR = 1000, Schedule(start=1).to(0)


def train(schedule, lr, batch_size, seed, record_to=None):
    """The training loss of softmax regression after 1000 steps of SGD."""
    torch.manual_seed(seed)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    scheduler = Scheduler(optimizer, schedule, STEPS)
    recorder = GradNormRecorder(optimizer)
    for step in range(STEPS):
        batch = torch.randint(len(images), (batch_size(step),))
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    if record_to:
        recorder.save(record_to)
    with torch.no_grad():
        return nn.functional.cross_entropy(model(images), labels).item()


def tuned(schedule, lrs, batch_size):
    """The best of some lrs by the mean loss of three seeds, and that loss."""
    losses = {lr: sum(train(schedule, lr, batch_size, seed) for seed in range(1, 4)) / 3 for lr in lrs}
    return min(losses.items(), key=lambda pair: pair[1])


def study(title, batch_size):
    lr, loss = tuned(LINEAR, (0.25, 0.5, 1, 2), batch_size)
    train(LINEAR, lr, batch_size, seed=0, record_to="norms.json")
    refined = refine("norms.json", kind="sgd")  # in a config: {"refined": "norms.json", "kind": "sgd"}
    predicted = lr * refined.predicted_lr_ratio
    _, again = tuned(refined.schedule, (predicted,), batch_size)
    print(
        f"{title}\n  linear decay  lr {lr:.2f}  loss {loss:.4f}\n  refined       lr {predicted:.2f}  loss {again:.4f}"
    )
    print(f"  advice before the second run: {refined.advice}")


study("32 images per step, 2 from step 600 on", lambda step: 32 if step < 600 else 2)
study("8 images per step", lambda step: 8)
