"""The report: one file that asks nothing of the network, sensible whatever a comparison has, and seen in a browser."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optzoo.compare import compare
from optzoo.compare.errors import UsageError
from optzoo.compare.report import write_report
from optzoo.compare.results import Comparison
from optzoo.optimizers import list_optimizers

SECTIONS = ("summary", "profile", "curves", "rates", "heat", "paths", "card", "cost", "protocol")
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


def text_of(comparison: Comparison, path: Path, live: bool = False) -> str:
    write_report(comparison, path, live=live)
    return path.read_text(encoding="utf-8")


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.S)


def test_has_every_section_and_no_address(make: Any, tmp_path: Path) -> None:
    comparison = make.comparison(
        make.study([9, 5, 1, 0.5]),
        make.study([9, 0.5, 0.4, 0.3], optimizer="lion"),
        make.study([9, 9], problem="quad"),
    )
    page = text_of(comparison, tmp_path / "report.html")
    assert [name for name in SECTIONS if f'<section id="{name}">' not in page] == []
    shown = without_scripts(page)
    assert re.findall(r'(?:src|href)="(?!#)[^>]*', shown) == []
    assert "http" not in shown.replace("http-equiv", "")
    assert "default-src 'none'" in page  # the browser itself refuses addresses, those in plotly's code too


def test_names_cannot_break_out_of_the_page(make: Any, tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script>"
    page = text_of(make.comparison(make.study([9, 1, 0.5], optimizer=name)), tmp_path / "report.html")
    assert name not in page
    assert "alert(1)" in page


@pytest.mark.parametrize(
    "case", ["one", "all miss", "failed", "unscored", "no screening", "nothing timed", "not finite"]
)
def test_what_is_missing_is_said(case: str, make: Any, tmp_path: Path) -> None:
    study = make.study([9, 5, 1, 0.5])
    miss = make.study([9, 9, 9, 9], optimizer="lion")
    studies = {
        "one": (study,),
        "all miss": (miss,),
        "failed": (study, make.failed(miss, "raised RuntimeError: <no>")),
        "no screening": (),
        "not finite": (study, make.study([9, float("nan"), float("inf"), 9], optimizer="lion")),
    }.get(case, (study, miss))
    comparison = make.comparison(*studies)
    page = without_scripts(text_of(comparison, tmp_path / "report.html"))
    assert [name for name in SECTIONS if f'<section id="{name}">' not in page] == []
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?! of these)", re.sub(r"<style>.*?</style>", "", page, flags=re.S))
    if case == "failed":
        assert "raised RuntimeError: &lt;no&gt;" in page


def test_holds_all_results(make: Any, tmp_path: Path) -> None:
    page = text_of(
        make.comparison(make.study([9, 5, 1, 0.5]), make.study([9, 9], optimizer="lion")), tmp_path / "r.html"
    )
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    assert len(json.loads(data)["trials"]) == 2 * (3 + 1)
    (packed,) = re.findall(r'<script id="archive"[^>]*>(.*?)</script>', page, re.S)
    trials = json.loads(gzip.decompress(base64.b64decode(packed)))["studies"][0]["trials"]
    assert trials[-1]["curve"] == [[0, 9, 0], [10, 5, 20], [20, 1, 40], [30, 0.5, 60]]
    assert "updates" not in trials[-1]  # nothing in the page shows them


def test_says_who_comes_first_and_how_certain_that_is(make: Any, tmp_path: Path) -> None:
    first, second = make.study([9, 1, 0.5, 0.4]), make.study([9, 5, 5, 0.5, 0.5], optimizer="lion")
    clear = without_scripts(text_of(make.comparison(first, second), tmp_path / "r.html"))
    assert "adamw needs the fewest steps (score 1.000, 95 % interval 0.01 to 1.00), and by 1 problem no other" in clear
    problems = [make.study([9, 1, 0.5], problem=name, optimizer=best) for name, best in (("p", "adamw"), ("q", "lion"))]
    problems += [make.study([9, 5, 1, 0.5], problem=name, optimizer=o) for name, o in (("p", "lion"), ("q", "adamw"))]
    tied = without_scripts(text_of(make.comparison(*problems), tmp_path / "r.html"))
    assert "adamw and lion need the fewest steps (score 0.833" in tied
    missed = without_scripts(text_of(make.comparison(make.study([9, 9, 9])), tmp_path / "r.html"))
    assert "No optimizer reaches the target of any problem." in missed


def test_dagger_and_its_footnote(make: Any, tmp_path: Path) -> None:
    fallen = dataclasses.replace(make.study([9, 1, 0.5], optimizer="psgd"), vector_rule="diagonal factors")
    page = without_scripts(text_of(make.comparison(make.study([9, 1, 0.5]), fallen), tmp_path / "r.html"))
    assert (page.count(">10†<"), page.count(">20†<")) == (1, 1)  # steps, gradients
    assert "runs its rule for vectors: psgd (diagonal factors)." in page
    plain = without_scripts(text_of(make.comparison(make.study([9, 1, 0.5])), tmp_path / "r.html"))
    assert "†" not in plain


def test_no_band_of_a_run_that_diverged(make: Any, tmp_path: Path) -> None:
    page = text_of(make.comparison(make.study([9, 5, 1, 0.5], [9, 8, 1e9], [9, 7, 6, 5])), tmp_path / "r.html")
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    line = json.loads(data)["curves"]["rosenbrock"]["lines"]["adamw"]
    assert (line["high"], line["ends"]) == ([9, 8, 6, 5], [[10, 8]])


def test_same_comparison_same_bytes(make: Any, tmp_path: Path) -> None:
    comparison = make.comparison(make.study([9, 5, 1, 0.5]))
    assert text_of(comparison, tmp_path / "a.html") == text_of(comparison, tmp_path / "b.html")


def test_no_such_folder(make: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        write_report(make.comparison(make.study([9, 1, 0.5])), tmp_path / "none" / "report.html")


# In a browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a real comparison, a small one."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    optimizers = ["adamw", "lion", "psgd", "adam"]  # Adam and AdamW are one without weight decay
    comparison = compare(optimizers, ["quad_rot", "saddle"], quick=True, seeds=2, timing=False, jobs=1)
    write_report(comparison, path)
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Seen:
    """The page in a window, what it complains of and what it asks for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def draw_everything(self) -> None:
        """Figures are drawn when they come near."""
        for name in SECTIONS:
            self.page.locator(f"#{name}").scroll_into_view_if_needed()
            for chart in self.page.locator(f"#{name} .chart").all():
                chart.scroll_into_view_if_needed()
                chart.locator(".main-svg").first.wait_for(timeout=20_000)

    def keep(self, name: str, tmp_path: Path) -> None:
        """A screenshot for whoever looks at the run."""
        folder = Path(os.environ.get("OPTZOO_ARTIFACTS", tmp_path))
        folder.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=folder / f"report-{name}.png", full_page=True)


