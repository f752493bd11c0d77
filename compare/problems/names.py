"""A small language model of names, after Bengio et al. (2003) and makemore."""

import functools
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..datasets import surnames
from ..problem import Problem, Target
from ._parts import fixed_generator, seeded

END, SYMBOLS = 0, 27  # the letters A to Z are 1 to 26


class Windows(NamedTuple):
    """Rows of symbols: the context, and last the one to predict."""

    train: Tensor
    val: Tensor


@functools.cache
def windows_of_surnames(context: int, val_names: int = 1000) -> Windows:
    """A row for every letter and every end of every surname; of names drawn once, the rows validate."""
    names = surnames()
    order = torch.randperm(len(names), generator=fixed_generator("surnames")).tolist()

    def windows(chosen: list[int]) -> Tensor:
        padding = "@" * context  # precedes "A" in ASCII
        text = "".join(f"{padding}{names[index]}" for index in chosen) + "@"
        codes = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8).long() - ord("@")
        rows = codes.unfold(0, context + 1, 1)
        return rows[(rows[:, -2:] != END).any(dim=1)]  # not those that predict padding

    return Windows(windows(order[val_names:]), windows(order[:val_names]))


class NamesLM(Problem):
    """The next letter of a surname of the United States' census of 1990, by a network of its last five letters.

    The architecture is Bengio et al.'s ("A Neural Probabilistic Language Model", 2003), the task that of Karpathy's
    makemore. A batch has as many letters as 64 names; with 64 letters, noise makes all optimizers alike. The metric is
    the loss on 1,000 names that are not trained on.
    """

    name = "names_lm"
    description = "next letter of a US surname by a tanh network of its last 5 letters (width 64), batch 512"
    family = "real"
    schedule = "linear"
    context: ClassVar[int] = 5
    batch_size: ClassVar[int] = 512
    budget = 500
    metric_name = "val CE"
    target = Target(2.33)
    run_seconds = 0.5
    requires = (("names", "names", "optzoo[data]"),)

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.train, self.val = windows_of_surnames(self.context)
        self.batches = torch.randint(len(self.train), (self.budget, self.batch_size), generator=self.generator)
        self.model = seeded(self.build, self.generator)

    @classmethod
    def build(cls) -> nn.Module:
        return nn.Sequential(
            nn.Embedding(SYMBOLS, 16),
            nn.Flatten(),
            nn.Linear(16 * cls.context, 64),
            nn.Tanh(),
            nn.Linear(64, SYMBOLS),
        )

    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def loss_on(self, windows: Tensor) -> Tensor:
        return cross_entropy(self.model(windows[:, :-1]), windows[:, -1])

    def loss(self, step: int) -> Tensor:
        return self.loss_on(self.train[self.batches[step]])

    @torch.no_grad()
    def metric(self) -> float:
        return self.loss_on(self.val).item()
