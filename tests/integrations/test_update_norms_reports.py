"""What optimizers report of themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from optzoo.integrations.tensorboard import log_update_norms
from optzoo.optimizers import PSGD, Adafactor, CAdamW, DoG, LDoG
from optzoo.optimizers.cautious import Cautious
from optzoo.optimizers.core.reports import Reporter
from optzoo.optimizers.lookahead import Lookahead
from support.problems import tensors
from support.update_norms import Numbers, batches, copies, network, train

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
Make = Callable[[Any], torch.optim.Optimizer]


def reports(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    numbers = Numbers()
    log_update_norms(optimizer, numbers, 3, model)
    train(model, optimizer, steps=3)
    return {key: value for key, value in numbers.scalars[3].items() if key.startswith(("optimizer/", "lr/"))}


KEEPERS: dict[str, Make] = {
    "floor": partial(CAdamW, lr=0.1, weight_decay=0),
    "unscaled": partial(CAdamW, lr=0.1, weight_decay=0, cautious_scale=None),
    "wrapper": lambda p: Lookahead(Cautious(p, torch.optim.SGD, lr=0.1, momentum=0.9), k=5),
    "unscaled wrapper": partial(Cautious, base=torch.optim.SGD, lr=0.1, momentum=0.9, cautious_scale=None),
}


@pytest.mark.parametrize("name", KEEPERS)
def test_cautious_reports_the_share_it_kept(name: str) -> None:
    """Counted from the step itself: without weight decay what is masked stays where it is."""
    model, numbers = network(), Numbers()
    optimizer: Any = KEEPERS[name](model.parameters())
    log_update_norms(optimizer, numbers, 3, model)
    for x in batches(3):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        before = copies(model)
        optimizer.step()
    moved = {name: (p != before[name]).double() for name, p in model.named_parameters()}
    seen = numbers.scalars[3]
    for name, flags in moved.items():
        assert seen[f"optimizer/kept/{name}"] == pytest.approx(flags.mean().item())
    total = torch.cat([flags.flatten() for flags in moved.values()])
    assert seen["optimizer/kept"] == pytest.approx(total.mean().item())
    assert 0 < seen["optimizer/kept"] < 1
    assert not optimizer.recording
    assert "kept" not in optimizer.report()


@pytest.mark.parametrize("scale", ["floor", None])
@pytest.mark.parametrize(
    ("shape", "fused"), [((17, 2**18), False), pytest.param((300, 300), True, marks=pytest.mark.compiled)]
)
def test_big_tensors_report_and_keep_their_bits(shape: tuple[int, int], fused: bool, scale: str | None) -> None:
    """Those of many pieces, whose update is computed twice to be counted, and those of compiled steps."""
    ends = []
    for recorded in (True, False):
        (start, first, second) = tensors([shape] * 3, torch.float32)
        p = nn.Parameter(start)
        optimizer = CAdamW([p], lr=0.1, weight_decay=0, cautious_scale=scale, fused=fused or None)
        optimizer.record(recorded)
        for g in (first, second):
            before = p.detach().clone()
            p.grad = g
            optimizer.step()
        if recorded:
            (kept,) = optimizer.report()["kept"].values()  # type: ignore[union-attr]
            assert kept == (p != before).float().mean()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_dog_reports_its_step_size() -> None:
    model = network()
    optimizer = DoG(model.parameters())
    seen = reports(optimizer, model)
    assert seen.keys() == {"lr/pg1", "optimizer/eta", "optimizer/distance"}
    assert seen["lr/pg1"] == seen["optimizer/eta"] == pytest.approx(optimizer.effective_lr()[0].item())
    state = optimizer.state[model[0].weight]
    assert seen["optimizer/distance"] == pytest.approx(state["max_distance"].item())

    model = network()
    layers = LDoG(model.parameters())
    seen = reports(layers, model)
    for name, size in zip(dict(model.named_parameters()), layers.effective_lr()[0].tolist(), strict=True):
        assert seen[f"optimizer/eta/{name}"] == pytest.approx(size)
    sizes = [p.numel() for p in model.parameters()]
    mean = sum(n * size for n, size in zip(sizes, layers.effective_lr()[0].tolist(), strict=True)) / sum(sizes)
    assert seen["lr/pg1"] == seen["optimizer/eta"] == pytest.approx(mean)


def test_adafactor_reports_how_it_clips() -> None:
    """Without momentum and decay RMS(θ' - θ) is α · RMS(U), where RMS(Û) is clipped to 1."""
    model, numbers = network(), Numbers()
    optimizer = Adafactor(model.parameters(), clip_threshold=0.5)
    log_update_norms(optimizer, numbers, 3, model)
    train(model, optimizer, steps=3, clip=1e9)
    seen = numbers.scalars[3]
    for name, p in model.named_parameters():
        rms = (seen[f"grad_norm_clipped/{name}"], optimizer.state[p]["variance"])
        u = (p.grad / rms[1].sqrt()).square().mean().sqrt().item()
        assert seen[f"optimizer/clip_factor/{name}"] == pytest.approx(min(1, 0.5 / u))
    assert 0 < seen["lr/pg1"] < 1e-2


def test_psgd_reports_the_norms_of_its_factors() -> None:
    model = network()
    optimizer = PSGD(model.parameters(), lr=0.1)
    seen = reports(optimizer, model)
    state = optimizer.state[model[0].weight]
    assert seen["optimizer/Q0_norm/0.weight"] == pytest.approx(state["Q0"].norm().item())
    assert seen["optimizer/Q1_norm/0.weight"] == pytest.approx(state["Q1"].norm().item())
    assert "optimizer/Q1_norm/0.bias" not in seen


def test_any_optimizer_may_report() -> None:
    class Told(torch.optim.SGD):
        def report(self) -> dict[str, Any]:
            params = self.param_groups[0]["params"]
            return {"one": torch.tensor([2.0]), "two": 3, "each": {p: p.numel() for p in params}}

    model = network()
    optimizer = Told(model.parameters(), lr=0.1)
    assert isinstance(optimizer, Reporter)
    seen = reports(optimizer, model)
    assert (seen["optimizer/one"], seen["optimizer/two"], seen["lr/pg1"]) == (2, 3, 0.1)
    assert [seen[f"optimizer/each/{name}"] for name in ("0.weight", "0.bias")] == [15, 5]
    assert seen["optimizer/each"] == pytest.approx((15**2 + 5**2 + 5**2 + 1) / 26)
