"""Parameter groups: which parameters decay, at which lr, and what is said when an argument cannot be meant."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optzoo.optimizers import AdamW, param_groups


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Linear(width, width))
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.mlp(self.norm(x))


class Model(nn.Module):
    """Two blocks, each with a longer list inside; position table without a module; head tied to the embedding."""

    def __init__(self, tied: bool = False, width: int = 4) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3, width))
        self.embedding = nn.Embedding(10, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, 10)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def by_parameter(groups: list[dict[str, Any]], option: str) -> dict[str, Any]:
    return {name: group[option] for group in groups for name, _ in group["params"]}


def exempt(model: nn.Module, **options: Any) -> set[str]:
    decays = by_parameter(param_groups(model, 0.1, **options), "weight_decay")
    assert set(decays.values()) <= {0.0, 0.1}
    return {name for name, value in decays.items() if value == 0.0}


# Weight decay


def test_biases_and_norms_do_not_decay() -> None:
    assert {name for name in exempt(Model()) if not name.startswith("blocks.1")} == {
        "blocks.0.norm.weight",
        "blocks.0.norm.bias",
        "blocks.0.gamma",
        "blocks.0.mlp.0.bias",
        "blocks.0.mlp.2.bias",
        "blocks.0.mlp.3.bias",
        "norm.weight",
        "head.bias",
    }


def test_embeddings_and_named_parameters_by_choice() -> None:
    assert exempt(Model(), no_decay=()) == set()
    assert exempt(Model(), no_decay=("embedding",)) == {"embedding.weight"}
    assert exempt(Model(), no_decay=("embedding", "pos*", "*.norm.bias")) == {
        "embedding.weight",
        "position",
        "blocks.0.norm.bias",
        "blocks.1.norm.bias",
    }


def test_a_shared_embedding_is_one_wherever_its_name_comes_from() -> None:
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 10, bias=False)
            self.embedding = nn.Embedding(10, 4)
            self.embedding.weight = self.head.weight

    assert exempt(HeadFirst(), no_decay=("embedding",)) == {"head.weight"}
    assert by_parameter(param_groups(HeadFirst(), lr=1.0, overrides={"embedding.*": {"lr": 2.0}}), "lr") == {
        "head.weight": 2.0
    }


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm((2, 3)),
        nn.RMSNorm((2, 3)),
        nn.GroupNorm(2, 4),
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm1d(4, affine=True),
        type("LlamaRMSNorm", (nn.Linear,), {})(4, 4),
        type("LayerNorm2d", (nn.Linear,), {})(4, 4),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_are_known_by_class_or_name(norm: nn.Module) -> None:
    everything = {name for name, _ in norm.named_parameters()}
    assert everything
    assert exempt(norm, no_decay=("norm",)) == everything


class Pretrained(Model):
    """As timm's vision transformers."""

    def no_weight_decay(self) -> set[str]:
        return {"position", "embedding.*", "cls_token"}


def test_models_say_what_does_not_decay() -> None:
    """timm's convention, also of a model within another one or compiled."""
    named = {"position", "embedding.weight"}
    assert exempt(Pretrained()) - exempt(Model()) == named
    assert exempt(Pretrained(), no_decay=("no_weight_decay",)) == named
    assert exempt(Pretrained(), no_decay=("bias", "norm")) == exempt(Model())
    within = nn.Module()
    within.backbone, within.position = Pretrained(), nn.Parameter(torch.zeros(2, 2))
    assert exempt(within, no_decay=("no_weight_decay",)) == {f"backbone.{name}" for name in named}
    assert exempt(torch.compile(within), no_decay=("no_weight_decay",)) == {f"backbone.{name}" for name in named}


def test_a_wrapper_called_norm_does_not_exempt_what_it_wraps() -> None:
    class PreNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.inner = nn.LayerNorm(4), nn.Linear(4, 4)

    assert exempt(PreNorm()) == {"norm.weight", "norm.bias", "inner.bias"}


def test_bias_is_a_name_too() -> None:
    experts = nn.Module()
    experts.weight, experts.bias = nn.Parameter(torch.zeros(3, 4, 4)), nn.Parameter(torch.zeros(3, 4))
    assert exempt(experts) == {"bias"}


