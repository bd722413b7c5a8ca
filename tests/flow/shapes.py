"""Named graph shapes: each with its host parts, inputs, and what must come of them in every call style."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.exceptions import ModelRateLimitError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from dynflow.answers import Classification
from dynflow.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    InputError,
    NodeFailed,
    NodeTimeout,
    NoEligibleAnswer,
    ParamError,
)
from dynflow.testing import FakeChat


@dataclass(frozen=True)
class Case:
    """One request: what goes in, and the path and answer, or the error, that come of it."""

    input: Any
    path: str
    """Nodes after `start`, with blanks between; where the flow raises, as far as it came."""
    value: Any = None
    """The answer's text, or the answer itself where it is no message."""
    degraded: bool = False
    error: type[Exception] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """A graph's text, its sub-graphs, its host's parts, and requests that take different paths."""

    name: str
    text: str
    cases: tuple[Case, ...]
    runnables: Callable[[], dict[str, Any]] = dict
    models: Callable[[], dict[str, Any]] = dict
    files: Mapping[str, str] = field(default_factory=dict)


SHAPES: list[Shape] = []


def shape(name: str, text: str, *cases: Case, **parts: Any) -> None:
    """Add a shape to the table."""
    SHAPES.append(Shape(name, f"version: 1\n{text}", cases, **parts))


# What hosts hand over

HOST = "models: {small: {provider: host}, large: {provider: host}}\n"
"""Two models of the host's."""


def small_and_large(**large: Any) -> dict[str, Any]:
    return {"small": FakeChat(replies=echo("small")), "large": FakeChat(replies=echo("large"), **large)}


def echo(name: str) -> Callable[[list[BaseMessage]], str]:
    return lambda messages: f"{name}: {messages[-1].text}"


def failing(error: Exception | None = None) -> FakeChat:
    return FakeChat(fail_with=error or ModelRateLimitError("too many requests"))


def number(text: Any) -> dict[str, float]:
    """The number that the request is; fails where it is none."""
    return {"score": float(text)}


def fails(_: Any) -> Any:
    raise ConnectionError("gone")


def scoring() -> dict[str, Any]:
    return {"score": number, "fails": fails}


SCORE = "{type: runnable, name: score, role: signal, ports: {score: number}}"
FAILING = "{type: runnable, name: fails, role: signal, ports: {score: number}}"


def canned(text: str) -> str:
    return f"{{type: prompt, role: answer, template: {text}}}"


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

# Ports

