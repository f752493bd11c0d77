"""A run goes on from its checkpoint as if it had not stopped: in a new process, in torch, in another optimizer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from optzoo.optimizers import AdamW, AMSGrad, adopt, create_optimizer, list_optimizers
from support.cases import CASES, Case
from support.checkpoints import differences, parameters, saved, torch_run, walk
from support.features import needs_option
from support.processes import SAVED_AFTER, in_new_process, resume

pytestmark = pytest.mark.filterwarnings("ignore:AdEMAMix. beta3_warmup")


# In a new process

RUNS = {
    f"{case}-{cautious=}-{dtype}": (case, cautious, dtype)
    for case in [*map(Case, list_optimizers()), *(case for case in CASES if case.options)]
    for cautious in (False, True)
    for dtype in (torch.float32, torch.bfloat16)
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Where every run ends that was never stopped, and where those end that another process took over half-way."""
    directory = tmp_path_factory.mktemp("checkpoints")
    halves, ends = {}, {}
    for key, (case, cautious, dtype) in RUNS.items():
        params = parameters(dtype)
        optimizer = create_optimizer(case.name, params, **{"lr": 0.01, **case.options, "cautious": cautious})
        halfway = walk(optimizer, params, last=SAVED_AFTER)
        halves[key] = copy.deepcopy(
            {"name": case.name, "cautious": cautious, "params": halfway, "optimizer": optimizer.state_dict()}
        )
        ends[key] = {"params": walk(optimizer, params, SAVED_AFTER), "optimizer": optimizer.state_dict()}
    torch.save(halves, directory / "halfway.pt")
    in_new_process(resume, directory / "halfway.pt", directory / "end.pt")
    return ends, torch.load(directory / "end.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("key", RUNS)
def test_a_new_process_goes_on_bit_for_bit(key: str, resumed: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
    uninterrupted, continued = resumed
    assert differences(uninterrupted[key], continued[key]) == []


# To and from torch.optim

TORCH: Sequence[tuple[str, type[torch.optim.Optimizer], Mapping[str, Any]]] = [
    ("adam", torch.optim.Adam, {}),
    ("adam", torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
    ("adam", torch.optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("adamw", torch.optim.AdamW, {}),
    ("adamw", torch.optim.AdamW, {"amsgrad": True, "maximize": True, "betas": (0.8, 0.99), "eps": 1e-4}),
]


def two_groups(params: Sequence[Tensor], named: bool) -> list[dict[str, Any]]:
    items: Sequence[Any] = [(f"layer{i}", p) for i, p in enumerate(params)] if named else params
    return [{"params": items[:3], "lr": 0.03}, {"params": items[3:], "weight_decay": 0.2, "maximize": True}]


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 4 * 2**-23)], ids=str)
@pytest.mark.parametrize(("name", "torch_class", "options"), TORCH, ids=str)
def test_a_run_changes_between_torch_and_here(
    name: str,
    torch_class: type[torch.optim.Optimizer],
    options: Mapping[str, Any],
    dtype: torch.dtype,
    rtol: float,
    direction: str,
    named: bool,
) -> None:
    """Half of the run in one library and half in the other is the whole run in torch, to ``rtol`` of 1 + |θ|."""
    needs_option(torch_class, *options)
    expected = parameters(dtype)
    walk(torch_class(two_groups(expected, named), **options), expected)
    first_params = parameters(dtype)
    groups = two_groups(first_params, named)
    from_torch = direction == "from torch"
    first = torch_class(groups, **options) if from_torch else create_optimizer(name, groups, **options)
    params = parameters(like=walk(first, first_params, last=SAVED_AFTER))
    groups = two_groups(params, named)
    second = create_optimizer(name, groups) if from_torch else torch_class(groups)
    second.load_state_dict(saved(first.state_dict()))
    walk(second, params, SAVED_AFTER)
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("step", [float, int, lambda step: step.double()])
def test_checkpoints_of_older_torch(step: Callable[[Tensor], Any]) -> None:
    """Their groups lack the options that came later; before ``capturable``, step counts were Python numbers."""
    before, halfway = torch_run({"weight_decay": 0.1})
    checkpoint = copy.deepcopy(before.state_dict())
    for key in ("decoupled_weight_decay", "foreach", "fused", "maximize", "capturable", "differentiable"):
        checkpoint["param_groups"][0].pop(key, None)
    for state in checkpoint["state"].values():
        state["step"] = step(state["step"])
    params = parameters(like=halfway)
    optimizer = AdamW(params, weight_decay=0.5)
    optimizer.load_state_dict(checkpoint)
    torch.testing.assert_close(
        walk(optimizer, params, SAVED_AFTER),
        walk(before, before.param_groups[0]["params"], SAVED_AFTER),
        rtol=1e-12,
        atol=1e-12,
    )
    assert {state["step"].dtype for state in optimizer.state.values()} == {torch.float64}


# Precision


@pytest.mark.parametrize("name", list_optimizers())
def test_bfloat16_parameters_keep_float32_moments(name: str) -> None:
    params = parameters(torch.bfloat16)
    optimizer = create_optimizer(name, params)
    walk(optimizer, params, last=SAVED_AFTER)
    loaded = create_optimizer(name, parameters(torch.bfloat16))
    loaded.load_state_dict(saved(optimizer.state_dict()))
    counts = ("step", "lr_max", "weight_sum")  # one number a parameter, in float64
    moments = [t for state in loaded.state.values() for key, t in state.items() if key not in counts]
    assert {t.dtype for t in moments} == {torch.float32}
    assert differences(loaded.state_dict(), optimizer.state_dict()) == []


def test_bfloat16_moments_of_torch_become_float32() -> None:
    before, halfway = torch_run(dtype=torch.bfloat16)
    optimizer = AdamW(parameters(like=halfway))
    optimizer.load_state_dict(before.state_dict())
    for ours, theirs in zip(optimizer.state.values(), before.state.values(), strict=True):
        assert theirs["exp_avg_sq"].dtype == torch.bfloat16
        assert differences(ours["exp_avg_sq"], theirs["exp_avg_sq"].float()) == []


# Checkpoints that do not fit


def spoiled(change: Callable[[dict[str, Any]], Any]) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        params = parameters()
        optimizer = AdamW(two_groups(params, named=True))
        walk(optimizer, params, last=1)
        checkpoint = copy.deepcopy(optimizer.state_dict())
        return change(checkpoint) or checkpoint

    return make


def lion() -> dict[str, Any]:
    params = parameters()
    optimizer = create_optimizer("lion", two_groups(params, named=False))
    walk(optimizer, params, last=1)
    return optimizer.state_dict()


UNFIT: Mapping[str, tuple[Callable[[], Any], str]] = {
    "shape": (
        spoiled(lambda c: c["state"][3].update(exp_avg=torch.zeros(4, 3))),
        r"'layer3' has shape \(4, 3\).*\(3, 4\)",
    ),
    "name": (
        spoiled(lambda c: c["param_groups"][1].update(param_names=["a", "b", "c"])),
        "'layer3' here and 'a' in the",
    ),
    "groups": (spoiled(lambda c: {**c, "param_groups": c["param_groups"][:1]}), "1 parameter groups,.* 2"),
    "parameters": (spoiled(lambda c: c["param_groups"][0]["params"].remove(2)), "2 parameters,.* 3"),
    "moment": (lion, "'exp_avg_sq' for parameter 'layer0'"),
    "model": (lambda: torch.nn.Linear(2, 2).state_dict(), "AdamW.load_state_dict takes what state_dict"),
}


@pytest.mark.parametrize("take", [adopt, AdamW.load_state_dict])
@pytest.mark.parametrize(("make", "message"), UNFIT.values(), ids=UNFIT)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    make: Callable[[], Any], message: str, take: Callable[[AdamW, Any], None]
) -> None:
    params = parameters()
    optimizer = AdamW(two_groups(params, named=True), cautious=True)
    walk(optimizer, params, last=SAVED_AFTER)
    before, state = copy.deepcopy(optimizer.state_dict()), list(optimizer.state.values())
    with pytest.raises(ValueError, match=message):
        take(optimizer, make())
    assert differences(optimizer.state_dict(), before) == []
    assert all(a is b for a, b in zip(optimizer.state.values(), state, strict=True))
    assert [p for group in optimizer.param_groups for p in group["params"]] == params


