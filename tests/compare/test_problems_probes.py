"""The three probes: standing still does not solve a problem, its reference does, and one optimizer is left behind."""

from typing import NamedTuple

import pytest
import torch

from optzoo.compare.candidates import get_candidate
from optzoo.compare.problems import PROBLEMS
from optzoo.compare.results import MISS, Trial
from optzoo.compare.runner import Request, train


class Nesterov(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr, momentum=0.9, nesterov=True)


SGD, RMSPROP, NESTEROV = "torch.optim:SGD", "torch.optim:RMSprop", Nesterov


class Probe(NamedTuple):
    """Learning rates are the best of a half-decade grid on this seed, for both.

    Where such a run ends near its target, on some processors above it, it is the next lower one.
    """

    lr: float
    behind: str | type[torch.optim.Optimizer]  # misses, or takes at least twice the steps
    lr_behind: float
    reference: str = "adamw"


PROBES = {
    "rosenbrock": Probe(0.1, SGD, 0.1),
    "beale": Probe(0.3, "lion", 0.03),
    "saddle": Probe(0.03, "lion", 0.01, reference=RMSPROP),
    "plateau": Probe(0.3, "lion", 0.03),
    "absv": Probe(0.1, SGD, 0.03),
    "bowl": Probe(0.03, SGD, 1.0),
    "bowl_rot": Probe(1.0, SGD, 1.0, reference=NESTEROV),
    "quad": Probe(0.1, SGD, 1.0),
    "quad_rot": Probe(0.3, SGD, 1.0),
    "nqm": Probe(0.03, "lion", 0.03),
    "heavy": Probe(0.03, "lion", 0.003, reference=RMSPROP),
    "logreg_raw": Probe(0.3, "lion", 0.03),
    "sparse_lr": Probe(0.1, "lion", 0.03),
    "diabetes": Probe(0.3, SGD, 1.0),
    "softmax_digits": Probe(0.1, "lion", 0.01),
    "zipf": Probe(0.1, SGD, 30.0),
    "matfac": Probe(0.03, "lion", 1e-3),
    "cp_tensor": Probe(0.3, "lion", 0.01),
    "kron_quad": Probe(0.3, SGD, 1.0),
    "deep_linear": Probe(0.01, SGD, 0.3),
    "digits_mlp": Probe(0.03, RMSPROP, 0.01),
    "digits_cnn": Probe(0.03, SGD, 1.0),
    "digits_ae": Probe(0.01, SGD, 1.0),
    "pinn": Probe(0.03, SGD, 0.3),
    "char_lm": Probe(0.01, SGD, 0.3),
    "xor_rnn": Probe(0.01, SGD, 1.0),
    "mnist5k_cnn": Probe(0.01, SGD, 0.3),
    "names_lm": Probe(0.03, SGD, 1.0),
    "amsgrad": Probe(0.03, "lion", 0.03, reference="amsgrad"),
    "rescale": Probe(0.3, "lion", 0.01),
    "drift": Probe(0.3, "lion", 0.03),
}

SLOW = ("char_lm", "digits_cnn", "xor_rnn", "zipf", "digits_ae", "mnist5k_cnn", "names_lm")
each_probe = pytest.mark.parametrize(
    ("name", "probe"),
    [pytest.param(*item, id=item[0], marks=[pytest.mark.slow] if item[0] in SLOW else []) for item in PROBES.items()],
)


def run(name: str, optimizer: str | type[torch.optim.Optimizer], lr: float, stop_at_hit: bool = False) -> Trial:
    trial = train(Request(PROBLEMS[name], get_candidate(optimizer), {"lr": lr}, seed=100, stop_at_hit=stop_at_hit))
    assert trial.failure is None
    return trial


def test_every_problem_that_has_a_target_has_its_probe():
    assert PROBES.keys() == PROBLEMS.keys() - {"rastrigin"}  # whose basin is luck: it is only looked at


@each_probe
def test_standing_still_does_not_solve_it(name: str, probe: Probe):
    trial = run(name, SGD, 0.0)
    assert trial.hit == MISS
    if name != "drift":  # whose metric is a mean over time
        assert {evaluation.metric for evaluation in trial.curve} == {trial.final}  # exactly: the metric has no noise


@each_probe
def test_the_reference_solves_it_and_another_is_left_behind(name: str, probe: Probe):
    reference = run(name, probe.reference, probe.lr)
    assert reference.hit <= 0.95 * PROBLEMS[name].budget
    assert not reference.lost or name == "absv"  # where what a constant step oscillates around is the point
    assert run(name, probe.behind, probe.lr_behind, stop_at_hit=True).hit >= 2 * reference.hit
