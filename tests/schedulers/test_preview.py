"""Pictures of schedules, and ``optzoo schedule preview``."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from optzoo.compare.cli import main
from optzoo.schedulers import Schedule

WSD = Schedule(start=0).to(1, 100).hold().to(0, 0.2, shape="sqrt")


def test_text() -> None:
    lines = WSD.preview(1000, width=50, height=5).splitlines()
    assert lines[0] == "total 1000: 0-99 to 1 (linear) | 100-799 hold | 800-999 to 0 (sqrt)"
    assert lines[1] == "first 0, last 0.002503, peak 1, mean 0.8167, 1 step at 0"
    assert [line[:3] for line in lines[2:-1]] == ["1 ┤", "  ┤", "  ┤", "  ┤", "0 ┤"]
    assert all(line[3 + 20] == "█" for line in lines[2:-1])
    assert len(lines[-2].rstrip()) == len(lines[-1]) == 53
    assert lines[-1].endswith("999")


def test_text_of_odd_schedules() -> None:
    short = Schedule(start=0).to(1, 0.0001).jump(2).hold().resolve(100).preview()
    assert short.splitlines()[0] == "total 100: 0 to 1 (linear), of no steps | 0 jump 2 | 0-99 hold"
    assert "0- decay (power 0.5)" in Schedule().decay().resolve().preview(total=50)
    flat = Schedule(start=0).hold().preview(7)
    assert "first 0, last 0, peak 0, mean 0, 7 steps at 0" in flat
    below = Schedule(start=-1).to(1, 10).resolve().preview(height=2)
    assert below.splitlines()[-2].startswith(" -1 ┤")
    with pytest.raises(ValueError, match="has no end"):
        Schedule().hold().resolve().preview()


def test_pictures(tmp_path: Path) -> None:
    curve = WSD.resolve(1000)
    curve.save(tmp_path / "a.svg", title="a < b")
    root = xml.etree.ElementTree.parse(tmp_path / "a.svg").getroot()
    points = root.find("{*}polyline").get("points").split()  # type: ignore[union-attr]
    assert len(points) == 1001
    assert points[500].split(",")[1] == "32.0"  # the top
    curve.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"a picture is .png or .svg, got 'a.gif'"):
        curve.save(tmp_path / "a.gif")


def test_png_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs matplotlib: pip install \"optzoo\[schedulers\]\"; an .svg"):
        WSD.resolve(1000).save(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["wsd,warmup=100,cooldown=0.2,shape=sqrt,compat=hf", "--total", "1000"], "mean 0.8167"),
        ([json.dumps(WSD.to_list()), "--total", "1000", "--table", "500"], "\n500  1\n"),
        (["inverse_sqrt,warmup=10", "--show", "41"], "total open: 0-9 to 1 (linear) | 10- decay (power 0.5)"),
        (["linear,warmup=untuned", "--total", "4000", "--untuned", "200"], "0-199 to 1"),
        ([json.dumps([{"to": 0, "steps": "3ep"}]), "--steps-per-epoch", "5"], "total 15"),
    ],
)
def test_command(arguments: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "preview", *arguments]) == 0
    assert shown in capsys.readouterr().out


def test_command_with_a_file_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text(
        "- {start: 0, to: 1, steps: 100}\n- {hold: rest}\n- {to: 0, steps: 0.2, shape: sqrt}\n"
    )
    arguments = [str(tmp_path / "s.yaml"), "--total", "1000", "--png", str(tmp_path / "s.png")]
    assert main(["schedule", "preview", *arguments]) == 0
    assert "mean 0.8167" in capsys.readouterr().out
    assert (tmp_path / "s.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wsdd", "--total", "100"], "did you mean 'wsd'"),
        (["wsd"], "needs a total"),
        (["constant"], "--total N"),
        (["wsd,warmup=90", "--total", "100"], "phases need 110 steps but total is 100"),
        (["wsd", "--total", "0"], "total must be a positive int"),
        (["wsd", "--total", "9", "--png", "/nowhere/x.png"], "nowhere"),
    ],
)
def test_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "preview", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_help_and_preview_import_no_torch() -> None:
    code = (
        "import sys\n"
        "from optzoo.compare.cli import main\n"
        "main(['schedule', 'preview', 'wsd', '--total', '100'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
