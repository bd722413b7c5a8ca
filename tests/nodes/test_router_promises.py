"""A router under replay, evaluation and calibration: the same choices as in a flow, and no promise where none holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dynflow
from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.independence import check_independent, remembering
from dynflow.calibration.outcomes import OutcomeFile, read_outcomes
from dynflow.calibration.replay import Replay
from dynflow.errors import CalibrationError
from dynflow.flow import Flow
from dynflow.node import Memory
from dynflow.testing import FakeChat
from tests.cli.outcomes import write_rows

GRAPH = """
version: 1
params:
  floor: {default: 0.5, min: 0, max: 1, tune: true}
models:
  tiny: {provider: host, price: {input: 0, output: 0}, capabilities: {context: 40}}
  mid: {provider: host, price: {input: 1, output: 2}}
  large: {provider: host, price: {input: 10, output: 20}}
nodes:
  guess: {type: runnable, name: guess, ports: {quality: record}, on_failure: {quality: {big: 1}}}
  route:
    type: router
    routes: [small, middle, big]
    objective: cheapest
    quality: ${guess.quality}
    floor: ${params.floor}
    abstain: big
  small: {type: chat, model: tiny}
  middle: {type: chat, model: mid}
  big: {type: chat, model: large}
edges:
  - {from: start, to: guess}
  - {from: guess, to: route}
  - {from: route, to: small, when: route.choice == 'small'}
  - {from: route, to: middle, when: route.choice == 'middle'}
  - {from: route, to: big}
  - {from: small, to: end}
  - {from: middle, to: end}
  - {from: big, to: end}
limits: {usd_per_request: 0.01}
baseline: big
"""
STICKY = GRAPH.replace("    abstain: big", "    abstain: big\n    sticky: 0.1")


def guess(text: str) -> dict[str, Any]:
    """The predicted quality by route: what the request begins with."""
    small, middle, big = map(float, text.split()[:3])
    return {"quality": {"small": small, "middle": middle, "big": big}}


def flow(text: str = GRAPH) -> Flow:
    models = {name: FakeChat(replies=[name]) for name in ("tiny", "mid", "large")}
    return dynflow.loads(text, runnables={"guess": guess}, models=models)


def prompts(n: int) -> list[str]:
    """Requests of all grades; every fifth is too long for the small model."""
    return [
        f"{(row * 37 % n) / n:.3f} {0.3 + 0.6 * (row * 17 % n) / n:.3f} 0.95" + (" word" * 60 if row % 5 == 0 else "")
        for row in range(n)
    ]


def outcomes(folder: Path, n: int) -> OutcomeFile:
    """Answers exactly as good as predicted."""
    rows = []
    for row, prompt in enumerate(prompts(n)):
        quality = guess(prompt)["quality"]
        usd = {"small": 0.0, "middle": 0.001, "big": 0.005}
        answers = {name: {"quality": quality[name], "usd": usd[name]} for name in quality}
        rows.append({"id": str(row), "prompt": prompt, "outcomes": answers})
    return read_outcomes(write_rows(folder / "outcomes.jsonl", rows))


def test_replay_chooses_as_the_flow_does(tmp_path: Path) -> None:
    made, file = flow(), outcomes(tmp_path, 40)
    floors = [0.0, 0.4, 0.7, 0.97]
    walked = Replay(made, file).walk([{"floor": floor} for floor in floors])
    taken: set[str] = set()
    for place, floor in enumerate(floors):
        answers = [made.run(row.input, {"configurable": {"floor": floor}}).trace.answer for row in file.rows]
        assert [walked.nodes[answer] for answer in walked.answer[place]] == answers
        taken.update(filter(None, answers))
    assert taken == {"small", "middle", "big"}


def test_a_floor_is_calibrated(tmp_path: Path) -> None:
    done = calibrate(flow(), outcomes(tmp_path, 400), kind="quality_of", target=0.7, of="big")
    assert 0 < done.calibration.params["floor"] < 1
    assert done.calibration.expected["quality"]["value"] >= 0.7 * 0.95
    assert done.calibration.expected["strong_share"]["value"] < 0.9


def test_a_sticky_router_gets_no_promise_on_rows_that_tell_no_conversation(tmp_path: Path) -> None:
    file = outcomes(tmp_path, 150)
    with pytest.raises(CalibrationError, match="'route' keeps conversations on their route") as caught:
        calibrate(flow(STICKY), file, kind="quality_of", target=0.7, of="big")
    assert caught.value.code == "dependent"
    check_independent(flow(), file)


def test_rows_of_a_sticky_router_are_evaluated_one_by_one(tmp_path: Path) -> None:
    file = outcomes(tmp_path, 60)
    sticky, plain = evaluate(flow(STICKY), file, times=20), evaluate(flow(), file, times=20)
    assert sticky.figures["quality"] == plain.figures["quality"]
    assert 'route is sticky, and no row says its "conversation": each counts as the first turn of one' in sticky.notes


def test_floors_are_tried_where_a_conversation_would_leave_its_route_too(tmp_path: Path) -> None:
    file = outcomes(tmp_path, 40)
    qualities = {quality for row in file.rows for quality in guess(str(row.input))["quality"].values()}
    found = Replay(flow(STICKY), file).numbers([{}], "floor", lambda replay, name: [])
    tried = {round(float(number), 9) for numbers in found for number in numbers}
    for quality in qualities:
        assert {round(quality + shift, 9) for shift in (-0.1, 0.0, 0.1)} <= tried


def test_a_router_inside_a_sub_graph_is_found(tmp_path: Path) -> None:
    inner = STICKY.replace("type: runnable, name: guess, ports: {quality: record}", "type: prompt, template: x")
    inner = inner.replace(", on_failure: {quality: {big: 1}}", "").replace(
        "${guess.quality}", "{small: 1, middle: 1, big: 1}"
    )
    (tmp_path / "inner.yaml").write_text(inner, encoding="utf-8")
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        "version: 1\nnodes: {part: {type: graph, uses: inner.yaml}}\n"
        "edges: [{from: start, to: part}, {from: part, to: end}]\n",
        encoding="utf-8",
    )
    assert remembering(dynflow.load(outer)) == {"part/route": Memory("thread_id", "choice")}