shape(
    "enum covered without a default",
    f"""
nodes:
  difficulty: {SCORE}
  route:
    type: router
    routes: [low, high]
    score: ${{difficulty.score}}
    bands: [0.5]
  low: {canned("low")}
  high: {canned("high")}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: route}}
  - {{from: route, to: low, when: route.choice == 'low'}}
  - {{from: route, to: high, when: route.choice == 'high'}}
  - {{from: low, to: end}}
  - {{from: high, to: end}}
""",
    Case("0.49", "difficulty route low end", "low"),
    Case("0.5", "difficulty route high end", "high"),
    runnables=scoring,
)
shape(
    "router with bands that are params",
    f"""
params: {{first: 0.3, second: 0.6}}
nodes:
  difficulty: {SCORE}
  route:
    type: router
    routes: [a, b, c]
    score: ${{difficulty.score}}
    bands:
      - ${{params.first}}
      - ${{params.second}}
  a: {canned("a")}
  b: {canned("b")}
  c: {canned("c")}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: route}}
  - {{from: route, to: c, when: route.failed or route.choice == 'c'}}
  - {{from: route, to: b, when: route.choice == 'b'}}
  - {{from: route, to: a}}
  - {{from: a, to: end}}
  - {{from: b, to: end}}
  - {{from: c, to: end}}
""",
    Case("0.1", "difficulty route a end", "a"),
    Case("0.3", "difficulty route b end", "b"),
    Case("0.6", "difficulty route c end", "c"),
    Case("0.1", "difficulty route b end", "b", params={"first": 0.05}),
    Case("0.1", "difficulty route c end", "c", degraded=True, params={"first": 0.9}),  # bands that do not ascend
    runnables=scoring,
)
shape(
    "router by label",
    HOST
    + f"""
nodes:
  topic: {{type: chat, model: small, role: signal, labels: [code, prose]}}
  route:
    type: router
    routes: [a, b]
    label: ${{topic.label}}
    labels: {{code: b, prose: a}}
  a: {canned("a")}
  b: {canned("b")}
edges:
  - {{from: start, to: topic}}
  - {{from: topic, to: a, when: topic.failed}}
  - {{from: topic, to: route}}
  - {{from: route, to: a, when: route.choice == 'a'}}
  - {{from: route, to: b, when: route.choice == 'b'}}
  - {{from: a, to: end}}
  - {{from: b, to: end}}
""",
    Case("code", "topic route b end", "b"),
    Case("Prose.", "topic route a end", "a"),
    Case("neither", "topic a end", "a", degraded=True),
    models=lambda: {"small": FakeChat(replies=lambda messages: messages[-1].text), "large": FakeChat()},
)
shape(
    "record ports go one deeper",
    f"""
nodes:
  pick: {{type: runnable, name: pick, role: signal, ports: {{quality: record}}}}
  big: {canned("big")}
  tiny: {canned("tiny")}
edges:
  - {{from: start, to: pick}}
  - {{from: pick, to: big, when: pick.quality.big > pick.quality.tiny}}
  - {{from: pick, to: tiny}}
  - {{from: big, to: end}}
  - {{from: tiny, to: end}}
""",
    Case("0.9", "pick big end", "big"),
    Case("0.1", "pick tiny end", "tiny"),
    Case("none", "pick tiny end", "tiny"),
    runnables=lambda: {"pick": lambda text: {"quality": {} if text == "none" else {"big": float(text), "tiny": 0.5}}},
)
shape(
    "seconds and usd of nodes",
    f"""
nodes:
  first: {SCORE}
  a: {canned("a")}
  b: {canned("b")}
edges:
  - {{from: start, to: first}}
  - {{from: first, to: a, when: first.seconds >= 0 and first.usd == 0 and first.error == null}}
  - {{from: first, to: b, when: first.seconds >= 0 and first.error == 'invalid' or first.failed}}
  - {{from: first, to: b}}
  - {{from: a, to: end}}
  - {{from: b, to: end}}
""",
    Case("1", "first a end", "a"),
    Case("x", "first b end", "b", degraded=True),
    runnables=scoring,
)

# Params, references, inputs

shape(
    "params in conditions and in options",
    """
params: {name: world, loud: false, times: 2}
nodes:
  quiet:
    type: prompt
    role: answer
    template: "hello {name} {times}"
    with:
      name: ${params.name}
      times: ${params.times}
  shout:
    type: prompt
    role: answer
    template: "HELLO {name}"
    with:
      name: ${params.name}
edges:
  - {from: start, to: shout, when: params.loud}
  - {from: start, to: quiet}
  - {from: shout, to: end}
  - {from: quiet, to: end}
""",
    Case("x", "quiet end", "hello world 2"),
    Case("x", "shout end", "HELLO Ann", params={"loud": True, "name": "Ann"}),
    Case("x", "quiet end", "hello world 3", params={"times": 3, "thread_id": "somebody else's"}),
    Case("x", "", error=ParamError, params={"times": 2.5}),
    Case("x", "", error=ParamError, params={"loud": 1}),
)
shape(
    "the first reference that succeeded",
    HOST
    + f"""
nodes:
  difficulty: {SCORE}
  local: {{type: chat, model: small}}
  cloud: {{type: chat, model: large}}
  wrap:
    type: prompt
    role: answer
    template: "({{text}})"
    with:
      text: ${{cloud.text ?? local.text ?? input.text}}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: wrap, when: difficulty.score < 0}}
  - {{from: difficulty, to: local, when: difficulty.score < 0.5}}
  - {{from: difficulty, to: cloud}}
  - {{from: local, to: wrap}}
  - {{from: cloud, to: wrap, when: cloud.failed}}
  - {{from: cloud, to: wrap}}
  - {{from: wrap, to: end}}
""",
    Case("-1", "difficulty wrap end", "(-1)"),
    Case("0.1", "difficulty local wrap end", "(small: 0.1)"),
    Case("0.9", "difficulty cloud wrap end", "(0.9)", degraded=True),
    runnables=scoring,
    models=lambda: {"small": FakeChat(replies=echo("small")), "large": failing()},
)
shape(
    "declared inputs",
    f"""
inputs:
  lang: {{type: string, default: en}}
  urgency: number
nodes:
  english: {canned("'hello {input}'")}
  other:
    type: prompt
    role: answer
    template: "{{lang}} {{input}}"
    with:
      lang: ${{input.lang}}
  now: {canned("now")}
edges:
  - {{from: start, to: now, when: input.urgency > 0.9}}
  - {{from: start, to: english, when: input.lang == 'en'}}
  - {{from: start, to: other}}
  - {{from: now, to: end}}
  - {{from: english, to: end}}
  - {{from: other, to: end}}
""",
    Case({"input": "x", "urgency": 0.1}, "english end", "hello x"),
    Case({"input": "x", "urgency": 1, "lang": "de"}, "now end", "now"),
    Case({"messages": [HumanMessage("x")], "urgency": 0, "lang": "fr"}, "other end", "fr x"),
    Case({"input": "x"}, "", error=InputError),
    Case({"input": "x", "urgency": "high"}, "", error=InputError),
    Case("x", "", error=InputError),
)
shape(
    "what the request holds",
    f"""
nodes:
  picture: {canned("picture")}
  long: {canned("long")}
  talk: {canned("talk")}
  short: {canned("short")}
edges:
  - {{from: start, to: picture, when: input.has_images or input.has_audio or input.has_tools}}
  - {{from: start, to: talk, when: input.turns > 1 and len(input.messages) == 3}}
  - {{from: start, to: long, when: input.tokens > 10}}
  - {{from: start, to: short, when: "'hi' in input"}}
  - {{from: start, to: long}}
  - {{from: picture, to: end}}
  - {{from: long, to: end}}
  - {{from: talk, to: end}}
  - {{from: short, to: end}}
""",
    Case("hi", "short end", "short"),
    Case("word " * 20, "long end", "long"),
    Case([("human", "a"), ("ai", "b"), ("human", "c")], "talk end", "talk"),
    Case([HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])], "picture end", "picture"),
)

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

