"""Watch in TensorBoard how far each step of two optimizers moves every parameter, from a training loop of one's own.

pip install 'optzoo[tensorboard]', run this, then the command it prints.
"""

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from optzoo.integrations.tensorboard import log_update_norms
from optzoo.optimizers import create_optimizer

STEPS, WARMUP = 800, 80

torch.manual_seed(0)
arm = torch.randint(0, 2, (8192,))
angle = 6 * torch.rand(8192)
turned = angle + arm * torch.pi
points = (angle / 6)[:, None] * torch.stack([turned.cos(), turned.sin()], 1) + 0.03 * torch.randn(8192, 2)

for name in ("adamw", "cadamw"):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    optimizer = create_optimizer(name, model, lr=5e-3, weight_decay=0.01)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=WARMUP)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - WARMUP)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [WARMUP])
    with SummaryWriter(f"runs/{name}") as writer:
        norms = log_update_norms(optimizer, writer, every_n_steps=5, names=model)
        for step in range(1, STEPS + 1):
            batch = torch.randint(0, len(points), (256,))
            loss = nn.functional.cross_entropy(model(points[batch]), arm[batch])
            optimizer.zero_grad()
            loss.backward()
            norms.before_clipping()  # for grad_norm; what the step sees is grad_norm_clipped
            nn.utils.clip_grad_norm_(model.parameters(), 0.2)
            optimizer.step()
            schedule.step()
            if step % 5 == 0:
                writer.add_scalar("loss", loss, step)
    print(f"{name:6}  loss {loss:.4f}")

print("now: tensorboard --logdir runs, and open http://localhost:6006")
