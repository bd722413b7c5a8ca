"""What observers see: child runs, tags, decisions, tokens; and what an enclosing LangGraph passes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda

from dynflow import Flow, StreamInterrupted, loads
from dynflow.testing import FakeChat
from tests.flow.recorder import Recorder

CASCADE = """
version: 1
name: cascade
models: {large: {provider: host}, small: {provider: host}}
nodes:
  local: {type: chat, model: small}
  check:
    type: runnable
    name: check
    role: signal
    input: ${local.text}
    ports: {good: boolean}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: local}
  - {from: local, to: cloud, when: local.failed}
  - {from: local, to: check}
  - {from: check, to: cloud, when: check.failed or not check.good}
  - {from: check, to: end}
  - {from: cloud, to: end, when: cloud.failed and local.ok}
  - {from: cloud, to: end}
"""


def cascade(*, good: bool = False) -> Flow:
    models = {"small": FakeChat(replies=["draft one two"]), "large": FakeChat(replies=["final three four"])}
    return loads(CASCADE, models=models, runnables={"check": lambda _: {"good": good}})


# astream_events


async def events_of(runnable: Any, value: Any, **kwargs: Any) -> list[dict[str, Any]]:
    return [event async for event in runnable.astream_events(value, version="v2", **kwargs)]


async def test_events_show_nodes_tokens_and_decisions() -> None:
    events = await events_of(cascade(), "x")
    nodes = [event["name"] for event in events if event["event"] == "on_chain_start"]
    assert nodes == ["cascade", "local", "check", "cloud"]
    for event in events:
        if event["event"] == "on_chain_start" and event["name"] != "cascade":
            assert f"graph:node:{event['name']}" in event["tags"]
    tokens = [event for event in events if event["event"] == "on_chat_model_stream"]
    live = "".join(event["data"]["chunk"].text for event in tokens if "graph:node:cloud" in event["tags"])
    held = [event for event in tokens if "graph:node:local" in event["tags"]]
    assert live == "final three four"
    assert all("nostream" in event["tags"] for event in held)
    assert len(tokens) == len(held) + len([event for event in tokens if "graph:node:cloud" in event["tags"]])
    decisions = [event["data"] for event in events if event["event"] == "on_custom_event"]
    assert [(each["from"], each["to"]) for each in decisions] == [
        ("start", "local"),
        ("local", "check"),
        ("check", "cloud"),
        ("cloud", "end"),
    ]
    assert decisions[2]["when"] == "check.failed or not check.good"
    assert decisions[2]["values"] == {"check.failed": False, "check.good": False}
    assert {event["name"] for event in events if event["event"] == "on_custom_event"} == {"dynflow.decision"}


async def test_events_of_a_chain() -> None:
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | cascade() | StrOutputParser()
    events = await events_of(chain, {"q": "x"})
    out = [
        event["data"]["chunk"] for event in events if event["event"] == "on_chain_stream" and not event["parent_ids"]
    ]
    assert "".join(out) == "final three four"
    flow = next(event for event in events if event["event"] == "on_chain_start" and event["name"] == "cascade")
    local = next(event for event in events if event["event"] == "on_chain_start" and event["name"] == "local")
    assert local["parent_ids"][-1] == flow["run_id"]


# Callbacks, tags, metadata, run ids


@pytest.mark.parametrize("style", ["invoke", "stream", "batch"])
def test_tags_and_metadata_reach_the_models(style: str) -> None:
    recorder, run_id = Recorder(), uuid4()
    config: RunnableConfig = {
        "callbacks": [recorder],
        "tags": ["mine"],
        "metadata": {"user": "ann"},
        "run_id": run_id,
        "run_name": "asked",
    }
    flow = cascade()
    {"invoke": flow.invoke, "stream": lambda *a: list(flow.stream(*a)), "batch": lambda v, c: flow.batch([v], c)}[
        style
    ]("x", config)
    assert recorder.root == run_id
    assert recorder.names[run_id] == "asked"
    assert sorted(recorder.names.values()) == ["asked", "check", "cloud", "local", "model", "model"]
    for run in recorder.names:
        assert "mine" in recorder.tags[run]
        assert recorder.metadata[run]["user"] == "ann"
    assert recorder.parents[recorder.by_name("local")] == run_id
    assert recorder.unfinished == []


def test_members_run_under_their_group() -> None:
    text = """
