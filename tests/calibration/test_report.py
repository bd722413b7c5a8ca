"""The HTML report: one file that needs nothing else, with every figure and picture, on a wide and a narrow screen."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import dynflow
from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.report import report
from dynflow.calibration.saved import path_for
from tests.calibration.test_calibrate import ROUTE, drawn, file_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
JUDGED = ROUTE.replace("ports: {score: number}", "ports: {score: number, quality: record}").replace(
    "on_failure: {score: 1}", "on_failure: {score: 1, quality: {}}"
)
VOID = {"meta", "br", "line", "circle", "rect", "polyline"}


def difficulty(text: str) -> dict[str, Any]:
    score = float(text.split()[0])
    return {"score": score, "quality": {"weak": 0.95 - 0.8 * score, "strong": 0.9}}


def page(
    folder: Path, text: str = JUDGED, title: str = "route", rows: Sequence[Mapping[str, Any]] | None = None
) -> str:
    flow = dynflow.loads(text, runnables={"difficulty": difficulty})
    return report(evaluate(flow, file_of(folder, rows or drawn(300)), times=20), title)


def calibrated(folder: Path, text: str = JUDGED, seed: int = 0) -> str:
    """The page of a calibrated graph, on rows of another seed."""
    graph = folder / "graph.yaml"
    graph.write_text(text, encoding="utf-8")
    host = {"difficulty": difficulty}
    names = [name for name in ("local", "cloud", *LONG.values()) if f"  {name}: {{type: chat" in text]
    bound = dict(zip(("local", "cloud"), ([name] for name in names), strict=True))
    found = calibrate(
        dynflow.load(graph, runnables=host), file_of(folder, drawn(400)), bound, kind="quality_of", target=0.9
    )
    path_for(graph).write_text(json.dumps(found.calibration.as_dict()), encoding="utf-8")
    flow = dynflow.load(graph, runnables=host)
    rows = [{**row, "prompt": f"{float(row['prompt']) ** (1 + seed):.6f}"} for row in drawn(300, seed)]
    return report(evaluate(flow, file_of(folder, rows), bound, times=20), "route", flow.calibration)


LONG = {"local": "a_small_model_on_this_very_machine", "cloud": "the_most_expensive_model_of_all_the_providers"}


class Outline(HTMLParser):
    """Headings and captions, and whether all elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.told: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "figcaption"):
            self.told.append((self.open[-1], data))


def outline(shown: str) -> list[tuple[str, str]]:
    parser = Outline()
    parser.feed(shown)
    assert not parser.open
    return parser.told


def test_it_needs_nothing_else_and_fits_any_width(tmp_path: Path) -> None:
    shown = page(tmp_path)
    assert not re.search(r"(?:https?:)?//[\w.]+", shown)
    assert not re.search(r"<(script|link|img|iframe)\b|url\(|@import", shown)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in shown
    assert "prefers-color-scheme: dark" in shown
    fixed = re.findall(r"(?<![-\w])(?:min-)?width: (\d+)px", shown)
    assert all(int(width) <= 28 for width in fixed)
    assert not re.search(r"<svg[^>]* width=", shown)


def test_it_shows_the_pictures_with_words_for_who_does_not_see_them(tmp_path: Path) -> None:
    shown = page(tmp_path)
    assert outline(shown) == [
        ("h1", "route"),
        ("h2", "Quality and cost"),
        ("figcaption", "Quality over the share of strong calls"),
        ("figcaption", "Quality over cost"),
        ("h2", "Figures"),
        ("h2", "Recovered of the gap between local and cloud"),
        ("h2", "What decides"),
        ("figcaption", "difficulty.score of 300 requests"),
        ("figcaption", "Reliability of difficulty.quality"),
    ]
    drawings = re.findall(r'<svg class="plot".*?</svg>', shown, re.DOTALL)
    assert len(drawings) == 4
    ids = re.findall(r' id="([^"]+)"', shown)
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert set(str(root.get("aria-labelledby")).split()) <= set(ids)
        assert root.findtext("desc")
    for told in ("this graph, at every setting", "as it is now, with its interval", "oracle", "by the prompt's length"):
        assert html.escape(told, quote=True) in shown or told in shown
    assert "bar = 0.5: " in shown  # the threshold, with the share below it
    for told in ("300 recorded requests", "APGR", "CPT(80 %)", "always cloud", "Nothing is promised"):
        assert told in shown


