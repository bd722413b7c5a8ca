"""What an answer would cost, and why a request cannot go there, before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

import dynflow
from dynflow.request import Request

INNER = """
version: 1
models: {large: {provider: host, price: {input: 10, output: 20}}}
nodes:
  canned: {type: prompt, role: answer, template: no}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: cloud, when: input.tokens < 100}
  - {from: start, to: canned}
  - {from: cloud, to: end}
  - {from: canned, to: end}
"""
OUTER = """
version: 1
models:
  small: {provider: host, price: {input: 1, output: 2}, max_tokens: 50, capabilities: {images: false}}
  large: {provider: host, price: {input: 10, output: 20}, capabilities: {images: false}}
  strange: {provider: host}
nodes:
  local: {type: chat, model: small, system: Be brief.}
  cloud: {type: chat, model: large}
  both: {type: race, of: [local, cloud]}
  inner: {type: graph, uses: inner.yaml}
  unknown: {type: chat, model: strange}
  canned: {type: prompt, role: answer, template: no}
edges:
  - {from: start, to: both, when: input.tokens > 1}
  - {from: start, to: inner, when: input.tokens > 2}
  - {from: start, to: unknown, when: input.tokens > 3}
  - {from: start, to: canned}
  - {from: both, to: end}
  - {from: inner, to: end}
  - {from: unknown, to: end}
  - {from: canned, to: end}
"""


@pytest.fixture
def flow(tmp_path: Path) -> dynflow.Flow:
    (tmp_path / "inner.yaml").write_text(INNER, encoding="utf-8")
    (tmp_path / "outer.yaml").write_text(OUTER, encoding="utf-8")
    return dynflow.load(tmp_path / "outer.yaml")


REQUEST = Request("x" * 40)  # about 10 tokens
SMALL, LARGE = ((10 + 3) * 1 + 50 * 2) / 1e6, (10 * 10 + 100 * 20) / 1e6


@pytest.mark.parametrize(
    ("node", "usd"),
    [
        ("local", SMALL),  # its system text counts, and max_tokens caps the answer
        ("cloud", LARGE),
        ("both", SMALL + LARGE),
        ("inner", LARGE),
        ("canned", 0.0),
        ("unknown", None),
    ],
)
def test_expected_usd(flow: dynflow.Flow, node: str, usd: float | None) -> None:
    found = flow.resources.expected_usd(node, REQUEST, 100)
    assert found == (None if usd is None else pytest.approx(usd))


def test_bound_tools_are_paid_for(flow: dynflow.Flow) -> None:
    request = Request("x" * 40, call_options={"tools": [{"name": "y" * 100}]})
    found = flow.resources.expected_usd("cloud", request, 100)
    assert found == pytest.approx(LARGE + request.tool_tokens * 10 / 1e6)
    assert request.tool_tokens > 0


def test_why_a_node_is_closed(flow: dynflow.Flow) -> None:
    request = Request([HumanMessage([{"type": "image_url", "image_url": "data:x"}])])
    assert flow.resources.why_closed("cloud", request) == "model 'large' reads no images"
    assert flow.resources.why_closed("both", request) == "model 'small' reads no images"
    assert flow.resources.why_closed("inner", request) == "every way on from it is closed"
