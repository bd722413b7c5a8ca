"""Parallel groups, races and sub-graphs."""

from __future__ import annotations

from typing import Any

from dynflow.errors import NodeFailed, ParamError
from dynflow.testing import FakeChat
from tests.flow.shapes.hosts import HOST, SCORE, canned, echo, failing, fails, number, small_and_large
from tests.flow.shapes.shape import Case, shape

# Groups

PARALLEL = f"""
nodes:
  both: {{type: parallel, of: [one, two]}}
  one: {SCORE}
  two: {{type: runnable, name: length, role: signal, ports: {{length: integer}}}}
  a: {canned("a")}
  b: {canned("b")}
  failed: {canned("failed")}
edges:
  - {{from: start, to: both}}
  - {{from: both, to: failed, when: both.failed and one.failed and two.ok}}
  - {{from: both, to: a, when: one.score > 0.5 and two.length < 5}}
  - {{from: both, to: b}}
  - {{from: a, to: end}}
  - {{from: b, to: end}}
  - {{from: failed, to: end}}
"""


def measuring() -> dict[str, Any]:
    return {"score": number, "length": lambda text: {"length": len(text)}}


shape(
    "parallel signals",
    PARALLEL,
    Case("0.9", "both a end", "a"),
    Case("0.90000", "both b end", "b"),
    Case("x", "both failed end", "failed", degraded=True),
    runnables=measuring,
)
shape(
    "parallel with a member that nothing handles",
    PARALLEL.replace("both.failed and one.failed and two.ok", "one.score < -5"),
    Case("0.9", "both a end", "a"),
    Case("-9", "both failed end", "failed"),
    Case("x", "both", error=NodeFailed),
    runnables=measuring,
)
shape(
    "parallel with a member's on_failure",
    PARALLEL.replace(SCORE, SCORE.replace("}}", "}, on_failure: {score: 1.0}}")),
    Case("0.1", "both b end", "b"),
    Case("x", "both a end", "a", degraded=True),
    runnables=measuring,
)
RACE = (
    HOST
    + f"""
nodes:
  first: {{type: race, of: [local, cloud], OPTIONS}}
  local: {{type: chat, model: small}}
  cloud: {{type: chat, model: large}}
  nobody: {canned("nobody")}
  done: {{type: prompt, template: done}}
edges:
  - {{from: start, to: first}}
  - {{from: first, to: nobody, when: first.failed}}
  - {{from: first, to: done, when: first.winner == 'local' and local.ok and not cloud.ok}}
  - {{from: first, to: end}}
  - {{from: done, to: end}}
  - {{from: nobody, to: end}}
"""
)
shape(
    "race: the first one wins, the other is called off",
    RACE.replace(", OPTIONS", ""),
    Case("x", "first done end", "small: x"),
    models=lambda: small_and_large(hang_after=0),
)
shape(
    "race: a failure lets the other win",
    RACE.replace(", OPTIONS", ""),
    Case("x", "first end", "large: x"),
    models=lambda: {"small": failing(), "large": FakeChat(replies=echo("large"))},
)
shape(
    "race: nobody wins",
    RACE.replace(", OPTIONS", ""),
    Case("x", "first nobody end", "nobody", degraded=True),
    models=lambda: {"small": failing(), "large": failing()},
)
shape(
    "race: only what is acceptable",
    RACE.replace("OPTIONS", "accept: tokens > 6"),
    Case("x", "first nobody end", "nobody", degraded=True),
    Case("a b c", "first done end", "small: a b c"),
    models=lambda: small_and_large(fail_with=ConnectionError("gone")),
)
shape(
    "race: the stagger spares the second",
    RACE.replace("OPTIONS", "stagger: 10s"),
    Case("x", "first done end", "small: x"),
    models=small_and_large,
)

# Sub-graphs