# Every parameter in exactly one group


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "lr": 1e-3, "layer_decay": 0.5}])
def test_every_parameter_once_in_the_models_order(options: dict[str, Any]) -> None:
    model = Model(tied=True)
    groups = param_groups(model, **options)
    expected = dict(model.named_parameters())
    given = dict(pair for group in groups for pair in group["params"])
    assert given.keys() == expected.keys()
    assert all(given[name] is expected[name] for name in expected)
    assert sum(len(group["params"]) for group in groups) == len(expected)
    order = list(expected)
    firsts = [order.index(group["params"][0][0]) for group in groups]
    assert firsts == sorted(firsts)
    for group in groups:
        within = [order.index(name) for name, _ in group["params"]]
        assert within == sorted(within)
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)


def test_groups_are_the_same_without_decay() -> None:
    """So that a run may resume with another weight decay."""
    groups = param_groups(Model())
    assert [group["name"] for group in groups] == [group["name"] for group in param_groups(Model(), weight_decay=0.1)]
    assert all(group["weight_decay"] == 0.0 and "lr" not in group for group in groups)


def test_decay_may_be_left_to_the_optimizer() -> None:
    left = AdamW(param_groups(Model(), None, overrides={"position": {"weight_decay": 0.3}}), weight_decay=0.2)
    assert [(g["name"], g["weight_decay"]) for g in left.param_groups] == [
        ("position", 0.3),
        ("decay", 0.2),
        ("no_decay", 0.0),
    ]


def half_frozen() -> Model:
    model = Model()
    model.embedding.requires_grad_(False)
    model.blocks[0].requires_grad_(False)
    return model


def test_frozen_parameters_are_left_out() -> None:
    model = half_frozen()
    options: dict[str, Any] = {"lr": 1.0, "layer_decay": 0.5, "overrides": {"embedding.*": {"lr": 9.0}}}
    groups = param_groups(model, 0.1, include_frozen=False, **options)
    lr = by_parameter(groups, "lr")
    assert lr.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(group["params"] for group in groups)
    assert lr["position"] == 0.125  # freezing moves no other parameter to another layer


def test_frozen_parameters_may_be_asked_for() -> None:
    """In the groups that they have when nothing is frozen; they move once they are unfrozen."""
    model = half_frozen()
    groups = param_groups(model, 0.1, lr=1.0, layer_decay=0.5, include_frozen=True)
    everything = param_groups(Model(), 0.1, lr=1.0, layer_decay=0.5)
    assert by_parameter(groups, "name") == by_parameter(everything, "name")
    optimizer = AdamW(groups)
    for frozen in (True, False):
        model.requires_grad_(True) if not frozen else None
        before = model.embedding.weight.detach().clone()
        optimizer.zero_grad()
        model(torch.tensor([1, 2, 3])).sum().backward()
        optimizer.step()
        assert torch.equal(model.embedding.weight, before) == frozen
        assert (model.embedding.weight in optimizer.state) != frozen
    model.requires_grad_(False)
    assert len(by_parameter(param_groups(model, include_frozen=True), "name")) == len(list(model.parameters()))


def test_that_frozen_parameters_are_left_out_is_said() -> None:
    with pytest.warns(UserWarning, match=r"10 of 23 parameters of Model are frozen .*'embedding.weight' the first.*"):
        param_groups(half_frozen())


@pytest.mark.filterwarnings("error")
def test_where_frozen_parameters_are_meant_nothing_is_said() -> None:
    """They are everywhere with PEFT's adapters, whose models have a ``peft_config``; also within a LightningModule."""
    peft = half_frozen()
    peft.peft_config = {"default": None}  # type: ignore[assignment]
    whole = nn.ModuleDict({"model": peft})
    for model, choice in ((half_frozen(), False), (half_frozen(), True), (Model(), None), (whole, None)):
        param_groups(model, include_frozen=choice)
    with pytest.raises(ValueError, match="include_frozen must be None, True or False, got 'no'"):
        param_groups(Model(), include_frozen="no")  # type: ignore[arg-type]


