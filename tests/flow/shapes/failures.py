"""Cascades, failures, and conditions on what is unknown."""

from __future__ import annotations

from typing import Any

from langchain_core.exceptions import ModelRateLimitError

from dynflow.errors import ParamError
from dynflow.testing import FakeChat
from tests.flow.shapes.hosts import HOST, SCORE, canned, echo, failing, scoring, small_and_large
from tests.flow.shapes.shape import Case, shape

# Cascades and failures

CASCADE = (
    HOST
    + """
params:
  trust_above: {default: 0.5, min: 0, max: 1}
nodes:
  local: {type: chat, model: small}
  check:
    type: runnable
    name: check
    role: signal
    input: ${local.text}
    ports: {confidence: number}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: local}
  - {from: local, to: cloud, when: local.failed}
  - {from: local, to: check}
  - {from: check, to: cloud, when: check.failed or check.confidence < params.trust_above}
  - {from: check, to: end}
  - {from: cloud, to: end, when: cloud.failed and local.ok}
  - {from: cloud, to: end}
"""
)


def checking() -> dict[str, Any]:
    return {"check": lambda text: {"confidence": float(text.split()[-1])}}


shape(
    "cascade",
    CASCADE,
    Case("sure 0.9", "local check end", "small: sure 0.9"),
    Case("unsure 0.2", "local check cloud end", "large: unsure 0.2"),
    Case("check breaks", "local check cloud end", "large: check breaks", degraded=True),
    Case("strict 0.9", "local check cloud end", "large: strict 0.9", params={"trust_above": 0.95}),
    Case("wrong 0.9", "", error=ParamError, params={"trust_above": "high"}),
    Case("beyond 0.9", "", error=ParamError, params={"trust_above": 1.5}),
    runnables=checking,
    models=small_and_large,
)
shape(
    "cascade whose cloud fails: the draft is kept",
    CASCADE,
    Case("sure 0.9", "local check end", "small: sure 0.9"),
    Case("unsure 0.2", "local check cloud end", "small: unsure 0.2", degraded=True),
    runnables=checking,
    models=lambda: {"small": FakeChat(replies=echo("small")), "large": failing()},
)
shape(
    "cascade whose draft fails",
    CASCADE,
    Case("any 0.9", "local cloud end", "large: any 0.9", degraded=True),
    runnables=checking,
    models=lambda: {"small": failing(), "large": FakeChat(replies=echo("large"))},
)
shape(
    "cascade where both fail: the last one's error",
    CASCADE,
    Case("any 0.9", "local cloud", error=ModelRateLimitError),
    runnables=checking,
    models=lambda: {"small": failing(OSError("disk")), "large": failing()},
)
shape(
    "fallback by kind of failure",
    HOST
    + f"""
nodes:
  cloud: {{type: chat, model: large}}
  busy: {canned("busy")}
  broken: {canned("broken")}
edges:
  - {{from: start, to: cloud}}
  - {{from: cloud, to: busy, when: "cloud.error in ['rate_limit', 'timeout']"}}
  - {{from: cloud, to: broken, when: cloud.failed}}
  - {{from: cloud, to: end}}
  - {{from: busy, to: end}}
  - {{from: broken, to: end}}
""",
    Case("x", "cloud busy end", "busy", degraded=True),
    models=lambda: {"small": FakeChat(), "large": failing()},
)
shape(
    "the default edge is never taken after a failure",
    HOST
    + f"""
nodes:
  cloud: {{type: chat, model: large}}
  busy: {canned("busy")}
edges:
  - {{from: start, to: cloud}}
  - {{from: cloud, to: busy, when: cloud.error == 'rate_limit'}}
  - {{from: cloud, to: end}}
  - {{from: busy, to: end}}
""",
    Case("x", "cloud", error=ConnectionError),
    models=lambda: {"small": FakeChat(), "large": failing(ConnectionError("gone"))},
)
shape(
    "on_failure stands in",
    f"""
nodes:
  difficulty:
    type: runnable
    name: score
    role: signal
    ports: {{score: number, label: string}}
    on_failure: {{score: 1.0}}
  low: {canned("low")}
  high: {canned("high")}
  labelled: {canned("labelled")}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: labelled, when: difficulty.label == 'a'}}
  - {{from: difficulty, to: high, when: difficulty.ok and difficulty.score >= 0.5}}
  - {{from: difficulty, to: low}}
  - {{from: low, to: end}}
  - {{from: high, to: end}}
  - {{from: labelled, to: end}}
""",
    Case("0.1 b", "difficulty low end", "low"),
    Case("0.9 b", "difficulty high end", "high"),
    Case("0.9 a", "difficulty labelled end", "labelled"),
    Case("broken", "difficulty high end", "high", degraded=True),
    runnables=lambda: {"score": lambda text: {"score": float(text.split()[0]), "label": text.split()[1]}},
)

# Three values

shape(
    "unknown: what failed or did not run",
    f"""
nodes:
  first: {SCORE}
  second: {SCORE}
  a: {canned("a")}
  b: {canned("b")}
  c: {canned("c")}
  d: {canned("d")}
edges:
  - {{from: start, to: second, when: "input.text == '7'"}}
  - {{from: start, to: first}}
  - {{from: first, to: a, when: first.failed}}
  - {{from: first, to: second}}
  - {{from: second, to: a, when: first.score > 0 and second.failed}}
  - {{from: second, to: b, when: not first.score > 0}}
  - {{from: second, to: c, when: first.score != 7 or second.score == 7}}
  - {{from: second, to: d}}
  - {{from: a, to: end}}
  - {{from: b, to: end}}
  - {{from: c, to: end}}
  - {{from: d, to: end}}
""",
    Case("7", "second c end", "c"),  # `first` did not run: the first three are unknown, but the last `or` is true
    Case("-1", "first second b end", "b"),
    Case("1", "first second c end", "c"),
    Case("7.0", "first second c end", "c"),
    Case("x", "first a end", "a", degraded=True),
    runnables=scoring,
)
shape(
    "ok and failed of a node that did not run are false",
    f"""
nodes:
  first: {SCORE}
  a: {canned("a")}
  b: {canned("b")}
  last: {{type: prompt, template: x}}
edges:
  - {{from: start, to: first, when: "input.text != 'skip'"}}
  - {{from: start, to: last}}
  - {{from: first, to: last, when: first.failed}}
  - {{from: first, to: last}}
  - {{from: last, to: a, when: not first.ok and not first.failed}}
  - {{from: last, to: b}}
  - {{from: a, to: end}}
  - {{from: b, to: end}}
""",
    Case("skip", "last a end", "a"),
    Case("1", "first last b end", "b"),
    Case("x", "first last b end", "b", degraded=True),
    runnables=scoring,
)
shape(
    "a null port is neither less nor more",
    f"""
nodes:
  first: {{type: runnable, name: maybe, role: signal, ports: {{score: number}}}}
  low: {canned("low")}
  high: {canned("high")}
  none: {canned("none")}
edges:
  - {{from: start, to: first}}
  - {{from: first, to: none, when: first.score == null}}
  - {{from: first, to: low, when: first.score < 0.5}}
  - {{from: first, to: high}}
  - {{from: low, to: end}}
  - {{from: high, to: end}}
  - {{from: none, to: end}}
""",
    Case("0.1", "first low end", "low"),
    Case("0.6", "first high end", "high"),
    Case("?", "first none end", "none"),
    runnables=lambda: {"maybe": lambda text: {"score": None if text == "?" else float(text)}},
)
