"""One schedule in a plain loop, continued with a longer total, with weight decay on a track of its own.

python schedules.py
"""

import torch

from optzoo.schedulers import WSD, Linear, Schedule

torch.manual_seed(0)
features = torch.randn(512, 16)
targets = features @ torch.randn(16, 1) + 0.1 * torch.randn(512, 1)


def make(total: int) -> tuple[torch.nn.Linear, torch.optim.Optimizer, WSD]:
    """Warm-up over 20 steps, constant, cooldown over the last fifth; weight decay goes down to nothing meanwhile."""
    model = torch.nn.Linear(16, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    decay = {"weight_decay": {"mode": "scale", "schedule": Schedule().to(0, total // 2).hold()}}
    return model, optimizer, WSD(optimizer, total, warmup=20, cooldown=0.2, shape="sqrt", tracks=decay)


def train(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, schedule: WSD, until: int) -> float:
    """Up to a step; returns the loss there."""
    while schedule.last_epoch < until:
        batch = torch.randint(512, (32,))
        loss = (model(features[batch]) - targets[batch]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float((model(features) - targets).square().mean())


print(WSD.schedule(warmup=20, shape="sqrt").preview(400, height=3))

model, optimizer, schedule = make(total=400)
train(model, optimizer, schedule, until=300)  # before the cooldown, which begins at 320
checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
torch.save(checkpoint, "checkpoint.pt")
print(f"total 400   loss {train(model, optimizer, schedule, until=400):.5f}   {schedule.get_last_values()}")

# Longer after all: the same file under a schedule with another total. The lr goes on without a jump; the weight decay,
# which would have ended earlier, does not, and a warning says so.
model, optimizer, schedule = make(total=800)
checkpoint = torch.load("checkpoint.pt", weights_only=True)
model.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
schedule.load_state_dict(checkpoint["schedule"])
print(f"total 800   loss {train(model, optimizer, schedule, until=800):.5f}   {schedule.get_last_values()}")

# Or let the optimizer count its own steps: then there is no schedule.step(), in no framework.
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
schedule_of_sgd = Linear(optimizer, total=100, warmup=0.1, clock="optimizer")
for _ in range(50):
    optimizer.step()
print(f"after 50 of 100 steps lr {optimizer.param_groups[0]['lr']:.6f}")
