"""A small real training: an MLP on scikit-learn's handwritten digits."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..problem import Problem, Target

TRAIN_SIZE = 1437  # of 1797; the other 360 validate
BATCH_SIZE = 128


class Digits(NamedTuple):
    """Images as rows of 64 standardised grey values, labels 0..9; one fixed split for every seed."""

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor


@functools.cache
def load_digits() -> Digits:
    """The UCI digits that ship with scikit-learn (Alpaydin and Kaynak, 1998): 1797 images of 8 × 8."""
    from sklearn import datasets

    pixels, classes = datasets.load_digits(return_X_y=True)
    shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels, dtype=torch.float32)[shuffled]
    labels = torch.tensor(classes, dtype=torch.int64)[shuffled]
    train = images[:TRAIN_SIZE]
    images = (images - train.mean()) / train.std()
    return Digits(images[:TRAIN_SIZE], labels[:TRAIN_SIZE], images[TRAIN_SIZE:], labels[TRAIN_SIZE:])


def epochs_of_batches(steps: int, generator: torch.Generator) -> Tensor:
    """Rows of training-set indices, one row a step: reshuffled every epoch, the incomplete last batch dropped."""
    per_epoch = TRAIN_SIZE // BATCH_SIZE
    epochs = -(-steps // per_epoch)
    orders = [torch.randperm(TRAIN_SIZE, generator=generator)[: per_epoch * BATCH_SIZE] for _ in range(epochs)]
    return torch.cat(orders).view(-1, BATCH_SIZE)[:steps]


class DigitsMLP(Problem):
    """A 64-64-32-10 ReLU network (6,570 parameters, PyTorch's default initialisation), cross-entropy loss."""

    name = "digits_mlp"
    version = 1
    description = "64-64-32-10 ReLU network on scikit-learn's digits (1437 to train, 360 to validate), batch 128"
    budget = 300
    eval_every = 10
    schedule = "linear"
    metric_name = "train CE"
    target = Target(0.02)
    run_seconds = 0.3
    requires = (("sklearn", "scikit-learn"),)

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.digits = load_digits()
        self.batches = epochs_of_batches(self.budget, self.generator)
        with torch.random.fork_rng(devices=[]):  # nn.Linear initialises itself from the global generator
            torch.manual_seed(self.generator.initial_seed())
            self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def loss(self, step: int) -> Tensor:
        batch = self.batches[step]
        return cross_entropy(self.model(self.digits.train_images[batch]), self.digits.train_labels[batch])

    @torch.no_grad()
    def metric(self) -> float:
        return cross_entropy(self.model(self.digits.train_images), self.digits.train_labels).item()

    @torch.no_grad()
    def extra(self) -> dict[str, float]:
        predicted = self.model(self.digits.val_images).argmax(dim=1)
        return {"val_accuracy": (predicted == self.digits.val_labels).float().mean().item()}