def test_it_tells_what_was_promised_and_whether_requests_drifted(tmp_path: Path) -> None:
    shown = calibrated(tmp_path)
    assert "On new requests drawn like these, mean quality is at least 90 % of cloud" in shown
    assert "90 % confidence, tested on " in shown
    assert "betting (Waudby-Smith" in shown
    assert "calibrated, with its interval of 95 %" in shown
    assert "These requests are like those" in shown
    assert "spread otherwise here" not in shown
    assert "spread otherwise here" in calibrated(tmp_path, seed=2)


def test_the_same_evaluation_gives_the_same_page(tmp_path: Path) -> None:
    assert page(tmp_path) == page(tmp_path)


@pytest.mark.parametrize("text", [ROUTE, ROUTE.replace(", tune: true", "")])
def test_titles_are_text_and_a_graph_without_a_knob_has_a_page(tmp_path: Path, text: str) -> None:
    assert "<h1>a &lt;b&gt;</h1>" in page(tmp_path, text, "a <b>")


FREE = ROUTE.replace("price: {input: 1, output: 1}", "price: {input: 0, output: 0}").replace(
    "price: {input: 30, output: 30}", "price: {input: 0, output: 0}"
)


def test_what_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    """Nothing costs anything, nothing is gained, and every score is the same."""
    rows = [
        {"id": str(row), "prompt": "0.5 " + "x" * row, "outcomes": {"local": {"quality": 1}, "cloud": {"quality": 1}}}
        for row in range(3)
    ]
    shown = page(tmp_path, FREE.replace("baseline: cloud", "baseline: cloud"), rows=rows)
    captions = [text for kind, text in outline(shown) if kind == "figcaption"]
    assert captions == ["Quality over the share of strong calls", "difficulty.score of 3 requests"]
    assert "unknown" in shown
    assert "nan" not in shown.lower().replace("finance", "")
    assert "cloud is no better than local" in shown


MEASURE = """
<script>
addEventListener("load", () => {
  const found = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, whole = page.documentElement, over = [];
    for (const plot of page.querySelectorAll("svg.plot")) {
      const edge = plot.getBoundingClientRect(), texts = [...plot.querySelectorAll("text")];
      const boxes = texts.map(text => text.getBoundingClientRect());
      boxes.forEach((box, at) => {
        const told = texts[at].textContent;
        if (box.left < edge.left - 1 || box.right > edge.right + 1 || box.bottom > edge.bottom + 1)
          over.push(told + " is cut off");
        boxes.slice(at + 1).forEach((next, later) => {
          if (box.left < next.right - 1 && next.left < box.right - 1 &&
              box.top < next.bottom - 2 && next.top < box.bottom - 2)
            over.push(told + " over " + texts[at + 1 + later].textContent);
        });
      });
    }
    const wide = [...page.querySelectorAll(".wide, figure, .legend, .legend li, h1, h2, p, td, tbody th")].filter(
      each => each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0).map(each => each.textContent);
    const plots = page.querySelectorAll(".plot").length;
    found.push({scrolls: whole.scrollWidth > whole.clientWidth, over, wide, plots});
  }
  document.body.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_in_a_browser_nothing_overlaps_or_scrolls_sideways(tmp_path: Path) -> None:
    text = JUDGED
    for name, long in LONG.items():
        text = re.sub(rf"\b{name}\b", long, text)
    shown = html.escape(calibrated(tmp_path, text), quote=True)
    frames = "".join(f'<iframe srcdoc="{shown}" width="{width}" height="900"></iframe>' for width in (1280, 390, 320))
    harness = tmp_path / "harness.html"
    harness.write_text(f"<!doctype html><meta charset=utf-8>{frames}{MEASURE}", encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    ran = subprocess.run(
        [*command, "--dump-dom", harness.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    (told,) = re.findall(r'<pre id="found">(.*?)</pre>', ran.stdout, re.DOTALL)
    for measured in json.loads(html.unescape(told)):
        assert measured == {"scrolls": False, "over": [], "wide": [], "plots": 4}
