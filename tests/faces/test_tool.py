"""A flow as a tool: what the agent sees, what it reads, and whose money it spends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langchain_core.tools import ToolException
from langchain_core.utils.function_calling import convert_to_openai_tool

from dynflow import Flow, InputError, loads
from dynflow.testing import FakeChat
from tests.flow.recorder import Recorder

ONE = """
version: 1
name: helper
description: Answers questions of geography.
%s
models:
  m: {provider: host, price: {input: 0, output: 1000}}
nodes:
  answer: {type: chat, model: m, max_tokens: 5 %s}
edges:
  - {from: start, to: answer}
  - {from: answer, to: end}
"""
OUTER = """
version: 1
name: outer
nodes:
  agent: {type: runnable, name: agent, role: answer}
edges:
  - {from: start, to: agent}
  - {from: agent, to: end}
limits: {%s}
"""


def one(top: str = "", options: str = "", **fake: Any) -> tuple[Flow, FakeChat]:
    model = FakeChat(**{"replies": ["Paris."], **fake})
    return loads(ONE % (top, options), models={"m": model}), model


def call(**arguments: Any) -> ToolCall:
    return ToolCall(name="helper", args=arguments, id="c1", type="tool_call")


async def test_text_for_the_agent_and_the_record_as_artifact() -> None:
    flow, _ = one()
    tool = flow.to_tool()
    assert (tool.name, tool.description) == ("helper", "Answers questions of geography.")
    for message in (tool.invoke(call(question="capital?")), await tool.ainvoke(call(question="capital?"))):
        assert isinstance(message, ToolMessage)
        assert (message.content, message.status) == ("Paris.", "success")
        assert message.artifact["answer"] == "answer"
        assert message.artifact["ledger"]["tokens"]["output"] == 1
        json.dumps(message.artifact)
    assert tool.invoke({"question": "capital?"}) == "Paris."
    assert flow.to_tool("atlas", "Knows places.").name == "atlas"


def test_described_arguments() -> None:
    inputs = "inputs: {lang: {type: string, default: en, help: language of the answer}, year: integer, tags: list}"
    seen: list[Any] = []
    graph = f"""
version: 1
name: helper
description: Helps.
{inputs}
nodes:
  own: {{type: runnable, name: own, role: answer}}
edges:
  - {{from: start, to: own}}
  - {{from: own, to: end}}
