"""A node says what its options are compared with: it is then run once for each order, and gives the same."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynflow
from dynflow.calibration import orders
from dynflow.calibration.columns import Column
from dynflow.calibration.outcomes import read_outcomes
from dynflow.calibration.paths import read_by_signals, values
from dynflow.calibration.replay import Replay
from dynflow.language.evaluate import UNKNOWN
from dynflow.language.references import Reference
from dynflow.node import Call, Output
from dynflow.nodes.router import Router

GRAPH = """
version: 1
params:
  low: {default: 0.3, min: -1, max: 2, tune: true}
  high: {default: 0.7, min: -1, max: 2, tune: true}
models:
  a: {provider: host, price: {input: 0, output: 0}, capabilities: {context: 40}}
  b: {provider: host, price: {input: 1000, output: 2000}}
  c: {provider: host}
nodes:
  guess:
    type: runnable
    name: guess
    ports: {score: number, confidence: number, quality: record}
    on_failure: {score: 0.45, confidence: 0.3, quality: {small: 0.45}}
  route:
    type: router
    routes: [small, middle, big]
    RULE
  small: {type: chat, model: a}
  middle: {type: chat, model: b}
  big: {type: chat, model: c}
edges:
  - {from: start, to: guess}
  - {from: guess, to: route}
  - {from: route, to: small, when: route.choice == 'small'}
  - {from: route, to: middle, when: route.choice == 'middle'}
  - {from: route, to: big}
  - {from: small, to: end}
  - {from: middle, to: end}
  - {from: big, to: end}
baseline: big
"""
BANDS = ["score: ${guess.score}", "bands:", "  - ${params.low}", "  - ${params.high}"]
SURE = ["abstain: middle", "confidence: ${guess.confidence}"]
RULES = {
    "bands": BANDS,
    "doubt": [*BANDS, *SURE, "sure_from: 0.3", "sticky: 0.1"],
    "unsure": [
        *("score: ${guess.score}", "bands: [0.3, 0.6]", "abstain: small"),
        *("unsure:", "  - ${params.low}", "  - ${params.high}"),
    ],
    "sure": ["score: ${guess.score}", "bands:", "  - 0.3", "  - ${params.low}", *SURE, "sure_from: ${params.high}"],
    "score": ["score: ${params.low}", "bands:", "  - ${params.high}", "  - ${guess.score}"],
    "random": ["scorer: random", *BANDS[1:]],
    "cheapest": ["objective: cheapest", "quality: ${guess.quality}", "floor: ${params.low}", "abstain: big"],
    "each": [
        *("objective: cheapest", "floor: ${params.low}", *SURE, "sure_from: ${params.high}"),
        *("quality:", "  small: ${guess.score}", "  middle: ${params.high}", "  big: 0.6"),
    ],
    "best": ["objective: best", "quality: ${guess.quality}", "max_usd: ${params.low}", "abstain: small"],
}
VALUES = (-0.1, 0.0, 0.3, 0.45, 0.6, 1.0, 1.1)
TRIED = (-0.1, 0.3, 0.45, 1.0, 1.1)
PORTS = ("choice", "score", "quality", "prices", "reason", "error")


def guess(text: str) -> dict[str, Any]:
    row = int(text.split()[0])
    if row % 11 == 5:
        raise ValueError("undecided")
    score = (None, math.nan, *VALUES)[row % 9]
    quality = {"small": score, "middle": (0.2, 0.4, 0.7)[row % 7 % 3], "big": (0.4, None, 1.0, 0.4)[row % 4]}
    return {
        "score": score,
        "confidence": (None, 0.3, 0.6)[row % 3],
        "quality": {} if row % 13 == 7 else quality,
    }


def replay(folder: Path, rule: str) -> Replay:
    answers = {name: {"quality": 1, "usd": 0} for name in ("small", "middle", "big")}
    prompts = [f"{row} please" + (" word" * 60 if row % 5 == 0 else "") for row in range(60)]
    rows = [json.dumps({"id": row, "prompt": prompt, "outcomes": answers}) for row, prompt in enumerate(prompts)]
    path = folder / "outcomes.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    text = GRAPH.replace("RULE", "\n    ".join(RULES[rule]))
    return Replay(dynflow.loads(text, runnables={"guess": guess}), read_outcomes(path))


def given(made: Replay, settings: list[dict[str, float]]) -> list[list[tuple[str, ...]]]:
    """What the router gave everywhere; as text, so that NaN equals itself."""
    walk = made.walking(settings)
    node, places = walk.nodes["route"], range(len(made))
    return [
        [tuple(repr(node.value(setting, row, port)) for port in PORTS) for row in places]
        for setting in range(len(settings))
    ]


@pytest.mark.parametrize("rule", RULES)
def test_every_place_has_what_the_node_itself_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    made = replay(tmp_path, rule)
    settings = [{"low": low, "high": high} for low, high in itertools.product(TRIED, TRIED)]
    runs: list[Call] = []
    run = Router.run

    def counted(self: Router, call: Call) -> Output:
        runs.append(call)
        return run(self, call)

    monkeypatch.setattr(Router, "run", counted)
    found = given(made, settings)
    few = len(runs)
    monkeypatch.setattr(Router, "compared", lambda self: {})
    assert found == given(made, settings)
    assert few < len(runs) - few
    assert len({each for row in found for each in row}) > 4


def test_only_a_value_that_matters_itself_makes_a_walk_slower(tmp_path: Path) -> None:
    assert {rule for rule in RULES if (made := replay(tmp_path, rule)) and read_by_signals(made, made.knobs)} == {
        "score",
        "each",
    }


def test_what_a_node_compares_a_param_with_is_tried(tmp_path: Path) -> None:
    made = replay(tmp_path, "bands")
    tried = values(made, "low", made.knobs["low"], 41)
    assert {0.375, 0.525} <= {round(value, 6) for value in tried}  # between scores, and none of the evenly spread


def test_numbers_are_what_options_are_given() -> None:
    record = {"a": 0.5, "b": "half"}
    columns = {
        "n.record": Column.of([record, {}, UNKNOWN]),
        "n.flag": Column.of([True, False, UNKNOWN]),
        "n.null": Column.of([None, 2, UNKNOWN]),
        "m.other": Column.of([7, 8, 9.5]),
    }

    def read(*targets: tuple[str, str]) -> Any:
        found = orders.numbers(Reference(targets), lambda owner, port: columns[f"{owner}.{port}"], ())
        return None if found is None else np.ravel(found).tolist()

    null = pytest.approx(math.nan, nan_ok=True)
    assert read(("n", "record.a"), ("m", "other")) == [0.5, 8, 9.5]
    assert read(("n", "null"), ("m", "other")) == [null, 2, 9.5]
    assert read(("n", "null")) == [null, 2, null]
    assert read(("n", "record.b")) is read(("n", "flag")) is read(("n", "record")) is None


def test_each_order_has_its_own_number() -> None:
    values = np.array([0.0, 1.0, math.nan])
    codes = orders.order(values[:, None], values[None, :])
    assert codes[0, 0] == codes[1, 1]
    assert len(np.unique(codes)) == 6  # equal, less, more, left null, right null, both


def test_codes_are_joined_however_many_there_are() -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 1_000, 50) for _ in range(12)]  # more combinations than a number of 64 bits tells apart
    codes = [np.concatenate([code, code]) for code in codes]
    whole = orders.joined(codes)
    assert whole.min() >= 0
    assert (whole[:50] == whole[50:]).all()
    assert len(np.unique(whole)) == 50
