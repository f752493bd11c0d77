"""Problems of a user's own: a subclass by import path, any module, a LightningModule."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from optzoo.compare import UsageError
from optzoo.compare.candidates import get_candidate
from optzoo.compare.problem import Problem
from optzoo.compare.problems import get_problem
from optzoo.compare.results import MISS, Trial
from optzoo.compare.runner import Request, train

X = torch.linspace(-1, 1, 64)[:, None]
Y = torch.sin(3 * X)


def mse(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model(x) - y).square().mean()


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Dropout(0.02), nn.Linear(16, 1))


def make(name: str = "own_module", **changes) -> type[Problem]:
    arguments = {
        "model_fn": model,
        "batches": list(zip(X.split(16), Y.split(16), strict=True)),
        "loss_fn": lambda model, batch: mse(model, *batch),
        "metric_fn": lambda model: mse(model, X, Y),
        "target": 0.05,
        "budget": 200,
    }
    return Problem.from_module(name, **{**arguments, **changes})


own_module = make()


class NoisySGD(torch.optim.SGD):
    """Draws from the global generator, as stochastic optimizers do, and uses nothing of it."""

    def step(self, closure=None):
        torch.randn(7)
        super().step()


def run(problem: type[Problem], optimizer="adamw", lr: float = 0.1, seed: int = 100) -> Trial:
    trial = train(Request(problem, get_candidate(optimizer), {"lr": lr}, seed))
    assert trial.failure is None
    return trial


def test_a_module_is_a_problem():
    assert run(own_module).hit < 150
    assert run(own_module, lr=0.0).hit == MISS
    assert run(own_module) == run(own_module)
    assert run(own_module).curve != run(own_module, seed=101).curve


def test_it_is_found_by_its_import_path():
    assert own_module.__qualname__ == own_module.name == "own_module"
    assert own_module.__module__ == __name__
    assert get_problem(f"{__name__}:own_module") is own_module


def test_an_optimizer_that_draws_random_numbers_sees_the_same_batches_and_dropout():
    assert run(own_module, NoisySGD).curve == run(own_module, "torch.optim:SGD").curve


@pytest.mark.parametrize(
    "batches",
    [
        DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True),
        lambda generator: [(X[rows], Y[rows]) for rows in torch.randperm(64, generator=generator).split(16)],
    ],
    ids=["DataLoader", "function of the generator"],
)
def test_batches_may_be_a_loader_or_a_function(batches):
    problem = make(batches=batches)
    assert run(problem).hit < 150
    torch.manual_seed(77)
    before = torch.get_rng_state()
    first, second, third = problem(1), problem(1), problem(2)
    losses = [[instance.loss(step).item() for step in range(6)] for instance in (first, second, third)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_list_is_reshuffled_every_epoch():
    seen = []
    problem = make(batches=list(range(8)), loss_fn=lambda model, batch: seen.append(batch))
    instance = problem(0)
    for step in range(24):
        instance.loss(step)
    epochs = [seen[i : i + 8] for i in (0, 8, 16)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    instance.loss(23)  # a closure asks again
    assert seen[-1] == seen[-2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"name": "my model"}, "must be that of the variable"), ({"target": math.nan}, "target must be finite")],
)
def test_bad_arguments(changes, message):
    with pytest.raises(UsageError, match=message):
        make(**changes)


@pytest.mark.parametrize("changes", [{"budget": 0}, {"eval_every": -1}])
def test_bad_numbers_of_steps(changes):
    with pytest.raises(UsageError, match="must be a positive number of steps"):
        get_problem(make(**changes))


def test_empty_batches():
    with pytest.raises(UsageError, match="batches are empty"):
        make(batches=[])(0).loss(0)


# Lightning

lightning = pytest.importorskip("lightning", reason="an extra of its own; CI installs it")


class Regression(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def training_step(self, batch, batch_idx):
        loss = mse(self.net, *batch)
        self.log("train_loss", loss)
        return {"loss": loss}

    def validation_step(self, batch):
        self.log_dict({"val_loss": mse(self.net, *batch), "other": 1.0})

    def val_dataloader(self):
        return DataLoader(TensorDataset(X, Y), batch_size=32)


BATCHES = list(zip(X.split(16), Y.split(16), strict=True))


def from_lightning(module: type[Regression] = Regression, **changes) -> type[Problem]:
    return Problem.from_lightning("lit", module, BATCHES, **{"target": 0.05, "budget": 200, **changes})


def test_a_lightning_module_is_the_same_problem(recwarn):
    """To the bit: `own_module` with another seed of the generator, which is seeded by the name."""
    problem = from_lightning()
    assert run(problem).hit < 150
    assert problem.metric_name == "val_loss"
    twin = make(name="lit")
    assert problem(3).loss(0).item() == twin(3).loss(0).item()
    assert problem(3).metric() == pytest.approx(twin(3).metric(), rel=1e-5)
    assert not [warning for warning in recwarn if "log" in str(warning.message)]  # Lightning's: there is no Trainer


def test_what_a_lightning_module_must_do():
    class Silent(Regression):
        def training_step(self, batch):
            pass

        def validation_step(self, batch):
            self.log("accuracy", 1.0)

    class Manual(Regression):
        automatic_optimization = False

    with pytest.raises(UsageError, match=r"Silent.training_step must return the loss, not None"):
        from_lightning(Silent)(0).loss(0)
    with pytest.raises(UsageError, match=r"Silent.validation_step logs accuracy, not 'val_loss'"):
        from_lightning(Silent)(0).metric()
    with pytest.raises(UsageError, match="Manual optimizes manually"):
        from_lightning(Manual)(0)
    with pytest.raises(UsageError, match="no validation batches"):
        from_lightning(validation=[])(0).metric()
