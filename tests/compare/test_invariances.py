"""The invariance card: exact facts about the rules, so also a test of the optimizers."""

import pytest
import torch

from optzoo.compare import UsageError
from optzoo.compare.cli import main
from optzoo.compare.invariances import TRANSFORMATIONS, invariances
from optzoo.optimizers import list_optimizers

COLUMNS = [transformation.name for transformation in TRANSFORMATIONS]
DIAGONAL = ["approx", "yes", "no", "no", "yes"]
CARD = {
    "adafactor": ["yes", "yes", "no", "no", "yes"],  # 8 × 8 is not factored
    "clion": ["yes", "yes", "no", "no", "yes"],
    "diffgrad": ["no", "yes", "no", "no", "yes"],  # its friction sees the size of gradients
    "dog": ["approx", "yes", "approx", "approx", "yes"],
    "ldog": ["approx", "yes", "approx", "approx", "yes"],
    "lion": ["yes", "yes", "no", "no", "yes"],
    "schedulefreesgd": ["no", "yes", "yes", "yes", "yes"],  # as SGD
    "psgddense": ["approx", "no", "no", "no", "yes"],  # of random vectors, which are not transformed
    "psgdlra": ["no", "no", "no", "no", "yes"],
    "psgdnewton": ["no", "no", "no", "no", "yes"],
    "muon": ["approx", "yes", "yes", "yes", "yes"],
    "psgd": ["no", "approx", "approx", "approx", "yes"],  # its preconditioner starts at the scale 1
}


@pytest.mark.parametrize("name", list_optimizers())
def test_card(name: str):
    cells = list(invariances([name]))
    assert [cell.transformation for cell in cells] == COLUMNS
    assert [cell.answer for cell in cells] == CARD.get(name, DIAGONAL)
    assert cells[-1].deviation == 0  # a re-run is the same run, bit for bit


def test_gradient_descent_is_invariant_to_rotations_and_not_to_scale():
    cells = list(invariances(["torch.optim:SGD"]))
    assert [cell.answer for cell in cells] == ["no", "yes", "yes", "yes", "yes"]


def test_a_class_of_ones_own():
    (*_, rerun) = invariances([torch.optim.Adagrad])
    assert rerun.optimizer == "torch.optim.adagrad:Adagrad"


def test_unknown_optimizers_are_named():
    with pytest.raises(UsageError, match="did you mean 'adamw'"):
        next(invariances(["adamww"]))


def test_the_command_prints_the_card(capsys: pytest.CaptureFixture[str]):
    assert main(["compare", "invariances", "-o", "lion,dog"]) == 0
    heading, lion, dog, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["scale", "permute", "rotate", "left", "rotate", "both", "re-run"]
    assert lion.split()[1::2] == CARD["lion"]
    assert dog.split()[1::2] == CARD["dog"]
