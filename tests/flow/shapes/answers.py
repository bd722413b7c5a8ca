"""Roles, and kinds of answer."""

from __future__ import annotations

import math
from collections.abc import Iterator

from langchain_core.runnables import RunnableLambda

from dynflow.answers import Classification
from dynflow.testing import FakeChat
from tests.flow.shapes.hosts import HOST, SCORE, canned, echo, scoring, small_and_large
from tests.flow.shapes.shape import Case, shape

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
