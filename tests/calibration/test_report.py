"""The HTML report: one file that needs nothing else, with every figure and picture."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.report import report
from tests.calibration.test_calibrate import ROUTE, drawn, file_of, flow


def page(folder: Path, text: str = ROUTE, title: str = "route") -> str:
    return report(evaluate(flow(text), file_of(folder, drawn(300)), times=20), title)


def test_it_needs_nothing_else(tmp_path: Path) -> None:
    shown = page(tmp_path)
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+", shown))
    assert addresses <= {"http://www.w3.org", "http://purl.org", "http://creativecommons.org"}  # names, not places
    assert not re.search(r"<(script|link|img|iframe)\b|url\((?!#)|@import", shown)
    assert '<meta name="viewport"' in shown


def test_it_shows_the_curve_and_the_figures(tmp_path: Path) -> None:
    shown = page(tmp_path)
    (drawing,) = re.findall(r"<svg.*?</svg>", shown, re.DOTALL)
    ElementTree.fromstring(drawing)
    for told in ("this graph", "oracle", "chance", "share of calls of cloud", "now, with its interval"):
        assert told in drawing
    for told in ("300 recorded requests", "APGR", "CPT(80 %)", "always cloud"):
        assert told in shown


def test_the_same_evaluation_gives_the_same_page(tmp_path: Path) -> None:
    assert page(tmp_path) == page(tmp_path)


@pytest.mark.parametrize("text", [ROUTE, ROUTE.replace(", tune: true", "")])
def test_titles_are_text_and_a_graph_without_a_knob_has_a_page(tmp_path: Path, text: str) -> None:
    assert "<h1>a &lt;b&gt;</h1>" in page(tmp_path, text, "a <b>")
