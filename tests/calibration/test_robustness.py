"""Rows that have little to tell: few, all alike, tied, free, or with nothing gained by the strong path."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import dynflow
from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.promises import Kind
from dynflow.calibration.report import report
from dynflow.errors import CalibrationError
from tests.calibration.test_calibrate import ROUTE, drawn, file_of, flow

Outcomes = Mapping[str, Mapping[str, Any]]


def changed(n: int, change: Callable[[Outcomes], Outcomes], prompt: str | None = None) -> list[dict[str, Any]]:
    rows = drawn(n)
    return [{**row, "prompt": prompt or row["prompt"], "outcomes": change(row["outcomes"])} for row in rows]


def both(quality: float, usd: float = 0.001) -> Callable[[Outcomes], Outcomes]:
    return lambda outcomes: {name: {"quality": quality, "usd": usd} for name in outcomes}


CASES: dict[str, list[dict[str, Any]]] = {
    "all right": changed(120, both(1.0)),
    "all wrong": changed(120, both(0.0)),
    "one class, fractional": changed(120, both(0.5)),
    "strong is worse": changed(120, lambda each: {"local": each["cloud"], "cloud": each["local"]}),
    "every score tied": changed(120, dict, prompt="0.5"),
    "nothing costs": changed(120, both(1.0, 0.0)),
    "two rows": drawn(2),
}


@pytest.mark.parametrize("rows", CASES.values(), ids=CASES.keys())
def test_evaluation_and_report_hold(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    found = evaluate(flow(), file_of(tmp_path, rows), times=20)
    json.dumps(found.as_dict(), allow_nan=False)
    for name in ("quality", "strong_share", "usd"):
        figure = found.figures[name]
        assert figure.low <= figure.value <= figure.high
    shown = report(found, "g")
    assert ">nan" not in shown
    assert "inf " not in shown
    known = found.figures["apgr"].as_dict()
    gained = found.baselines["always_strong"]["quality"].value > found.baselines["always_weak"]["quality"].value
    assert (known["value"] is not None) == gained
    assert any("no gap to recover" in note for note in found.notes) != gained


@pytest.mark.parametrize("kind", ["quality_of", "quality", "share", "usd"])
@pytest.mark.parametrize("rows", CASES.values(), ids=CASES.keys())
def test_a_calibration_is_made_or_refused_in_words(tmp_path: Path, rows: list[dict[str, Any]], kind: Kind) -> None:
    target = {"quality_of": 0.9, "quality": 0.9, "share": 0.5, "usd": 0.01}[kind]
    with suppress(CalibrationError):  # any other error is a fault
        found = calibrate(flow(), file_of(tmp_path, rows), kind=kind, target=target).calibration
        assert 0 <= found.params["bar"] <= 1
        json.dumps(found.as_dict(), allow_nan=False)


def test_a_score_that_is_no_number_breaks_nothing(tmp_path: Path) -> None:
    rows = [
        {**row, "prompt": f"nan {place}" if place % 5 == 0 else row["prompt"]} for place, row in enumerate(drawn(500))
    ]
    calibration = calibrate(flow(), file_of(tmp_path, rows), kind="share", target=0.5).calibration
    json.dumps(calibration.as_dict(), allow_nan=False)
    assert calibration.expected["strong_share"]["value"] > 0.3  # thresholds were found among the others
    found = evaluate(flow(), file_of(tmp_path, rows), times=20)
    json.dumps(found.as_dict(), allow_nan=False)
    assert ">nan" not in report(found, "g")


def test_one_row_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="1 row to evaluate on: give 30 or more"):
        evaluate(flow(), file_of(tmp_path, drawn(1)), times=5)
    assert any("from 9 rows are too narrow" in note for note in evaluate(flow(), file_of(tmp_path, drawn(9))).notes)
    assert not any("too narrow" in note for note in evaluate(flow(), file_of(tmp_path, drawn(30))).notes)


def test_prices_of_nothing_promise_no_cost(tmp_path: Path) -> None:
    free = ROUTE.replace("input: 1, output: 1", "input: 0, output: 0").replace("input: 30, output: 30", "input: 0")
    free = free.replace("input: 0}", "input: 0, output: 0}").replace("limits: {usd_per_request: 0.02}\n", "")
    rows = changed(120, lambda each: {name: {"quality": body["quality"]} for name, body in each.items()})
    loaded = dynflow.loads(free, runnables={"difficulty": lambda text: {"score": float(text.split()[0])}})
    found = evaluate(loaded, file_of(tmp_path, rows), times=20)
    assert found.figures["usd"].value == 0
    with pytest.raises(CalibrationError, match="costs nothing") as caught:
        calibrate(loaded, file_of(tmp_path, rows), kind="usd", target=0.001)
    assert caught.value.code == "no_cap"
