"""Ports, params, references and declared inputs."""

from __future__ import annotations

from langchain_core.messages import HumanMessage

from dynflow.errors import InputError, ParamError
from dynflow.testing import FakeChat
from tests.flow.shapes.hosts import HOST, SCORE, canned, echo, failing, scoring
from tests.flow.shapes.shape import Case, shape

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
