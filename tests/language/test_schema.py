"""The JSON Schema: shipped as generated, takes every good graph, refuses what is plainly wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dynflow.compile import check_text
from dynflow.language.reader import decode, read
from dynflow.language.schema import built_in_types, json_schema
from tests.language.hostile import all_texts

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "dynflow" / "schema" / "v1.json"
GRAPHS = sorted((ROOT / "graphs").glob("*.yaml"))
BROKEN = Path(__file__).parent / "broken"

WHOLE = """
version: 1
name: whole
description: every section
x-note: &note {anything: [1, 2]}
inputs: {audio: audio, lang: {type: string, default: en, help: language}}
params:
  plain: 0.5
  word: text
  knob: {default: 0.7, min: 0, max: 1, tune: true, help: a knob}
models:
  small: {provider: llama_cpp, model: embedded/smollm2-135m-instruct, max_tokens: 256, price: {second: 0.001}}
  large:
    provider: litellm
    model: openai/gpt-5-mini
    api_key: ${env:KEY}
    temperature: ${env:TEMPERATURE:-0.5}
    timeout: 30s
    capabilities: {tools: true, context: 100000}
nodes:
  gauge: {type: difficulty_classifier, estimator: surface, timeout: 500ms, on_failure: {score: 1}}
  words:
    type: prompt
    template: "{input} in {lang}"
    with:
      lang: ${input.lang}
  route:
    type: router
    routes: [local, cloud]
    score: ${gauge.score}
    bands:
      - ${params.knob}
  local: {type: chat, model: small, buffer: true}
  cloud:
    type: chat
    model: large
    messages: ${words.messages}
    temperature: ${params.plain}
edges:
  - {from: start, to: gauge}
  - {from: gauge, to: words}
  - {from: words, to: route}
  - {from: route, to: cloud, when: route.choice == 'cloud'}
  - {from: route, to: local}
  - {from: local, to: end}
  - {from: cloud, to: end}
limits: {usd_per_request: 0.02, usd_per_day: 5, timeout: 60s, max_tokens: 500, max_input_tokens: 9000}
baseline: cloud
"""


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SHIPPED.read_text()))


def value_of(text: str) -> Any:
    source = decode(text, "graph.yaml")
    value = read(source)
    assert not source.problems
    return value


def test_shipped_as_generated() -> None:
    """`python -m dynflow.language.schema > dynflow/schema/v1.json` after any change of the language."""
    assert json.loads(SHIPPED.read_text()) == json_schema(built_in_types())


def test_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


def test_installed_types_are_in_it() -> None:
    assert set(built_in_types()) <= set(json_schema()["$defs"]["CommonOptions"]["properties"]["type"]["enum"])


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.stem)
def test_takes_the_graphs_that_are_shipped(file: Path, validator: Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(value_of(file.read_text()))] == []


def test_takes_a_graph_with_every_section(validator: Draft202012Validator) -> None:
    source, graph = check_text(WHOLE)
    assert graph is not None, [problem.render() for problem in source.errors()]
    assert [error.message for error in validator.iter_errors(value_of(WHOLE))] == []


def test_takes_what_the_check_takes(validator: Draft202012Validator) -> None:
    """Graphs of the corpus that only give warnings, and hostile ones that are sound all the same."""
    files = [file.read_bytes() for file in BROKEN.glob("warning_*.yaml")]
    assert files
    for data in [*files, *(text for _, text in all_texts() if len(text) < 2_000)]:
        source, graph = check_text(data)
        if graph is not None:
            assert [error.message for error in validator.iter_errors(value_of(source.text))] == [], source.text


REFUSED = """
version_two version_text version_missing unknown_section unknown_key_in_model unknown_key_in_price unknown_key_in_limits
unknown_key_in_param unknown_key_in_input unknown_key_in_edge nodes_missing nodes_empty edges_mapping edge_without_to
edge_is_text node_is_text node_without_type limits_negative name_is_number bad_names unknown_provider model_values
provider_reference unknown_type dotted_type type_reference unknown_option common_option_misspelt option_missing
option_types yes_is_text timeout_without_unit timeout_reference role_unknown chat_one_label group_empty race_of_one
race_stagger runnable_ports input_types input_type_missing model_reads_node group_of_reference many_faults
"""


@pytest.mark.parametrize("name", REFUSED.split())
def test_refuses_what_is_plainly_wrong(name: str, validator: Draft202012Validator) -> None:
    assert not validator.is_valid(value_of((BROKEN / f"{name}.yaml").read_text()))


def test_every_key_says_what_it_is_for() -> None:
    """An editor shows these words while one writes."""
    schema = json_schema(built_in_types())
    named = {"temperature", "top_p", "max_tokens", "stop", "seed"}  # known by these names everywhere
    for name, definition in [("graph", schema), *schema["$defs"].items()]:
        for key, value in definition.get("properties", {}).items():
            told = value.get("description") or "$ref" in value
            assert told or key in named, f"{name}.{key}"


def test_reference_pattern() -> None:
    pattern = json_schema(built_in_types())["$defs"]["Reference"]["pattern"]
    assert re.search(pattern, "${a.b ?? input.text}")
    assert not re.search(pattern, "ask ${a.b}")
