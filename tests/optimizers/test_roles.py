"""A model's parameters by role: who gets the matrix rule, what a fused parameter consists of, and one scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import PSGD, Muon, create_optimizer, matrix_groups, param_groups, psgd_groups


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.qkv = nn.Linear(4, 12)
        self.out = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + self.out((q @ k.mT).softmax(-1) @ v)


class Transformer(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.position = nn.Parameter(torch.zeros(1, 3, 4))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.pooler = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10)
        if tied:
            self.head.weight = self.embedding.weight

    def no_weight_decay(self) -> set[str]:
        return {"position"}

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.pooler(x))


def names(groups: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {group["name"]: [name for name, _ in group["params"]] for group in groups}


HIDDEN = [f"blocks.{i}.{layer}.weight" for i in range(2) for layer in ("qkv", "out")]


def test_roles_of_a_transformer() -> None:
    groups = matrix_groups(Transformer(), weight_decay=0.1, fallback_lr=0.02)
    found = names(groups)
    assert list(found) == ["matrices", "embeddings no_decay", "embeddings", "head", "vectors"]
    assert found["matrices"] == [*HIDDEN, "pooler.weight"]
    assert (found["embeddings"], found["head"]) == (["embedding.weight"], ["head.weight"])
    assert found["embeddings no_decay"] == ["position"]
    assert len(found["vectors"]) == 2 * 4 + 2
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.1, 0.0]
    assert [(group.get("adamw", False), group.get("lr")) for group in groups] == [(False, None), *[(True, 0.02)] * 4]


def test_every_parameter_is_in_one_group() -> None:
    model = Transformer(tied=True)
    members = [p for group in matrix_groups(model, split={"*.qkv.weight": 3}) for _, p in group["params"]]
    assert len(members) == len(set(members)) == len(list(model.parameters()))


def test_a_tied_output_layer_is_an_embedding() -> None:
    found = names(matrix_groups(Transformer(tied=True)))
    assert found["embeddings"] == ["embedding.weight"]
    assert found["head"] == ["pooler.weight"]
    assert "head" not in names(matrix_groups(Transformer(tied=True), head=()))


def test_the_output_layer_may_be_named() -> None:
    model = Transformer()
    found = names(matrix_groups(model, head=["pooler.*", "head.*"], embeddings=["blocks.0.out.*"]))
    assert found["head"] == ["pooler.weight", "head.weight"]
    assert found["embeddings"] == ["embedding.weight", "blocks.0.out.weight"]
    model.get_output_embeddings = lambda: model.pooler  # as transformers' models have it
    assert names(matrix_groups(model))["head"] == ["pooler.weight"]
    model.get_output_embeddings = lambda: None
    assert names(matrix_groups(model))["head"] == ["head.weight"]


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (nn.Sequential(nn.Linear(4, 3)), None),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "2.weight"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), "2.weight"),
        (nn.Sequential(Block(), Block()), None),
        (nn.Sequential(Block(), Block(), nn.Linear(4, 2)), "2.weight"),
        (nn.ModuleDict({"embedding": nn.Embedding(5, 4), "blocks": nn.ModuleList([Block(), Block()])}), None),
    ],
)
def test_the_output_layer_is_the_last_matrix_of_several_after_the_blocks(model: nn.Module, head: str | None) -> None:
    assert names(matrix_groups(model)).get("head") == (None if head is None else [head])


def test_a_fused_parameter_is_split() -> None:
    groups = matrix_groups(Transformer(), split={"*.qkv.weight": 3, "blocks.1.qkv.weight": (4, 6, 2)})
    assert {group["name"]: group.get("parts") for group in groups[:3]} == {
        "matrices 4+4+4": (4, 4, 4),
        "matrices": None,
        "matrices 4+6+2": (4, 6, 2),
    }
    assert {group["parts"] for group in Muon(groups).param_groups} == {None, (4, 4, 4), (4, 6, 2)}
    with pytest.raises(ValueError, match="PSGD takes tensors as one"):
        PSGD(groups)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"*.qkv.weight": 5}, r"split '\*\.qkv\.weight' must be .* the 12 rows of 'blocks\.0\.qkv\.weight', got 5"),
        ({"*.qkv.weight": 1}, "must be a number of equal parts, >= 2"),
        ({"*.qkv.weight": (4, 4)}, r"got \(4, 4\)"),
        ({"*.qkv.weight": "3"}, "got '3'"),
        ({"*.qkv.bias": 3}, r"matrix_groups: split of matrices: '\*\.qkv\.bias' matches no parameter; nearest: "),
        ({"*.kqv.weight": 3}, r"nearest: 'blocks\.1\.qkv\.weight'"),
    ],
)
def test_a_split_that_is_none(split: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matrix_groups(Transformer(), split=split)


def test_other_bad_arguments() -> None:
    with pytest.raises(TypeError, match="split must be a mapping of patterns to parts, got 3"):
        matrix_groups(Transformer(), split=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="matrix_groups: head 'haed' matches no parameter; nearest: "):
        matrix_groups(Transformer(), head=["haed"])
    with pytest.raises(ValueError, match="matrix_groups: embeddings 'x' matches no parameter"):
        matrix_groups(Transformer(), embeddings=["x"])
    with pytest.raises(ValueError, match="give a fallback_lr"):
        matrix_groups(Transformer(), fallback_lr=None, split={"*.qkv.weight": 3})
    with pytest.raises(TypeError, match=r"model must be an nn\.Module"):
        matrix_groups(list(Transformer().parameters()))  # type: ignore[arg-type]


def test_without_a_fallback_all_is_the_optimizers() -> None:
    model = Transformer()
    assert names(matrix_groups(model, 0.1, fallback_lr=None)) == names(param_groups(model, 0.1))


def test_one_scheduler_scales_every_lr_from_its_own() -> None:
    torch.manual_seed(0)
    model = Transformer()
    optimizer = create_optimizer("muon", model, lr=0.02, fallback_lr=3e-3, split={"*.qkv.weight": 3})
    assert optimizer.param_groups[0]["param_names"] == [name for name in HIDDEN if "qkv" in name]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    for step in range(3):
        assert {group["lr"] for group in optimizer.param_groups} == {0.02 * 0.5**step, 3e-3 * 0.5**step}
        model(torch.arange(3)[None]).square().sum().backward()
        optimizer.step()
        scheduler.step()
    kinds = {
        group["name"]: {tuple(sorted(optimizer.state[p])) for p in group["params"]} for group in optimizer.param_groups
    }
    muon, adamw = ("momentum_buffer", "step"), ("exp_avg", "exp_avg_sq", "step")
    assert kinds == {name: {muon if name.startswith("matrices") else adamw} for name in kinds}


def test_psgd_groups_are_as_they_were() -> None:
    found = psgd_groups(Transformer(), 0.1, adamw_lr=0.02)
    assert list(names(found)) == ["no_decay", "no_decay adamw", "decay", "decay adamw"]
    assert names(found)["decay"] == [*HIDDEN, "pooler.weight", "head.weight"]
    assert names(found)["no_decay"] == ["position"]
    assert [(group.get("adamw", False), group.get("lr")) for group in found] == [(False, None), (True, 0.02)] * 2
