"""The plainest graphs: one answer, two ways, chained conditions."""

from __future__ import annotations

from langchain_core.messages import AIMessage, HumanMessage

from dynflow.errors import InputError
from tests.flow.shapes.hosts import HOST, SCORE, canned, scoring, small_and_large
from tests.flow.shapes.shape import Case, shape

# The plainest

shape(
    "single answer",
    HOST
    + """
nodes: {local: {type: chat, model: small}}
edges: [{from: start, to: local}, {from: local, to: end}]
""",
    Case("hello there", "local end", "small: hello there"),
    Case([HumanMessage("one"), AIMessage("two"), HumanMessage("three")], "local end", "small: three"),
    Case({"input": "asked"}, "local end", "small: asked"),
    Case({"messages": [("human", "as messages")]}, "local end", "small: as messages"),
    Case("  ", "", error=InputError),
    Case(7, "", error=InputError),
    Case({"inptu": "x"}, "", error=InputError),
    models=small_and_large,
)
shape(
    "canned answer",
    """
nodes: {hello: {type: prompt, role: answer, template: "Hello, {input}!"}}
edges: [{from: start, to: hello}, {from: hello, to: end}]
""",
    Case("Ann", "hello end", "Hello, Ann!"),
    Case("{Bob}", "hello end", "Hello, {Bob}!"),
)
shape(
    "two ways by score",
    HOST
    + f"""
nodes:
  difficulty: {SCORE}
  local: {{type: chat, model: small}}
  cloud: {{type: chat, model: large}}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: cloud, when: difficulty.score >= 0.5}}
  - {{from: difficulty, to: local}}
  - {{from: local, to: end}}
  - {{from: cloud, to: end}}
""",
    Case("0.1", "difficulty local end", "small: 0.1"),
    Case("0.5", "difficulty cloud end", "large: 0.5"),
    Case("nan", "difficulty local end", "small: nan"),
    Case("no number", "difficulty", error=ValueError),
    runnables=scoring,
    models=small_and_large,
)
shape(
    "two edges between the same nodes",
    f"""
nodes:
  difficulty: {SCORE}
  low: {canned("low")}
  high: {canned("high")}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: high, when: difficulty.score > 0.9}}
  - {{from: difficulty, to: low, when: difficulty.score > 0.5}}
  - {{from: difficulty, to: high, when: difficulty.score < 0.1}}
  - {{from: difficulty, to: low}}
  - {{from: low, to: end}}
  - {{from: high, to: end}}
""",
    Case("0.95", "difficulty high end", "high"),
    Case("0.05", "difficulty high end", "high"),
    Case("0.6", "difficulty low end", "low"),
    Case("0.4", "difficulty low end", "low"),
    runnables=scoring,
)
shape(
    "chained conditions, arithmetic and functions",
    f"""
nodes:
  difficulty: {SCORE}
  middle: {canned("middle")}
  far: {canned("far")}
  other: {canned("other")}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: middle, when: 0.25 <= difficulty.score < 0.75}}
  - {{from: difficulty, to: far, when: "max(difficulty.score, 1) - abs(difficulty.score) < -1 and len(input.text) > 2"}}
  - {{from: difficulty, to: other}}
  - {{from: middle, to: end}}
  - {{from: far, to: end}}
  - {{from: other, to: end}}
""",
    Case("0.25", "difficulty middle end", "middle"),
    Case("0.75", "difficulty other end", "other"),
    Case("-2.5", "difficulty far end", "far"),
    Case("-9", "difficulty other end", "other"),
    runnables=scoring,
)
