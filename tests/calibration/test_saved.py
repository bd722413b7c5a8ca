"""Calibration files: applied where they were made for the graph as it is, told of where not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import dynflow
from dynflow.calibration.saved import Calibration, path_for
from dynflow.errors import ArtefactError
from dynflow.flow import Flow
from dynflow.testing import FakeChat

GRAPH = """
version: 1
params:
  easy_below: {default: 0.5, min: 0, max: 1, tune: true}
models: {a: {provider: host}, b: {provider: host}}
nodes:
  local: {type: chat, model: a}
  cloud: {type: chat, model: b}
edges:
  - {from: start, to: local, when: input.tokens < 100 * params.easy_below}
  - {from: start, to: cloud}
  - {from: local, to: end}
  - {from: cloud, to: end}
"""
AROUND = """
version: 1
nodes:
  inner: {type: graph, uses: graph.yaml%s}
edges:
  - {from: start, to: inner}
  - {from: inner, to: end}
"""
MODELS = {"a": FakeChat(replies=["a"]), "b": FakeChat(replies=["b"])}
QUESTION = "abcd " * 30  # 38 tokens: below 50, above 10


def calibrate(graph: Path, **changes: Any) -> Path:
    """A calibration file beside a graph."""
    body = {
        "graph_hash": dynflow.load(graph, models=MODELS).graph_hash,
        "params": {"easy_below": 0.1},
        "promise": {"kind": "quality_of", "target": 0.95, "of": "cloud", "confidence": 0.9},
        "statement": "on new requests drawn like these, …",
        "n": 300,
        "tuning_rows": 60,
        "trained_on": 0,
        "bound": {},
        "expected": {},
        "signals": {},
        "data_sha256": "0" * 64,
        "made": "2026-01-01T00:00:00+00:00",
        "dynflow": "0.1.0",
    }
    file = path_for(graph)
    file.write_text(json.dumps(Calibration(**body | changes).as_dict()))
    return file


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.yaml"
    path.write_text(GRAPH)
    return path


def answer(flow: Flow, **params: Any) -> str:
    return str(flow.invoke(QUESTION, {"configurable": params}).text)


def test_loading_applies_it(graph: Path) -> None:
    assert answer(dynflow.load(graph, models=MODELS)) == "a"
    assert calibrate(graph).name == "graph.calibration.json"
    flow = dynflow.load(graph, models=MODELS)
    assert answer(flow) == "b"
    assert flow.params["easy_below"].default == 0.1
    assert flow.calibration is not None
    assert flow.calibration.n == 300
    assert flow.run(QUESTION).trace.params == {"easy_below": 0.1}
    assert [spec.default for spec in flow.config_specs] == [0.1]
    assert not flow.warnings


def test_a_caller_s_value_comes_before_it(graph: Path) -> None:
    calibrate(graph)
    assert answer(dynflow.load(graph, models=MODELS), easy_below=0.5) == "a"


def test_with_comes_before_it_and_it_before_the_default(graph: Path) -> None:
    calibrate(graph)
    around = graph.with_name("around.yaml")
    models = {f"inner/{name}": model for name, model in MODELS.items()}
    around.write_text(AROUND % "")
    assert answer(dynflow.load(around, models=models)) == "b"
    around.write_text(AROUND % ", with: {easy_below: 0.5}")
    assert answer(dynflow.load(around, models=models)) == "a"
    assert answer(dynflow.load(around, models=models), **{"inner/easy_below": 0.1}) == "b"


def test_one_for_another_graph_is_left_and_told_of(graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    calibrate(graph)
    graph.write_text(GRAPH.replace("100 *", "90 *"))
    with caplog.at_level(logging.WARNING, "dynflow"):
        flow = dynflow.load(graph, models=MODELS)
    assert answer(flow) == "a"
    assert flow.calibration is None
    (warning,) = flow.warnings
    assert (warning.code, warning.severity) == ("calibration", "warning")
    assert "another graph" in warning.text
    assert "calibrate again" in caplog.text


def test_a_new_layout_or_description_is_the_same_graph(graph: Path) -> None:
    calibrate(graph)
    graph.write_text(GRAPH.replace("version: 1\n", "version: 1\n\ndescription: the same\n"))
    assert answer(dynflow.load(graph, models=MODELS)) == "b"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_one_is_left_and_told_of(graph: Path, text: str) -> None:
    path_for(graph).write_text(text)
    flow = dynflow.load(graph, models=MODELS)
    assert [problem.code for problem in flow.warnings] == ["calibration"]
    with pytest.raises(ArtefactError):
        Calibration.read(path_for(graph))


@pytest.mark.parametrize("params", [{"easy_below": 2.0}, {"easy_below": "x"}, {"easy_above": 0.5}])
def test_params_that_the_graph_would_refuse_are_left(graph: Path, params: dict[str, Any]) -> None:
    calibrate(graph, params=params)
    assert [problem.code for problem in dynflow.load(graph, models=MODELS).warnings] == ["calibration"]