# A sub-graph has models of its own, which the host cannot hand over: here runnables answer in their place.
INNER = f"""version: 1
params: {{cut: {{default: 0.5, min: 0, max: 1}}}}
nodes:
  difficulty: {SCORE}
  local: {{type: runnable, name: local, role: answer}}
  cloud: {{type: runnable, name: cloud, role: answer}}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: cloud, when: difficulty.failed or difficulty.score >= params.cut}}
  - {{from: difficulty, to: local}}
  - {{from: local, to: end}}
  - {{from: cloud, to: end}}
"""
OUTER = f"""
nodes:
  inner:
    type: graph
    uses: inner.yaml
    OPTIONS
  sorry: {canned("sorry")}
  degraded: {canned("degraded")}
edges:
  - {{from: start, to: inner}}
  - {{from: inner, to: sorry, when: inner.failed}}
  - {{from: inner, to: degraded, when: inner.degraded}}
  - {{from: inner, to: end}}
  - {{from: sorry, to: end}}
  - {{from: degraded, to: end}}
"""


def cloud_of_inner(text: str) -> str:
    if text == "fatal":
        raise ConnectionError("gone")
    return f"cloud {text}"


def inner_parts() -> dict[str, Any]:
    return {"score": number, "local": lambda text: f"local {text}", "cloud": cloud_of_inner}


INNER_FILES = {"inner.yaml": INNER}
shape(
    "sub-graph",
    OUTER.replace("    OPTIONS\n", ""),
    Case("0.1", "inner end", "local 0.1"),
    Case("0.9", "inner end", "cloud 0.9"),
    Case("x", "inner degraded end", "degraded", degraded=True),
    Case("fatal", "inner sorry end", "sorry", degraded=True),
    Case("0.1", "inner end", "cloud 0.1", params={"inner/cut": 0.05}),
    Case("0.1", "", error=ParamError, params={"inner/cut": "low"}),
    Case("0.1", "", error=ParamError, params={"inner/cut": 7}),
    runnables=inner_parts,
    files=INNER_FILES,
)
shape(
    "sub-graph with params and an input of its own",
    "params: {low: 0.2}\n"
    + OUTER.replace("OPTIONS", "with: {cut: '${params.low}'}\n    input: ${half.output}")
    .replace("nodes:\n", "nodes:\n  half: {type: runnable, name: half, role: signal}\n")
    .replace("{from: start, to: inner}", "{from: start, to: half}\n  - {from: half, to: inner}"),
    Case("0.2", "half inner end", "local 0.1"),
    Case("0.4", "half inner end", "cloud 0.2"),
    Case("0.4", "half inner end", "local 0.2", params={"low": 0.3}),
    Case("0.4", "half inner end", "local 0.2", params={"inner/cut": 0.9, "cut": 0.0}),
    runnables=lambda: {**inner_parts(), "half": lambda text: str(float(text) / 2)},
    files=INNER_FILES,
)
shape(
    "sub-graph in a race",
    f"""
nodes:
  first: {{type: race, of: [inner, never]}}
  inner: {{type: graph, uses: inner.yaml}}
  never: {{type: runnable, name: fails, role: answer}}
  sorry: {canned("sorry")}
edges:
  - {{from: start, to: first}}
  - {{from: first, to: sorry, when: first.failed}}
  - {{from: first, to: end}}
  - {{from: sorry, to: end}}
""",
    Case("0.1", "first end", "local 0.1"),
    Case("x", "first end", "cloud x", degraded=True),
    Case("fatal", "first sorry end", "sorry", degraded=True),
    runnables=lambda: {**inner_parts(), "fails": fails},
    files=INNER_FILES,
)
shape(
    "sub-graph in a sub-graph",
    OUTER.replace("    OPTIONS\n", "").replace("inner.yaml", "middle.yaml"),
    Case("0.1", "inner end", "local 0.1"),
    Case("x", "inner degraded end", "degraded", degraded=True),
    Case("fatal", "inner sorry end", "sorry", degraded=True),
    Case("0.1", "inner end", "cloud 0.1", params={"inner/deep/cut": 0.05}),
    runnables=inner_parts,
    files={
        **INNER_FILES,
        "middle.yaml": """version: 1
nodes: {deep: {type: graph, uses: inner.yaml}}
edges: [{from: start, to: deep}, {from: deep, to: end}]
""",
    },
)
