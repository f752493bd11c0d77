"""What comes out of the papers' small experiments, including what does not."""

import pytest
import torch

from optzoo.compare import UsageError
from optzoo.compare.claims import CLAIMS, claims
from optzoo.compare.cli import main
from optzoo.optimizers import list_optimizers

VERDICTS = {  # in the order of the claims
    "adam": [True, True],
    "amsgrad": [True, True],
    "ademamix": [True, False],
    "grams": [True, False],
    "cautious": [True, True],
    "lookahead": [True],
    "diffgrad": [True, False],
    "dog": [True],
    "psgd": [True],
    "adafactor": [True, True, False],
}
QUICK = ("grams", "cautious", "lookahead", "diffgrad")


def test_all_ten_papers_have_claims():
    names = [claim.optimizer for claim in CLAIMS]
    assert list(dict.fromkeys(names)) == list(VERDICTS)
    assert set(names) <= set(list_optimizers())
    assert all(claim.text and claim.where for claim in CLAIMS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in VERDICTS]
)
def test_verdicts(name: str):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    results = list(claims([name]))
    assert [result.holds for result in results] == VERDICTS[name]
    assert all(result.optimizer == name and result.measured and result.seconds > 0 for result in results)
    assert all(result.remark for result in results if not result.holds)  # a negative result is explained
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_numbers_are_those_measured():
    (lookahead,) = claims(["lookahead"])
    assert lookahead.measured == "variance 0.443 of SGD's (theory 0.443)"
    passed, friction = claims(["diffgrad"])
    assert "Adam ends at +0.20, +0.00, diffGrad at -0.30, -0.64" in passed.measured
    assert "-0.30, -0.64: there too" in friction.measured


def test_unknown_optimizers_are_named():
    with pytest.raises(UsageError, match="did you mean 'lookahead'"):
        next(claims(["lokahead"]))


def test_the_command_says_what_does_not_reproduce(capsys: pytest.CaptureFixture[str]):
    assert main(["compare", "claims", "-o", "grams,lookahead"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\ngrams      NOT reproduced  ahead of cautious Adam") == 1
    assert "2 claims reproduced, 1 not." in printed
    assert main(["compare", "claims", "-o", "sgd"]) == 2