def test_names_are_those_of_the_model_before_compile() -> None:
    plain, compiled = Model(), Model()
    compiled.blocks[1].mlp = torch.compile(compiled.blocks[1].mlp)
    options: dict[str, Any] = {"weight_decay": 0.1, "lr": 1.0, "layer_decay": 0.5, "overrides": {"head.*": {"lr": 3.0}}}
    expected, ours = param_groups(plain, **options), param_groups(torch.compile(compiled), **options)
    for option in ("name", "lr", "weight_decay"):
        assert by_parameter(ours, option) == by_parameter(expected, option)


@pytest.mark.parametrize("factory", [AdamW, torch.optim.AdamW, torch.optim.SGD])
def test_groups_fit_any_optimizer(factory: Callable[..., torch.optim.Optimizer]) -> None:
    model = Model(tied=True)
    optimizer = factory(param_groups(model, 0.1, lr=0.5, overrides={"head.*": {"lr": 0.25}}), lr=1.0, weight_decay=7.0)
    stored = {name: group for group in optimizer.param_groups for name in group["param_names"]}
    assert stored.keys() == dict(model.named_parameters()).keys()
    assert stored["head.bias"]["lr"] == 0.25
    assert stored["embedding.weight"]["lr"] == 0.25  # the head's weight, under its first name
    assert stored["position"]["lr"] == 0.5
    assert stored["position"]["weight_decay"] == 0.1
    model(torch.tensor([1, 2, 3])).sum().backward()
    optimizer.step()
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert [group["initial_lr"] for group in optimizer.param_groups] == [g["lr"] for g in optimizer.param_groups]


# Layer-wise learning rates


def test_layer_decay_follows_the_blocks() -> None:
    lr = by_parameter(param_groups(Model(), lr=1.0, layer_decay=0.5), "lr")
    of_layer = {
        0: ("position", "embedding.weight"),
        1: ("blocks.0.norm.weight", "blocks.0.mlp.3.weight", "blocks.0.gamma"),
        2: ("blocks.1.norm.weight", "blocks.1.mlp.3.weight", "blocks.1.gamma"),
        3: ("norm.weight", "head.weight", "head.bias"),
    }
    for layer, names in of_layer.items():
        assert [lr[name] for name in names] == [0.5 ** (3 - layer)] * len(names)


def test_layer_decay_of_a_tied_head_is_the_embeddings() -> None:
    lr = by_parameter(param_groups(Model(tied=True), lr=1.0, layer_decay=0.5), "lr")
    assert lr["embedding.weight"] == 0.125
    assert lr["head.bias"] == 1.0


