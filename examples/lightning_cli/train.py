"""A network on scikit-learn's digits; everything about the optimizer is in a YAML file.

pip install "optzoo[lightning,compare]"
python train.py fit --config ademamix_wsd.yaml
python train.py fit --config lookahead.yaml --optimizer.base.lr 3e-3
python train.py fit --config psgd.yaml
"""

import torch
from lightning.pytorch import LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from optzoo.integrations.lightning import OptimizerCLI


class Digits(LightningModule):
    """Has no configure_optimizers: OptimizerCLI gives it one."""

    def __init__(self, width: int = 64, batch_size: int = 128) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Linear(64, width),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )
        digits = load_digits()
        self.data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))

    def train_dataloader(self) -> DataLoader:
        part = torch.utils.data.Subset(self.data, range(1437))
        return DataLoader(part, self.hparams.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.utils.data.Subset(self.data, range(1437, 1797)), 360)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        images, labels = batch
        accuracy = (self.network(images).argmax(1) == labels).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)


def main() -> None:
    cli = OptimizerCLI(Digits, seed_everything_default=0, trainer_defaults={"max_epochs": 10})
    if cli.subcommand == "fit":
        print(f"test accuracy {cli.trainer.callback_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