def test_adopt_refuses_the_maxima_of_another_variant() -> None:
    params = parameters()
    optimizer = AMSGrad(params, variant="paper")
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"amsgrad=True.*'paper'"):
        adopt(optimizer, torch_run({"amsgrad": True})[0])
    assert differences(optimizer.state_dict(), before) == []
    adopt(AMSGrad(params, variant="torch"), torch_run({"amsgrad": True})[0])


# Copies, hooks, and options that change in a run


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("name", list_optimizers())
def test_copies_of_a_running_optimizer_go_on_bit_for_bit(
    name: str, cautious: bool, duplicate: Callable[[Any], Any]
) -> None:
    params = parameters(torch.bfloat16)
    optimizer = create_optimizer(name, two_groups(params, named=True), lr=0.01, cautious=cautious)
    walk(optimizer, params, last=SAVED_AFTER)
    twin = duplicate(optimizer)
    twin_params = [p for group in twin.param_groups for p in group["params"]]
    assert differences(walk(twin, twin_params, SAVED_AFTER), walk(optimizer, params, SAVED_AFTER)) == []
    assert differences(twin.state_dict(), optimizer.state_dict()) == []


def test_hooks_of_the_user_run_around_a_load() -> None:
    before, halfway = torch_run()
    optimizer, calls = AdamW(parameters(like=halfway)), []

    def rename(_: Any, checkpoint: dict[str, Any]) -> dict[str, Any]:
        calls.append("pre")
        return {"state": checkpoint["moments"], "param_groups": checkpoint["options"]}

    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("post"))
    checkpoint = before.state_dict()
    optimizer.load_state_dict({"moments": checkpoint["state"], "options": checkpoint["param_groups"]})
    assert calls == ["pre", "post"]
    assert differences(optimizer.state_dict()["state"][3]["exp_avg"], checkpoint["state"][3]["exp_avg"]) == []
