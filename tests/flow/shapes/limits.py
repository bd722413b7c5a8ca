"""Money and time that run out."""

from __future__ import annotations

from typing import Any

from dynflow.errors import BudgetExceeded, DeadlineExceeded, InputError, NodeTimeout
from dynflow.testing import FakeChat
from tests.flow.shapes.hosts import HOST, canned, echo, small_and_large
from tests.flow.shapes.shape import Case, shape

# Money

PRICED = """
models:
  small: {provider: host, price: {input: 0, output: 0}}
  large: {provider: host, max_tokens: 100, price: {input: 10, output: 100}}
"""
shape(
    "a refused reservation takes the budget edge",
    PRICED
    + """
limits: {usd_per_request: 0.005}
nodes:
  cloud: {type: chat, model: large}
  local: {type: chat, model: small}
edges:
  - {from: start, to: cloud}
  - {from: cloud, to: local, when: cloud.error == 'budget'}
  - {from: cloud, to: end}
  - {from: local, to: end}
""",
    Case("x", "cloud local end", "small: x", degraded=True),
    models=small_and_large,
)
shape(
    "max_tokens is clamped to what the limit affords",
    PRICED.replace("max_tokens: 100, ", "")
    + """
limits: {usd_per_request: 0.00105}
nodes: {cloud: {type: chat, model: large}}
edges: [{from: start, to: cloud}, {from: cloud, to: end}]
""",
    Case("one two three four", "cloud end", "large: one"),
    Case("w " * 50, "cloud", error=BudgetExceeded),
    models=small_and_large,
)
shape(
    "an unknown price is refused while a limit is set",
    HOST
    + f"""
limits: {{usd_per_day: 100}}
nodes:
  cloud: {{type: chat, model: large}}
  sorry: {canned("sorry")}
edges:
  - {{from: start, to: sorry, when: "input.text == 'cheap'"}}
  - {{from: start, to: cloud}}
  - {{from: cloud, to: end}}
  - {{from: sorry, to: end}}
""",
    Case("x", "cloud", error=BudgetExceeded),
    Case("cheap", "sorry end", "sorry"),
    models=small_and_large,
)
shape(
    "edges look at what is left",
    PRICED
    + """
limits: {usd_per_request: 0.02}
nodes:
  cloud: {type: chat, model: large}
  again: {type: chat, model: large}
  local: {type: chat, model: small}
edges:
  - {from: start, to: cloud, when: budget.request_left_usd >= 0.02 and budget.day_left_usd > 1000000}
  - {from: start, to: local}
  - {from: cloud, to: again, when: "budget.request_left_usd < 0.0197 and budget.seconds_left > 1000"}
  - {from: cloud, to: local}
  - {from: again, to: end}
  - {from: local, to: end}
""",
    Case("x", "cloud local end", "small: x"),
    Case("a b c", "cloud again end", "large: a b c"),
    models=small_and_large,
)
shape(
    "limits.max_tokens and max_input_tokens",
    HOST
    + """
limits: {max_tokens: 3, max_input_tokens: 10}
nodes: {local: {type: chat, model: small, max_tokens: 50}}
edges: [{from: start, to: local}, {from: local, to: end}]
""",
    Case("a b c d e", "local end", "small: a b"),
    Case("word " * 20, "", error=InputError),
    models=small_and_large,
)

# Time


def hanging() -> dict[str, Any]:
    return {"small": FakeChat(replies=echo("small")), "large": FakeChat(hang_after=0)}


shape(
    "a node's timeout takes its failure edge",
    HOST
    + """
nodes:
  cloud: {type: chat, model: large, timeout: 50ms}
  local: {type: chat, model: small}
edges:
  - {from: start, to: cloud}
  - {from: cloud, to: local, when: cloud.error == 'timeout'}
  - {from: cloud, to: end}
  - {from: local, to: end}
""",
    Case("x", "cloud local end", "small: x", degraded=True),
    models=hanging,
)
shape(
    "a node's timeout that nothing handles",
    HOST
    + """
nodes: {cloud: {type: chat, model: large, timeout: 50ms}}
edges: [{from: start, to: cloud}, {from: cloud, to: end}]
""",
    Case("x", "cloud", error=NodeTimeout),
    models=hanging,
)
shape(
    "past the deadline a canned reply goes out",
    HOST
    + f"""
limits: {{timeout: 60ms}}
nodes:
  cloud: {{type: chat, model: large, timeout: 10s}}
  sorry: {canned("sorry")}
edges:
  - {{from: start, to: cloud}}
  - {{from: cloud, to: sorry, when: cloud.error == 'deadline'}}
  - {{from: cloud, to: end}}
  - {{from: sorry, to: end}}
""",
    Case("x", "cloud sorry end", "sorry", degraded=True),
    models=hanging,
)
shape(
    "past the deadline no model is called",
    HOST
    + """
limits: {timeout: 60ms}
nodes:
  cloud: {type: chat, model: large}
  local: {type: chat, model: small}
edges:
  - {from: start, to: cloud}
  - {from: cloud, to: local, when: cloud.failed}
  - {from: cloud, to: end}
  - {from: local, to: end}
""",
    Case("x", "cloud local", error=DeadlineExceeded),
    models=hanging,
)
shape(
    "a group past the deadline",
    HOST
    + f"""
limits: {{timeout: 60ms}}
nodes:
  first: {{type: race, of: [local, cloud]}}
  local: {{type: chat, model: large}}
  cloud: {{type: chat, model: large}}
  sorry: {canned("sorry")}
edges:
  - {{from: start, to: first}}
  - {{from: first, to: sorry, when: first.error == 'deadline' and not local.failed and not cloud.ok}}
  - {{from: first, to: end}}
  - {{from: sorry, to: end}}
""",
    Case("x", "first sorry end", "sorry", degraded=True),
    models=hanging,
)
