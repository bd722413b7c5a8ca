"""Requests that not every model takes."""

from __future__ import annotations

from langchain_core.messages import HumanMessage

from dynflow.errors import NoEligibleAnswer
from tests.flow.shapes.hosts import canned, small_and_large
from tests.flow.shapes.shape import Case, shape

# Capabilities

IMAGE = [HumanMessage([{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}])]
LONG = "word " * 100
SEEING = """
models:
  small: {provider: host, capabilities: {images: false, context: 50}}
  large: {provider: host, capabilities: {images: true}}
"""
shape(
    "closed edges are passed over",
    SEEING
    + """
nodes:
  difficulty: {type: runnable, name: constant, role: signal, ports: {score: number}}
  local: {type: chat, model: small}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: difficulty}
  - {from: difficulty, to: local, when: difficulty.score < 0.5}
  - {from: difficulty, to: cloud}
  - {from: local, to: end}
  - {from: cloud, to: end}
""",
    Case("easy", "difficulty local end", "small: easy"),
    Case(IMAGE, "difficulty cloud end", "large: what is it?"),
    Case(LONG, "difficulty cloud end", f"large: {LONG}"),
    runnables=lambda: {"constant": lambda _: {"score": 0.1}},
    models=small_and_large,
)
shape(
    "no way on is open",
    SEEING.replace("images: true", "images: false")
    + f"""
nodes:
  difficulty: {{type: runnable, name: constant, role: signal, ports: {{score: number}}}}
  local: {{type: chat, model: small}}
  cloud: {{type: chat, model: large}}
  sorry: {canned("sorry")}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: sorry, when: difficulty.score > 0.5}}
  - {{from: difficulty, to: local, when: difficulty.score < 0.5}}
  - {{from: difficulty, to: cloud}}
  - {{from: local, to: end}}
  - {{from: cloud, to: end}}
  - {{from: sorry, to: end}}
""",
    Case("easy", "difficulty local end", "small: easy"),
    Case(IMAGE, "difficulty", error=NoEligibleAnswer),  # `sorry` is open, but its condition is not true
    Case(LONG, "difficulty cloud end", f"large: {LONG}"),
    runnables=lambda: {"constant": lambda _: {"score": 0.1}},
    models=small_and_large,
)
shape(
    "a signal before closed answers only is closed too",
    SEEING
    + """
nodes:
  polish: {type: prompt, template: "{input}"}
  local: {type: chat, model: small}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: polish, when: input.tokens < 500}
  - {from: start, to: cloud}
  - {from: polish, to: local}
  - {from: local, to: end}
  - {from: cloud, to: end}
""",
    Case("easy", "polish local end", "small: easy"),
    Case(IMAGE, "cloud end", "large: what is it?"),
    models=small_and_large,
)

shape(
    "a member that cannot take the request is not asked",
    SEEING
    + f"""
nodes:
  first: {{type: race, of: [local, cloud]}}
  local: {{type: chat, model: small}}
  cloud: {{type: chat, model: large}}
  quick: {canned("quick")}
edges:
  - {{from: start, to: first}}
  - {{from: first, to: quick, when: first.failed}}
  - {{from: first, to: quick, when: first.winner == 'local'}}
  - {{from: first, to: end}}
  - {{from: quick, to: end}}
""",
    Case("easy", "first quick end", "quick"),
    Case(IMAGE, "first end", "large: what is it?"),
    models=lambda: small_and_large(delay=0.05),
)
shape(
    "a parallel group needs all its members",
    SEEING
    + f"""
nodes:
  both: {{type: parallel, of: [one, two]}}
  one: {{type: chat, model: small, role: signal}}
  two: {{type: chat, model: large, role: signal}}
  done: {canned("done")}
  other: {canned("other")}
edges:
  - {{from: start, to: both, when: input.tokens > 0}}
  - {{from: start, to: other}}
  - {{from: both, to: other, when: both.failed}}
  - {{from: both, to: done}}
  - {{from: done, to: end}}
  - {{from: other, to: end}}
""",
    Case("easy", "both done end", "done"),
    Case(IMAGE, "other end", "other"),
    models=small_and_large,
)
