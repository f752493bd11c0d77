"""Lightning without its command line: optimizer, groups, schedule and slow weights in a LightningModule of one's own.

pip install "optzoo[lightning,compare]"
python lightning_module.py
"""

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from optzoo.integrations.lightning import SlowWeightsCallback
from optzoo.optimizers import CAdamW, Lookahead, param_groups
from optzoo.schedulers import WSD


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10))

    def configure_optimizers(self) -> dict:
        groups = param_groups(self, weight_decay=0.1)  # biases and norms do not decay
        optimizer = Lookahead(groups, CAdamW, lr=1e-2)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = WSD(optimizer, total=steps, warmup=0.05, cooldown=0.3)
        return {"optimizer": optimizer, "lr_scheduler": schedule.lightning()}  # which steps it every batch

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean())


lightning.seed_everything(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
train, test = torch.utils.data.Subset(data, range(1437)), torch.utils.data.Subset(data, range(1437, 1797))

trainer = lightning.Trainer(
    max_epochs=10,
    accelerator="cpu",
    callbacks=[SlowWeightsCallback()],  # validation and checkpoints are of the slow weights
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Digits(), DataLoader(train, 128, shuffle=True), DataLoader(test, 360))
print(f"test accuracy {trainer.callback_metrics['accuracy']:.3f}")