version: 1
nodes:
  both: {type: parallel, of: [one, two]}
  one: {type: runnable, name: f, role: signal}
  two: {type: runnable, name: f, role: signal}
  done: {type: prompt, role: answer, template: done}
edges:
  - {from: start, to: both}
  - {from: both, to: done, when: one.failed or two.failed}
  - {from: both, to: done}
  - {from: done, to: end}
"""
    recorder = Recorder()
    loads(text, runnables={"f": lambda _: 1}).invoke("x", {"callbacks": [recorder]})
    assert recorder.parents[recorder.by_name("one")] == recorder.by_name("both")
    assert recorder.parents[recorder.by_name("two")] == recorder.by_name("both")


def test_errors_end_runs() -> None:
    recorder = Recorder()
    flow = loads(
        CASCADE,
        models={"small": FakeChat(fail_with=OSError("a")), "large": FakeChat(fail_with=OSError("b"))},
        runnables={"check": lambda _: {"good": True}},
    )
    with pytest.raises(OSError, match="b") as caught:
        flow.invoke("x", {"callbacks": [recorder]})
    assert "in node 'cloud' of graph 'cascade'" in caught.value.__notes__[0]
    assert recorder.unfinished == []
    assert {recorder.names[run] for run in recorder.errors} >= {"cascade", "local", "cloud"}


def test_the_record_is_plain_json_without_content() -> None:
    text = CASCADE.replace("when: local.failed}", "when: local.failed or 'secret draft' in local.text}").replace(
        "check.failed or not", "budget.seconds_left < 1 or check.failed or not"
    )
    models = {"small": FakeChat(replies=["a secret-canary draft " * 20]), "large": FakeChat(replies=["final"])}
    flow = loads(text, models=models, runnables={"check": lambda _: {"good": False}})
    record = flow.invoke("the question-canary").response_metadata["dynflow"]
    dumped = json.dumps(record, allow_nan=False)
    assert "canary" not in dumped
    assert record["decisions"][2]["values"]["budget.seconds_left"] is None  # no limit
    assert record["ledger"]["tokens"]["output"] == len(("a secret-canary draft " * 20).split(" ")) + 1


# Inside LangGraph


def graph_around(flow: Flow, node: str, *, as_runnable: bool) -> Any:
    graph_module = pytest.importorskip("langgraph.graph")

    async def answer(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [await flow.ainvoke(state["messages"], config)]}

    def answer_sync(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [flow.invoke(state["messages"], config)]}

    body = RunnableLambda(answer_sync, answer)
    if as_runnable:
        pick = RunnableLambda(lambda state: state["messages"])
        body = pick | flow | RunnableLambda(lambda message: {"messages": [message]})  # type: ignore[assignment]
    graph = graph_module.StateGraph(graph_module.MessagesState)
    graph.add_node(node, body)
    graph.add_edge(graph_module.START, node)
    graph.add_edge(node, graph_module.END)
    return graph.compile()


@pytest.mark.parametrize("node", ["assistant", "local", "cloud", "cascade"])
@pytest.mark.parametrize("as_runnable", [False, True], ids=["called", "as runnable"])
async def test_langgraph_streams_live_tokens_only(node: str, as_runnable: bool) -> None:
    graph = graph_around(cascade(), node, as_runnable=as_runnable)
    question = {"messages": [HumanMessage("x", id="question")]}
    taken = [message.text for message, _ in graph.stream(question, stream_mode="messages") if message.id != "question"]
    assert "".join(taken) == "final three four"
    assert len([text for text in taken if text]) == 3
    taken = [
        message.text async for message, _ in graph.astream(question, stream_mode="messages") if message.id != "question"
    ]
    assert "".join(taken) == "final three four"
    assert len([text for text in taken if text]) == 3


@pytest.mark.parametrize("node", ["assistant", "local", "cloud"])
async def test_langgraph_gets_a_held_answer_once(node: str) -> None:
    graph = graph_around(cascade(good=True), node, as_runnable=False)
    question = {"messages": [HumanMessage("x", id="question")]}
    taken = [message.text for message, _ in graph.stream(question, stream_mode="messages")]
    assert [text for text in taken if text] == ["draft one two"]
    taken = [message.text async for message, _ in graph.astream(question, stream_mode="messages")]
    assert [text for text in taken if text] == ["draft one two"]


@pytest.mark.parametrize("options", ["", ", buffer: true"], ids=["live", "buffered"])
async def test_langgraph_never_shows_half_an_answer_and_then_another(options: str) -> None:
    text = f"""