# Roles and kinds of answer

shape(
    "a chat that rewrites the question",
    HOST
    + """
nodes:
  rewrite: {type: chat, model: small, role: signal, system: rewrite it}
  cloud:
    type: chat
    model: large
    messages: ${rewrite.text}
edges:
  - {from: start, to: rewrite}
  - {from: rewrite, to: cloud}
  - {from: cloud, to: end}
""",
    Case("x", "rewrite cloud end", "large: small: x"),
    models=small_and_large,
)
shape(
    "messages of a prompt",
    HOST
    + """
nodes:
  ask: {type: prompt, system: "be brief", user: "Q: {input}"}
  cloud:
    type: chat
    model: large
    messages: ${ask.messages}
edges:
  - {from: start, to: ask}
  - {from: ask, to: cloud}
  - {from: cloud, to: end}
""",
    Case("x", "ask cloud end", "be brief | Q: x"),
    models=lambda: {
        "small": FakeChat(),
        "large": FakeChat(replies=lambda messages: " | ".join(message.text for message in messages)),
    },
)
shape(
    "labels answer a classification",
    HOST
    + f"""
nodes:
  topic: {{type: chat, model: small, labels: [code, prose]}}
  wrong: {canned("wrong")}
edges:
  - {{from: start, to: topic}}
  - {{from: topic, to: wrong, when: topic.failed}}
  - {{from: topic, to: end}}
  - {{from: wrong, to: end}}
""",
    Case("It is **code**.", "topic end", Classification(label="code", confidence=0.5)),
    Case("code and prose", "topic wrong end", "wrong", degraded=True),
    models=lambda: {
        "small": FakeChat(replies=lambda messages: messages[-1].text, logprob=math.log(0.5)),
        "large": FakeChat(),
    },
)
shape(
    "output answers an object",
    HOST
    + f"""
nodes:
  pick:
    type: chat
    model: small
    output: {{type: object, required: [n], properties: {{n: {{type: integer}}}}}}
  wrong: {canned("wrong")}
edges:
  - {{from: start, to: pick}}
  - {{from: pick, to: wrong, when: pick.failed}}
  - {{from: pick, to: end}}
  - {{from: wrong, to: end}}
""",
    Case('{"n": 3}', "pick end", {"n": 3}),
    Case('```json\n{"n": 3}\n```', "pick end", {"n": 3}),
    Case('{"n": "three"}', "pick wrong end", "wrong", degraded=True),
    Case("three", "pick wrong end", "wrong", degraded=True),
    models=lambda: {"small": FakeChat(replies=lambda messages: messages[-1].text), "large": FakeChat()},
)
shape(
    "confidence from log-probabilities",
    HOST
    + """
nodes:
  local: {type: chat, model: small, logprobs: true}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: local}
  - {from: local, to: cloud, when: local.failed}
  - {from: local, to: end, when: local.confidence > 0.4}
  - {from: local, to: cloud}
  - {from: cloud, to: end}
""",
    Case("x", "local end", "small: x"),
    models=lambda: {
        "small": FakeChat(replies=echo("small"), logprob=math.log(0.5)),
        "large": FakeChat(replies=echo("large")),
    },
)