def test_layer_decay_in_a_sequential_model() -> None:
    """Children without parameters are no layers, and the last one with some has the full lr."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 2))
    lr = by_parameter(param_groups(model, lr=1.0, layer_decay=0.1), "lr")
    assert (lr["0.weight"], lr["2.weight"], lr["4.weight"]) == pytest.approx((0.01, 0.1, 1.0))


def test_layer_decay_finds_blocks_inside_a_sequential_model() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Sequential(*(Block(4) for _ in range(12))), nn.Linear(4, 2))
    lr = by_parameter(param_groups(model, lr=1.0, layer_decay=0.9), "lr")
    assert lr["0.weight"] == pytest.approx(0.9**13)
    assert lr["1.0.gamma"] == pytest.approx(0.9**12)
    assert lr["1.11.gamma"] == pytest.approx(0.9)
    assert lr["2.bias"] == 1.0


def test_layer_decay_with_layers_of_ones_own() -> None:
    options: dict[str, Any] = {"lr": 1.0, "layer_decay": 0.5, "layer_of": lambda name: 4 if "head" in name else 2}
    lr = by_parameter(param_groups(Model(), **options), "lr")
    assert lr.pop("head.weight") == lr.pop("head.bias") == 1.0
    assert set(lr.values()) == {0.25}


def test_a_tensor_as_lr_is_scaled_and_every_group_has_its_own() -> None:
    groups = param_groups(Model(), 0.1, lr=torch.tensor(1.0), layer_decay=0.5)
    assert {group["lr"].item() for group in groups} == {0.125, 0.25, 0.5, 1.0}
    assert len({id(group["lr"]) for group in groups}) == len(groups)


def test_group_names_tell_layer_and_decay() -> None:
    groups = param_groups(Model(), 0.1, lr=1.0, layer_decay=0.5, overrides={"head.*": {"lr": 2.0}})
    assert [group["name"] for group in groups] == [
        "layer_0 decay",
        "layer_1 no_decay",
        "layer_1 decay",
        "layer_2 no_decay",
        "layer_2 decay",
        "layer_3 no_decay",
        "decay head.*",
        "no_decay head.*",
    ]


# Overrides


def test_overrides_replace_and_the_later_pattern_wins() -> None:
    groups = param_groups(
        Model(),
        0.1,
        lr=1.0,
        overrides={"blocks.*": {"lr": 2.0, "cautious": True}, "*.1.mlp.*": {"lr": 3.0, "weight_decay": 0.5}},
    )
    lr, decay = by_parameter(groups, "lr"), by_parameter(groups, "weight_decay")
    assert (lr["position"], lr["blocks.0.mlp.0.weight"], lr["blocks.1.mlp.0.weight"]) == (1.0, 2.0, 3.0)
    assert decay["blocks.1.mlp.0.bias"] == decay["blocks.1.mlp.0.weight"] == 0.5
    (mlp,) = (group for group in groups if "blocks.1.mlp.0.bias" in dict(group["params"]))
    assert len(mlp["params"]) == 6  # one group: an overridden decay tells biases from weights no more
    assert mlp["cautious"] is True


# Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_decay": -0.1}, ValueError, r"weight_decay must be a finite number >= 0 or None, got -0.1"),
        ({"weight_decay": "0.1"}, ValueError, r"weight_decay must be a finite number >= 0 or None, got '0.1'"),
        ({"weight_decay": float("nan")}, ValueError, r"weight_decay must be .* got nan"),
        ({"lr": -1.0}, ValueError, r"lr must be a finite number >= 0 or None, got -1.0"),
        ({"lr": 1.0, "layer_decay": 0.0}, ValueError, r"layer_decay must be a number in \(0, 1\] or None, got 0.0"),
        ({"lr": 1.0, "layer_decay": 1.5}, ValueError, r"layer_decay must be a number in \(0, 1\] or None, got 1.5"),
        ({"layer_decay": 0.5}, ValueError, r"layer_decay=0.5 scales lr, so give lr as well"),
        ({"layer_of": len}, ValueError, r"layer_of has no effect without layer_decay"),
        ({"lr": 1.0, "layer_decay": 0.5, "layer_of": lambda name: -1}, ValueError, r"int >= 0, got -1 for 'position'"),
        ({"no_decay": "bias"}, TypeError, r'no_decay must be a sequence of strings such as \("bias",\), got \'bias\''),
        (
            {"no_decay": ("biases",)},
            ValueError,
            r"no_decay 'biases' is no kind \(bias, norm, .*no_weight_decay\).*: 'bias'",
        ),
        ({"no_decay": ("*.positon",)}, ValueError, r"no_decay '\*.positon' .* nearest: 'position'"),
        (
            {"overrides": {"*.head.*": {}}},
            ValueError,
            r"'\*.head.*' matches no parameter; nearest: .*'head.bias'",
        ),
        ({"overrides": ["head.*"]}, TypeError, r"overrides must be a mapping of patterns to options"),
        ({"overrides": {"head.*": 0.1}}, TypeError, r"overrides\['head.\*'\] must be a mapping of options, got 0.1"),
        ({"overrides": {"head.*": {"name": "x"}}}, ValueError, r"overrides\['head.\*'\] must not set \['name'\]"),
    ],
)
def test_errors_name_argument_value_and_remedy(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^param_groups: .*{message}"):
        param_groups(Model(), **options)


def test_errors_about_the_model() -> None:
    with pytest.raises(TypeError, match=r"model must be an nn.Module, got generator; pass the model, not parameters"):
        param_groups(Model().parameters())
    with pytest.raises(ValueError, match=r"Model has no trainable parameter"):
        param_groups(Model().requires_grad_(False))
    with pytest.raises(ValueError, match=r"finds no nn.ModuleList or nn.Sequential of blocks in Linear; .*layer_of="):
        param_groups(nn.Linear(2, 2), lr=1.0, layer_decay=0.5)
