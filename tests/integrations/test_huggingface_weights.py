"""Weights to evaluate in Hugging Face's Trainer: what is evaluated, what is saved, and how training goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from optzoo.integrations.huggingface import EvaluationWeightsMixin
from optzoo.optimizers import AdamW, Cautious, Lookahead, ScheduleFreeAdamW, ScheduleFreeSGD, evaluation_weights
from support.checkpoints import differences
from support.problems import tensors

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


class EvaluatedTrainer(EvaluationWeightsMixin, Trainer):
    """As a user defines it."""


class Model(nn.Module):
    """Two layers that return their loss; evaluation keeps the weights it saw, and finds the second time the best."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 1)).to(dtype)
        for p, t in zip(self.network.parameters(), tensors([p.shape for p in self.network.parameters()]), strict=True):
            p.data.copy_(t)
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if not self.training:
            self.seen.append(weights(self))
            return {"loss": torch.tensor(abs(len(self.seen) - 2.0))}
        return {"loss": (self.network(x.to(self.network[0].weight.dtype)) - 1).square().mean()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(
    directory: Path, make: Any, resume: int = 0, cls: type[Trainer] = EvaluatedTrainer, model: Any = None, **more: Any
) -> Any:
    """Twelve steps; evaluated and saved after every fourth."""
    rows = [{"x": x} for x in tensors([(80, 3)], torch.float32, seed=1)[0]]
    arguments = TrainingArguments(
        str(directory),
        max_steps=12,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        save_steps=4,
        eval_strategy="steps",
        eval_steps=4,
        label_names=["x"],
        lr_scheduler_type="constant",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **more,
    )
    trainer = cls(
        model=model or Model(),
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows[:4],
        optimizer_cls_and_kwargs=make,
    )
    trainer.train(resume_from_checkpoint=str(directory / f"checkpoint-{resume}") if resume else None)
    return trainer


CASES = {
    "Lookahead": (Lookahead, {"lr": 0.05, "k": 5}),
    "Schedule-Free AdamW": (ScheduleFreeAdamW, {"lr": 0.05}),
    "Cautious around Schedule-Free SGD": (Cautious, {"base": ScheduleFreeSGD, "lr": 0.1}),
}
each = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each
def test_what_is_evaluated_is_saved_and_the_trained_go_on(make: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    trainer = train(tmp_path, make, model=Model(dtype))
    seen, trained = trainer.model.seen, weights(trainer.model)
    for step, others in zip((4, 8, 12), seen, strict=True):
        exactly(load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors"), others)
    beside = torch.load(tmp_path / "checkpoint-12" / "trained_weights.pt", weights_only=True)
    exactly(beside, trained)
    assert not torch.equal(trained["network.0.weight"], seen[-1]["network.0.weight"])
    with evaluation_weights(trainer.optimizer):
        exactly(weights(trainer.model), seen[-1])

    again = train(tmp_path, make, resume=4, model=Model(dtype))
    exactly(weights(again.model), trained)
    exactly(again.model.seen, seen[1:])
    ours, theirs = (run.optimizer.optimizer.state_dict()["state"] for run in (again, trainer))
    assert differences(ours, theirs) == []


@each
def test_after_the_training(make: Any, tmp_path: Path) -> None:
    """``evaluate`` and ``save_model`` are of the same weights, and leave the trained ones in the model."""
    trainer = train(tmp_path, make)
    trained = weights(trainer.model)
    trainer.evaluate()
    trainer.save_model(str(tmp_path / "after"))
    exactly(trainer.model.seen[-1], trainer.model.seen[-2])
    exactly(load_file(tmp_path / "after" / "model.safetensors"), trainer.model.seen[-1])
    exactly(weights(trainer.model), trained)


@each
def test_the_best_of_them_is_loaded_and_stays(make: Any, tmp_path: Path) -> None:
    trainer = train(tmp_path, make, load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=False)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-8")
    best = trainer.model.seen[1]
    exactly(weights(trainer.model), best)
    trainer.evaluate()
    trainer.save_model(str(tmp_path / "after"))
    exactly(trainer.model.seen[-1], best)
    exactly(load_file(tmp_path / "after" / "model.safetensors"), best)
    exactly(weights(trainer.model), best)


def test_a_checkpoint_from_before_the_mixin_is_what_was_trained(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", CASES["Lookahead"])
    train(tmp_path, CASES["Lookahead"], cls=Trainer)
    again = train(tmp_path, CASES["Lookahead"], resume=4)
    exactly(weights(again.model), weights(whole.model))


def test_the_trainer_as_it_is_switches_schedule_free_by_itself(tmp_path: Path) -> None:
    """It calls eval() before it evaluates and train() before it steps; saved in between, a run resumes exactly too."""
    plain, mixed = (train(tmp_path / cls.__name__, CASES["Schedule-Free AdamW"], cls=cls) for cls in TRAINERS)
    exactly(plain.model.seen, mixed.model.seen)
    again = train(tmp_path / "Trainer", CASES["Schedule-Free AdamW"], cls=Trainer, resume=4)
    exactly(again.model.seen, plain.model.seen[1:])
    for run in (plain, again):
        run.optimizer.train()
        exactly(weights(run.model), weights(mixed.model))


TRAINERS = (Trainer, EvaluatedTrainer)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match="EvaluatedTrainer: AdamW has no weights to evaluate but those it trains; leave"
    ):
        train(tmp_path, (AdamW, {"lr": 0.1}))
