"""Small real trainings that need no data set of their own: an equation, a text, a task of memory."""

import functools
import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, softplus

from ..datasets import sonnets
from ..problem import Problem, Target
from ._parts import seeded


class PINN(Problem):
    """A physics-informed network (Raissi et al., 2019) for -u″ = f on [-1, 1] with u = sin 2πx.

    u = (1 - x²) N(x) meets the boundary conditions; u″ is carried forward through the layers. Full batch.
    """

    name = "pinn"
    description = "-u″ = f, u = sin 2πx, by a 1-24-24-1 tanh network on 64 points"
    family = "real"
    tags = frozenset({"core", "full"})
    schedule = "constant"
    budget = 500
    eval_every = 10
    metric_name = "relative L2 error"
    target = Target(0.02)
    run_seconds = 0.5

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.points = torch.linspace(-1, 1, 64)[:, None]
        self.grid = torch.linspace(-1, 1, 257)[:, None]
        self.layers = seeded(lambda: [nn.Linear(1, 24), nn.Linear(24, 24), nn.Linear(24, 1)], self.generator)

    def parameters(self) -> list[Tensor]:
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    def solution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u and u″ at x."""
        value, first, second = x, torch.ones_like(x), torch.zeros_like(x)
        for depth, layer in enumerate(self.layers):
            value, first, second = layer(value), first @ layer.weight.T, second @ layer.weight.T
            if depth < len(self.layers) - 1:
                value = value.tanh()
                slope = 1 - value**2
                first, second = slope * first, slope * (second - 2 * value * first**2)
        return (1 - x**2) * value, (1 - x**2) * second - 4 * x * first - 2 * value

    def loss(self, step: int) -> Tensor:
        _, curvature = self.solution(self.points)
        source = (2 * math.pi) ** 2 * torch.sin(2 * math.pi * self.points)
        return (curvature + source).square().mean() / source.square().mean()

    @torch.no_grad()
    def metric(self) -> float:
        truth = torch.sin(2 * math.pi * self.grid)
        error = self.solution(self.grid)[0] - truth
        return float(error.norm() / truth.norm())


class Text(NamedTuple):
    """The sonnets as numbers 0..61; the last 9,600 characters validate, in 64 windows."""

    train: Tensor
    val_windows: Tensor
    symbols: int


@functools.cache
def encoded_sonnets(window: int) -> Text:
    text = sonnets()
    alphabet = {symbol: index for index, symbol in enumerate(sorted(set(text)))}
    codes = torch.tensor([alphabet[symbol] for symbol in text])
    train, validation = codes[:-9600], codes[-9600:]
    return Text(train, validation.view(64, 150)[:, : window + 1].contiguous(), len(alphabet))


class Transformer(nn.Module):
    """One pre-norm block: causal attention and an MLP, each around a residual connection."""

    def __init__(self, symbols: int, context: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.symbol = nn.Embedding(symbols, width)
        self.position = nn.Embedding(context, width)
        self.attention_norm, self.mlp_norm, self.final_norm = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, symbols)
        for embedding in (self.symbol, self.position):
            nn.init.normal_(embedding.weight, std=0.02)  # GPT-2's

    def forward(self, tokens: Tensor) -> Tensor:
        batch, time = tokens.shape
        x = self.symbol(tokens) + self.position.weight[:time]
        qkv = self.qkv(self.attention_norm(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind()
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(batch, time, -1))
        x = x + self.mlp(self.mlp_norm(x))
        logits: Tensor = self.head(self.final_norm(x))
        return logits


class CharLM(Problem):
    """A character-level transformer of one block, width 48 and 3 heads on Shakespeare's sonnets."""

    name = "char_lm"
    description = "1-block character transformer (width 48, context 32) on Shakespeare's sonnets, batch 16"
    family = "real"
    tags = frozenset({"core", "full"})
    schedule = "linear"
    context: ClassVar[int] = 32
    batch_size: ClassVar[int] = 16
    budget = 200
    eval_every = 10
    metric_name = "val CE"
    target = Target(2.45)
    run_seconds = 0.8

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.text = encoded_sonnets(self.context)
        starts = torch.randint(
            len(self.text.train) - self.context, (self.budget, self.batch_size, 1), generator=self.generator
        )
        self.windows = self.text.train[starts + torch.arange(self.context + 1)]
        self.model = seeded(lambda: Transformer(self.text.symbols, self.context, width=48, heads=3), self.generator)

    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def loss_on(self, windows: Tensor) -> Tensor:
        return cross_entropy(self.model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())

    def loss(self, step: int) -> Tensor:
        return self.loss_on(self.windows[step])

    @torch.no_grad()
    def metric(self) -> float:
        return self.loss_on(self.text.val_windows).item()


class Sequences(NamedTuple):
    """Inputs (time, example, 2), a random sign and a marker; labels ±1, the product of the two marked signs."""

    inputs: Tensor
    labels: Tensor


@functools.cache
def delayed_xor(length: int) -> Sequences:
    """Every sequence there is: all signs, the first marker at 0, the second before the middle."""
    signs = 1.0 - 2.0 * torch.cartesian_prod(*[torch.tensor([0, 1])] * length)
    inputs, labels = [], []
    for second in range(1, length // 2):
        markers = torch.zeros_like(signs)
        markers[:, [0, second]] = 1
        inputs.append(torch.stack([signs, markers], dim=2))
        labels.append(signs[:, 0] * signs[:, second])
    return Sequences(torch.cat(inputs).transpose(0, 1).contiguous(), torch.cat(labels))


class XorRNN(Problem):
    """Delayed XOR (Hochreiter & Schmidhuber, 1997; PSGD's demo) by a tanh RNN of 24 units, from an orthogonal start.

    A run leaves the chance level log 2 or does not: the share of seeds that hit is the result. The metric is the loss
    over all 768 sequences.
    """

    name = "xor_rnn"
    description = "XOR of two marked bits, remembered over 8 steps by a 24-unit tanh RNN, batch 64"
    family = "real"
    tags = frozenset({"full"})
    schedule = "constant"
    length: ClassVar[int] = 8
    units: ClassVar[int] = 24
    budget = 800
    eval_every = 20
    metric_name = "CE"
    target = Target(0.05)
    run_seconds = 0.6
    evaluation_seeds = 9

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.sequences = delayed_xor(self.length)
        self.batches = torch.randint(len(self.sequences.labels), (self.budget, 64), generator=self.generator)
        normal = functools.partial(torch.randn, generator=self.generator)
        recurrent = torch.linalg.qr(normal(self.units, self.units)).Q
        starts = (recurrent, 0.1 * normal(self.units, 2), torch.zeros(self.units), 0.1 * normal(self.units))
        self.weights = [start.clone().requires_grad_() for start in (*starts, torch.zeros(1))]

    def parameters(self) -> list[Tensor]:
        return self.weights

    def loss_on(self, inputs: Tensor, labels: Tensor) -> Tensor:
        recurrent, into, bias, out, offset = self.weights
        driven = inputs @ into.T + bias
        state = driven[0].tanh()
        for drive in driven[1:].unbind():
            state = torch.addmm(drive, state, recurrent.T).tanh()
        return softplus(-labels * (state @ out + offset)).mean()

    def loss(self, step: int) -> Tensor:
        batch = self.batches[step]
        return self.loss_on(self.sequences.inputs[:, batch], self.sequences.labels[batch])

    @torch.no_grad()
    def metric(self) -> float:
        return self.loss_on(*self.sequences).item()


REAL = (PINN, CharLM, XorRNN)