def words(text: str) -> Iterator[str]:
    yield from text.split()


shape(
    "kinds of runnable",
    f"""
nodes:
  how: {{type: runnable, name: first_word, role: signal, ports: {{word: string}}}}
  mapping: {{type: runnable, name: mapping, role: answer, ports: {{n: integer}}}}
  generator: {{type: runnable, name: generator, role: answer}}
  object: {{type: runnable, name: object, role: answer}}
  returned: {{type: runnable, name: returned, role: answer}}
  other: {canned("other")}
edges:
  - {{from: start, to: how}}
  - {{from: how, to: mapping, when: how.word == 'mapping'}}
  - {{from: how, to: generator, when: how.word == 'generator'}}
  - {{from: how, to: object, when: how.word == 'object'}}
  - {{from: how, to: returned, when: how.word == 'returned'}}
  - {{from: how, to: other}}
  - {{from: mapping, to: end, when: mapping.n == 2}}
  - {{from: mapping, to: other, when: mapping.failed}}
  - {{from: mapping, to: other}}
  - {{from: generator, to: end}}
  - {{from: object, to: end}}
  - {{from: returned, to: end}}
  - {{from: other, to: end}}
""",
    Case("mapping x", "how mapping end", {"n": 2, "more": "kept"}),
    Case("mapping x y", "how mapping other end", "other"),
    Case("mapping", "how mapping other end", "other", degraded=True),
    Case("generator x", "how generator end", "generatorx"),
    Case("object x", "how object end", "OBJECT X"),
    Case("returned x", "how returned end", "RETURNED X"),
    Case("plain", "how other end", "other"),
    runnables=lambda: {
        "first_word": lambda text: {"word": text.split()[0]},
        "mapping": lambda text: {"n": len(text.split()), "more": "kept"} if " " in text else {"more": "lost"},
        "generator": words,
        "object": RunnableLambda(str.upper),
        "returned": lambda text: RunnableLambda(str.upper),
    },
)
shape(
    "a runnable's port of the wrong type is a failure",
    f"""
nodes:
  first: {{type: runnable, name: as_is, role: signal, ports: {{score: number}}}}
  good: {canned("good")}
  bad: {canned("bad")}
edges:
  - {{from: start, to: first}}
  - {{from: first, to: bad, when: first.failed}}
  - {{from: first, to: good}}
  - {{from: good, to: end}}
  - {{from: bad, to: end}}
""",
    Case("text", "first bad end", "bad", degraded=True),
    Case("3", "first good end", "good"),
    runnables=lambda: {"as_is": lambda text: {"score": int(text) if text.isdigit() else text}},
)
shape(
    "mixed kinds of answer",
    HOST
    + f"""
nodes:
  difficulty: {SCORE}
  text: {{type: runnable, name: text, role: answer}}
  cloud: {{type: chat, model: large}}
edges:
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: text, when: difficulty.score < 0.5}}
  - {{from: difficulty, to: cloud}}
  - {{from: text, to: end}}
  - {{from: cloud, to: end}}
""",
    Case("0.1", "difficulty text end", 0.1),
    Case("0.9", "difficulty cloud end", "large: 0.9"),
    runnables=lambda: {**scoring(), "text": float},
    models=small_and_large,
)
shape(
    "buffer",
    HOST
    + """
nodes:
  cloud: {type: chat, model: large, buffer: true}
  local: {type: chat, model: small}
edges:
  - {from: start, to: cloud}
  - {from: cloud, to: local, when: cloud.failed}
  - {from: cloud, to: end}
  - {from: local, to: end}
""",
    Case("x", "cloud local end", "small: x", degraded=True),
    models=lambda: small_and_large(fail_with=ConnectionError("cut"), fail_after=2),
)
