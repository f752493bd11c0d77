"""Small real trainings: their data are split once, their networks and metrics are what they say."""

import math
import string

import pytest
import torch
from torch.nn.functional import cross_entropy

from optzoo.compare.datasets import surnames
from optzoo.compare.problems import PROBLEMS, DigitsMLP, Rosenbrock
from optzoo.compare.problems.digits import Mnist5kCNN
from optzoo.compare.problems.names import NamesLM
from optzoo.compare.problems.real import PINN, CharLM, XorRNN, delayed_xor


def test_learning_rate_factors():
    digits, surface = DigitsMLP(0), Rosenbrock(0)
    assert [digits.lr_factor(step) for step in (0, 150, 299)] == pytest.approx([1, 0.5, 1 / 300])
    assert {surface.lr_factor(step) for step in range(surface.budget)} == {1.0}


def test_digits_are_split_once_and_every_epoch_is_a_permutation():
    problem = DigitsMLP(0)
    train_images, train_labels, val_images, val_labels = problem.digits
    assert (len(train_images), len(val_images)) == (1437, 360)
    assert DigitsMLP(1).digits is problem.digits
    assert set(train_labels.tolist()) == set(val_labels.tolist()) == set(range(10))
    assert train_images.mean().item() == pytest.approx(0, abs=1e-5)
    assert train_images.std().item() == pytest.approx(1, abs=1e-5)
    assert problem.batches.shape == (300, 128)
    for epoch in problem.batches.split(11):
        assert epoch.unique().numel() == epoch.numel()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("digits_mlp", 6570),
        ("digits_cnn", 3818),
        ("digits_ae", 9048),
        ("pinn", 673),
        ("char_lm", 35918),
        ("mnist5k_cnn", 11274),
        ("names_lm", 7371),
    ],
)
def test_sizes_of_networks(name: str, count: int):
    assert sum(parameter.numel() for parameter in PROBLEMS[name](0).parameters()) == count


def test_digits_metric_is_the_cross_entropy_of_the_whole_training_set():
    problem = DigitsMLP(0)
    with torch.no_grad():
        log_probabilities = problem.model(problem.digits.train_images).double().log_softmax(dim=1)
        correct = log_probabilities[torch.arange(1437), problem.digits.train_labels]
    assert problem.metric() == pytest.approx(-correct.mean().item(), rel=1e-5)
    assert problem.metric() == pytest.approx(math.log(10), rel=0.1)
    assert 0 <= problem.extra()["val_accuracy"] <= 0.3  # untrained


def test_mnist_is_split_once_and_the_metric_is_over_all_that_is_trained_on():
    problem = Mnist5kCNN(0)
    train_images, train_labels, val_images, val_labels = problem.digits
    assert (train_images.shape, val_images.shape) == ((4000, 784), (1000, 784))
    assert Mnist5kCNN(1).digits is problem.digits
    assert torch.equal(torch.cat([train_labels, val_labels]).bincount(), torch.full((10,), 500))
    assert train_images.mean().item() == pytest.approx(0, abs=1e-5)
    assert train_images.std().item() == pytest.approx(1, abs=1e-5)
    assert {len(epoch.unique()) for epoch in problem.batches.split(62)[:4]} == {62 * 64}
    with torch.no_grad():
        by_parts = [
            cross_entropy(problem.model(images), labels)
            for images, labels in zip(train_images.split(500), train_labels.split(500), strict=True)
        ]
    assert problem.metric() == pytest.approx(torch.stack(by_parts).mean().item(), rel=1e-5)
    assert 0 <= problem.extra()["val_accuracy"] <= 0.3  # untrained


def test_windows_of_names():
    problem = NamesLM(0)
    train, val = problem.train, problem.val
    names = surnames()
    assert len(train) + len(val) == sum(map(len, names)) + len(names)  # every letter and every end, once
    alphabet = "." + string.ascii_uppercase
    first, *_ = ends = (val[:, -1] == 0).nonzero().flatten().tolist()
    validating = [
        "".join(alphabet[code] for code in part[:-1, -1]) for part in val.tensor_split([e + 1 for e in ends])[:-1]
    ]
    assert len(set(validating)) == 1000
    assert set(validating) < set(names)
    rows = ["".join(alphabet[code] for code in row) for row in val[: first + 1]]
    padded = "....." + validating[0] + "."
    assert rows == [padded[i : i + 6] for i in range(len(validating[0]) + 1)]
    starts = (train[:, :-1] == 0).all(dim=1)
    assert int(starts.sum()) == len(names) - 1000
    with torch.no_grad():
        uniform = cross_entropy(torch.zeros(1, 27), val[:1, -1]).item()
    assert problem.metric() == pytest.approx(uniform, rel=0.1)


def test_the_second_derivative_of_the_pinn_is_autograds():
    problem = PINN(0)
    x = problem.points.clone().requires_grad_()
    u, second = problem.solution(x)
    (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-5)
    assert problem.solution(torch.tensor([[-1.0], [1.0]]))[0].abs().max() == 0


def test_the_text_model_never_trains_on_what_validates_and_never_looks_ahead():
    problem = CharLM(0)
    train, windows, symbols = problem.text
    assert (len(train), windows.shape, symbols) == (95_728 - 9_600, (64, 33), 62)
    assert problem.windows.shape == (200, 16, 33)
    start = problem.windows[0, 0]
    assert any(torch.equal(train[i : i + 33], start) for i in (train == start[0]).nonzero().flatten().tolist())
    tokens = windows[:1, :-1].clone()
    with torch.no_grad():
        before = problem.model(tokens)
        tokens[0, 20] = (tokens[0, 20] + 1) % symbols
        after = problem.model(tokens)
        uniform = cross_entropy(torch.zeros(1, symbols), tokens[0, :1]).item()
    torch.testing.assert_close(before[0, :20], after[0, :20])
    assert not torch.allclose(before[0, 20:], after[0, 20:])
    assert problem.metric() == pytest.approx(uniform, rel=0.1)


def test_delayed_xor_is_enumerated_whole():
    inputs, labels = delayed_xor(8)
    assert inputs.shape == (8, 768, 2)
    signs, markers = inputs.unbind(dim=2)
    assert (markers.sum(dim=0) == 2).all()
    assert markers[4:].sum() == 0
    assert torch.equal((signs * markers + 1 - markers).prod(dim=0), labels)
    assert labels.sum() == 0
    assert XorRNN.evaluation_seeds == 9
    assert XorRNN(0).metric() == pytest.approx(math.log(2), rel=0.02)