version: 1
models: {{large: {{provider: host}}, small: {{provider: host}}}}
nodes:
  cloud: {{type: chat, model: large{options}}}
  local: {{type: chat, model: small}}
edges:
  - {{from: start, to: cloud}}
  - {{from: cloud, to: local, when: cloud.failed}}
  - {{from: cloud, to: end}}
  - {{from: local, to: end}}
"""
    large = FakeChat(replies=["one two three"], fail_with=ConnectionError("cut"), fail_after=2)
    flow = loads(text, models={"large": large, "small": FakeChat(replies=["whole"])})
    graph = graph_around(flow, "assistant", as_runnable=False)
    question = {"messages": [HumanMessage("x", id="question")]}
    taken: list[str] = []

    async def take() -> None:
        async for message, _ in graph.astream(question, stream_mode="messages"):
            taken.append(message.text)

    if options:
        await take()
        assert [each for each in taken if each] == ["whole"]
        return
    with pytest.raises(StreamInterrupted):
        await take()
    assert taken == ["one", " two"]
    with pytest.raises(StreamInterrupted):
        list(graph.stream(question, stream_mode="messages"))
    assert flow.invoke("x").text == "whole"  # nobody watches: the edge falls back


@pytest.mark.parametrize("held", [True, False], ids=["held", "live"])
async def test_langgraph_and_a_sub_graph(held: bool, tmp_path: Path) -> None:
    """What the outer graph holds, the inner one may still take back."""
    (tmp_path / "inner.yaml").write_text("""
version: 1
nodes:
  cloud: {type: runnable, name: cloud, role: answer}
  sorry: {type: prompt, role: answer, template: inner sorry}
edges:
  - {from: start, to: cloud}
  - {from: cloud, to: sorry, when: cloud.failed}
  - {from: cloud, to: end}
  - {from: sorry, to: end}
""")
    text = f"""
version: 1
nodes: {{inner: {{type: graph, uses: inner.yaml, buffer: {str(held).lower()}}}}}
edges: [{{from: start, to: inner}}, {{from: inner, to: end}}]
"""
    cloud = FakeChat(replies=["one two three"], fail_with=ConnectionError("cut"), fail_after=2)
    flow = loads(text, base=tmp_path, runnables={"cloud": cloud})
    graph = graph_around(flow, "assistant", as_runnable=False)
    question = {"messages": [HumanMessage("x", id="question")]}
    if held:
        taken = [message.text async for message, _ in graph.astream(question, stream_mode="messages")]
        assert [each for each in taken if each] == ["inner sorry"]
        taken = [message.text for message, _ in graph.stream(question, stream_mode="messages")]
        assert [each for each in taken if each] == ["inner sorry"]
    else:
        with pytest.raises(StreamInterrupted):
            list(graph.stream(question, stream_mode="messages"))