"""
    tool = loads(graph, runnables={"own": lambda value: seen.append(value) or "ok"}).to_tool()
    offered = convert_to_openai_tool(tool)["function"]["parameters"]
    assert offered["required"] == ["year", "tags"]
    assert offered["properties"]["lang"]["default"] == "en"
    assert offered["properties"]["lang"]["description"] == "language of the answer"
    assert offered["properties"]["year"]["type"] == "integer"
    assert tool.invoke({"question": "q", "year": 1999, "tags": ["a"]}) == "ok"
    assert tool.invoke({"year": 1999, "tags": []}) == "ok"
    assert seen[0] == {"input": "q", "lang": "en", "year": 1999, "tags": ["a"]}


def test_an_input_of_the_name_question() -> None:
    flow, _ = one("inputs: {question: {type: string, default: none}}")
    assert set(flow.to_tool().args) == {"input", "question"}


@pytest.mark.parametrize(
    ("name", "description", "text"),
    [("two words", "x", "two words"), ("x" * 65, "x", "at most 64"), (None, "x", "name="), ("ok", None, "description")],
)
def test_what_no_agent_could_use(name: str | None, description: str | None, text: str) -> None:
    bare = (ONE % ("", "")).replace("name: helper\n", "").replace("description: Answers questions of geography.\n", "")
    with pytest.raises(InputError, match=text):
        loads(bare, models={"m": FakeChat()}).to_tool(name, description)


@pytest.mark.parametrize(
    ("options", "reply", "content"),
    [
        (", labels: [good, bad]", "good", "good"),
        (", labels: [good, bad], logprobs: true", "good", "good (confidence 0.61)"),
        (", output: {type: object}", '{"city": "Zürich"}', '{"city": "Zürich"}'),
    ],
)
def test_answers_that_are_no_text(options: str, reply: str, content: str) -> None:
    flow, _ = one("", options, replies=[reply], logprob=-0.5 if "logprobs" in options else None)
    assert flow.to_tool().invoke({"question": "q"}) == content


def test_an_image_stays_an_image() -> None:
    blocks = [{"type": "text", "text": "here"}, {"type": "image", "base64": "aGk=", "mime_type": "image/png"}]
    graph = (OUTER % "timeout: 10s").replace("name: outer", "name: painter\ndescription: Paints.")
    tool = loads(graph, runnables={"agent": lambda _: AIMessage(content=blocks)}).to_tool()
    assert tool.invoke(call(question="q")).content == blocks


async def test_failures_are_told_in_words_without_what_a_provider_said() -> None:
    secret = ModelRateLimitError("quota of sk-canary-5ecret used up")
    tool = one(fail_with=secret)[0].to_tool()
    for message in (tool.invoke(call(question="q")), await tool.ainvoke(call(question="q"))):
        assert (message.status, message.content) == ("error", "helper failed: the model failed (rate_limit)")
    spent = one("limits: {usd_per_request: 0.000001}")[0].to_tool()
    told = spent.invoke(call(question="q"))
    assert told.status == "error"
    assert told.content.startswith("helper failed: a call of 'm' could cost")
    tool.handle_tool_error = False
    with pytest.raises(ToolException, match="rate_limit"):
        tool.invoke(call(question="q"))


def test_a_fault_of_the_host_s_code_is_no_answer() -> None:
    graph = (OUTER % "timeout: 10s").replace("name: outer", "name: broken\ndescription: Fails.")

    def broken(_: Any) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loads(graph, runnables={"agent": broken}).to_tool().invoke({"question": "q"})


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("style", ["invoke", "ainvoke", "ainvoke_async", "ainvoke_generator", "stream", "batch"])
async def test_a_tool_inside_a_node_spends_its_caller_s_money(style: str, observed: bool) -> None:
    flow, model = one()
    tool = flow.to_tool()

    def agent(question: Any) -> str:
        return " ".join(str(tool.invoke(call(question=question)).content) for _ in range(3))

    async def aagent(question: Any) -> str:
        told = [await tool.ainvoke(call(question=question)) for _ in range(3)]
        return " ".join(str(message.content) for message in told)

    async def generator(question: Any) -> Any:
        for index in range(3):
            message = await tool.ainvoke(call(question=question))
            yield f" {message.content}" if index else message.content

    # A call reserves 5 tokens at $0.001 and settles at 1: the third would exceed $0.0065.
    function = {"ainvoke_async": aagent, "ainvoke_generator": generator}.get(style, agent)
    outer = loads(OUTER % "usd_per_request: 0.0065", runnables={"agent": function})
    config: Any = {"callbacks": [Recorder()]} if observed else {}
    if style == "invoke":
        result = outer.run("capital?", config)
    elif style.startswith("ainvoke"):
        result = await outer.arun("capital?", config)
    else:
        told = list(outer.stream("capital?", config)) if style == "stream" else outer.batch(["capital?"], config)
        assert told[-1].startswith("Paris. Paris. helper failed: a call of 'm' could cost")
        return
    assert result.value.startswith("Paris. Paris. helper failed: a call of 'm' could cost")
    assert result.ledger.usd == pytest.approx(0.002)
    assert [entry.node for entry in result.ledger.entries if entry.usage] == ["agent/answer", "agent/answer"]
    assert len(model.calls) == 2


def test_a_tool_inside_a_node_has_its_caller_s_deadline() -> None:
    flow, model = one("limits: {timeout: 60s}", hang_after=0)
    outer = loads(
        OUTER % "timeout: 300ms", runnables={"agent": lambda q: flow.to_tool().invoke(call(question=q)).content}
    )
    with pytest.raises(TimeoutError):
        outer.invoke("capital?")
    model.release()


def test_on_its_own_a_tool_spends_its_own() -> None:
    flow, _ = one("limits: {usd_per_request: 1}")
    outer = loads(OUTER % "usd_per_request: 0.000001", runnables={"agent": lambda q: flow.invoke(q).text})
    assert outer.invoke("capital?") == "Paris."  # the flow itself, not its tool
    assert flow.to_tool().invoke({"question": "q"}) == "Paris."


def test_its_run_stands_below_the_tool_s() -> None:
    class Seen(Recorder):
        def on_tool_start(
            self, serialized: Any, text: str, *, run_id: Any, parent_run_id: Any = None, **_: Any
        ) -> None:
            self._start(run_id, parent_run_id, "tool")

        def on_tool_end(self, output: Any, *, run_id: Any, **_: Any) -> None:
            self.ends[run_id] += 1

    seen = Seen()
    one()[0].to_tool().invoke({"question": "q"}, {"callbacks": [seen]})
    assert seen.parents[seen.by_name("helper")] == seen.by_name("tool")
    assert not seen.unfinished
