"""Hashes tell graphs apart that would do different things, and those alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

import dynflow
from dynflow.hashes import content_hash, graph_hash

GRAPH = """\
version: 1
name: asking
params: {bound: 0.5}
models:
  small: {provider: litellm, model: openai/small, api_key: sk-first}
nodes:
  ask: {type: chat, model: small, system: Be brief.}
  canned: {type: prompt, role: answer, template: none}
edges:
  - {from: start, to: ask, when: input.tokens > params.bound}
  - {from: start, to: canned}
  - {from: ask, to: end}
  - {from: canned, to: end}
limits: {usd_per_day: 1.0, max_tokens: 100}
"""
OUTER = """\
version: 1
nodes:
  inner: {type: graph, uses: inner.yaml}
edges:
  - {from: start, to: inner}
  - {from: inner, to: end}
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("sk-first", "sk-second", True),
        ("sk-first", "'${env:KEY:-sk-third}'", True),
        ("name: asking", "name: other\ndescription: 'Asks.'  # a word on it", True),
        ("{usd_per_day: 1.0, max_tokens: 100}", "{max_tokens: 100, usd_per_day: 2.0, timeout: 9s}", True),
        ("max_tokens: 100", "max_tokens: 200", False),
        ("openai/small", "openai/large", False),
        ("bound: 0.5", "bound: 0.6", False),
        ("Be brief.", "Be long.", False),
        ("input.tokens >", "input.tokens <", False),
    ],
)
def test_what_makes_another_graph(old, new, same):
    assert old in GRAPH
    changed = graph_hash(dynflow.loads(GRAPH.replace(old, new)))
    assert (changed == graph_hash(dynflow.loads(GRAPH))) is same


def test_sub_graphs_count(tmp_path: Path):
    (tmp_path / "outer.yaml").write_text(OUTER)
    hashes = set()
    for text in (GRAPH, GRAPH.replace("Be brief.", "Be long."), GRAPH.replace("sk-first", "sk-second")):
        (tmp_path / "inner.yaml").write_text(text)
        hashes.add(graph_hash(dynflow.load(tmp_path / "outer.yaml")))
    assert len(hashes) == 2


def test_inputs():
    assert content_hash({"a": 1, "b": ["ü", None]}) == content_hash({"b": ["ü", None], "a": 1})
    assert content_hash("1") != content_hash(1)
    assert content_hash("\ud800") != content_hash("\ud801")  # half a pair, as JSON may hold
    assert content_hash([HumanMessage("Hi")]) == content_hash((HumanMessage("Hi", id="run-1"),))
    assert content_hash([HumanMessage("Hi")]) != content_hash([AIMessage("Hi")])