@pytest.fixture
def look(chromium: Any, report: Path) -> Iterator[Any]:
    opened: list[Seen] = []

    def see(**options: Any) -> Seen:
        opened.append(Seen(chromium, report, **options))
        return opened[-1]

    yield see
    for seen in opened:
        seen.context.close()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_every_section_is_there_to_see(width: int, scheme: str, look: Any, report: Path, tmp_path: Path) -> None:
    seen = look(width=width, scheme=scheme)
    seen.draw_everything()
    for name in SECTIONS:
        box = seen.page.locator(f"#{name} h2").bounding_box()
        assert box["width"] > 0
        assert box["height"] > 0
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width  # a phone need not scroll sideways
    assert seen.complaints == []
    assert seen.requests == [report.as_uri()]
    seen.keep(f"{width}-{scheme}", tmp_path)


@pytest.mark.browser
@pytest.mark.slow
def test_theme_and_legend(look: Any) -> None:
    seen = look()
    page = seen.page
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    row = page.locator('#ranking tr[data-optimizer="lion"]')
    assert row.is_visible()
    page.locator('#legend [data-optimizer="lion"]').click()
    assert not row.is_visible()
    page.locator("#profile .chart").scroll_into_view_if_needed()
    names = "[...document.querySelector('#profile .chart').data].filter(t => t.visible !== false).map(t => t.name)"
    page.locator("#profile .chart .main-svg").first.wait_for(timeout=20_000)
    assert not any("lion" in str(name) for name in page.evaluate(names))
    page.locator("#all").click()
    assert row.is_visible()
    assert seen.complaints == []


@pytest.mark.browser
@pytest.mark.slow
def test_lines_that_coincide_take_turns(look: Any) -> None:
    page = look().page
    dashes = "Object.fromEntries([...document.querySelector('#curves .chart').data].map(t => [t.name, t.line?.dash]))"
    page.locator("#curves .chart").first.scroll_into_view_if_needed()
    page.locator("#curves .chart .main-svg").first.wait_for(timeout=20_000)
    shown = page.evaluate(dashes)
    assert (shown["adamw"], shown["adam"]) == ("0px,0px,7px,7px", "0px,7px,7px,0px")
    assert shown["lion"] == shown["psgd"] == "solid"
    page.locator('#legend [data-optimizer="adam"]').click()
    assert page.evaluate(dashes)["adamw"] == "solid"  # nobody is under it any more


@pytest.mark.browser
@pytest.mark.slow
def test_the_legend_is_whole_on_a_phone(chromium: Any, make: Any, tmp_path: Path) -> None:
    names = [*list_optimizers(), "my_package.optimizers:Mine"]
    write_report(make.comparison(*(make.study([9, 0.5, 0.5], optimizer=name) for name in names)), tmp_path / "r.html")
    seen = Seen(chromium, tmp_path / "r.html", width=390)
    boxes = [chip.bounding_box() for chip in seen.page.locator("#legend .optimizer").all()]
    assert len(boxes) == len(names)
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    bar = seen.page.locator("#bar").bounding_box()
    assert all(box["y"] + box["height"] <= bar["y"] + bar["height"] for box in boxes)
    assert bar["height"] < 200  # of 900; it stays in sight
    seen.keep("phone-legend", tmp_path)
    seen.context.close()


@pytest.mark.browser
@pytest.mark.slow
def test_runs_are_sorted_filtered_and_downloaded(look: Any, tmp_path: Path) -> None:
    seen = look()
    page = seen.page
    page.locator("#runs summary").click()
    rows = page.locator("#trials tbody tr")
    rows.first.wait_for()  # they are made by the event of opening, which comes after the click
    assert rows.count() > 20
    page.locator("#filter").fill("psgd evaluate")
    shown = page.locator("#trials tbody tr:visible").all_inner_texts()
    assert len(shown) == 2 * 2  # problems, seeds
    assert all("psgd" in text and "evaluate" in text for text in shown)
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "results.json")
    assert {"studies", "protocol"} <= json.loads((tmp_path / "results.json").read_text()).keys()
    assert seen.complaints == []
