"""Streaming: what goes out when, what a failure does to it, and how it ends when nobody listens any more."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from dynflow import Flow, NodeTimeout, StreamInterrupted, loads
from dynflow.chunks import add_up
from dynflow.testing import FakeChat
from tests.flow.recorder import Recorder

ONE = """
version: 1
models: {large: {provider: host}}
nodes: {cloud: {type: chat, model: large}}
edges: [{from: start, to: cloud}, {from: cloud, to: end}]
"""
FALLBACK = """
version: 1
models: {large: {provider: host}, small: {provider: host}}
nodes:
  cloud: {type: chat, model: large, OPTIONS}
  local: {type: chat, model: small}
edges:
  - {from: start, to: cloud}
  - {from: cloud, to: local, when: cloud.failed}
  - {from: cloud, to: end}
  - {from: local, to: end}
"""
TEN = "one two three four five six seven eight nine ten"


def one(model: FakeChat) -> Flow:
    return loads(ONE, models={"large": model})


def fallback(model: FakeChat, options: str = "") -> Flow:
    text = FALLBACK.replace(", OPTIONS", options and f", {options}")
    return loads(text, models={"large": model, "small": FakeChat(replies=["from the small one"])})


async def collect(flow: Any, value: Any, **kwargs: Any) -> list[Any]:
    return [chunk async for chunk in flow.astream(value, **kwargs)]


def leftovers(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads of ours that are still there a little later; the event loop's own pool stays."""
    ends = time.monotonic() + 2
    while time.monotonic() < ends:
        left = [each for each in set(threading.enumerate()) - before if not each.name.startswith("asyncio_")]
        if not left:
            return []
        time.sleep(0.01)
    return left


# Token by token


def test_a_chain_streams_token_by_token() -> None:
    model = FakeChat(replies=[TEN])
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | one(model) | StrOutputParser()
    taken: list[tuple[str, str | None]] = [(chunk, model.calls[0].ended) for chunk in chain.stream({"q": "count"})]
    assert "".join(text for text, _ in taken) == TEN
    assert len([text for text, _ in taken if text]) == 10
    assert taken[0] == ("one", None)  # the model was still writing


async def test_a_chain_streams_token_by_token_async() -> None:
    model = FakeChat(replies=[TEN])
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | one(model) | StrOutputParser()
    taken = [(chunk, model.calls[0].ended) async for chunk in chain.astream({"q": "count"})]
    assert "".join(text for text, _ in taken) == TEN
    assert taken[0] == ("one", None)


def test_transform_takes_its_input_in_pieces() -> None:
    flow = one(FakeChat(replies=lambda messages: messages[-1].text))
    assert add_up(list(flow.transform(iter(["a b ", "c"])))).text == "a b c"


async def test_atransform_takes_its_input_in_pieces() -> None:
    async def pieces() -> Any:
        yield "a b "
        yield "c"

    flow = one(FakeChat(replies=lambda messages: messages[-1].text))
    assert add_up([chunk async for chunk in flow.atransform(pieces())]).text == "a b c"


def test_the_sum_of_the_stream_is_the_answer() -> None:
    flow = one(FakeChat(replies=[TEN]))
    invoked, total = flow.invoke("count to ten"), add_up(list(flow.stream("count to ten")))
    assert isinstance(total, AIMessageChunk)
    assert total.content == invoked.content
    assert total.usage_metadata == invoked.usage_metadata  # counted once
    assert total.response_metadata["finish_reason"] == "stop"
    assert total.response_metadata["dynflow"]["path"] == invoked.response_metadata["dynflow"]["path"]
    assert total.id is not None


def test_a_held_answer_comes_whole_with_its_record() -> None:
    flow = loads(ONE.replace("model: large}", "model: large, buffer: true}"), models={"large": FakeChat(replies=[TEN])})
    (chunk,) = flow.stream("x")
    assert isinstance(chunk, AIMessageChunk)
    assert chunk.text == TEN
    assert chunk.usage_metadata is not None
    assert chunk.response_metadata["dynflow"]["answer"] == "cloud"


CASCADE = """
version: 1
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


def cascade(good: bool, large: FakeChat | None = None) -> Flow:
    models = {"small": FakeChat(replies=["draft one two"]), "large": large or FakeChat(replies=["final three four"])}
    return loads(CASCADE, models=models, runnables={"check": lambda _: {"good": good}})


def test_no_token_of_a_rejected_draft_goes_out() -> None:
    texts = [chunk.text for chunk in cascade(good=False).stream("x")]
    assert "".join(texts) == "final three four"
    assert len([text for text in texts if text]) == 3


async def test_an_accepted_draft_goes_out_once() -> None:
    texts = [chunk.text for chunk in await collect(cascade(good=True), "x")]
    assert texts == ["draft one two"]


def test_a_sub_graph_streams_live(tmp_path: Any) -> None:
    (tmp_path / "inner.yaml").write_text(
        "version: 1\nnodes: {count: {type: runnable, name: count, role: answer}}\n"
        "edges: [{from: start, to: count}, {from: count, to: end}]\n"
    )
    pulled: list[str] = []

    def count(_: str) -> Any:
        for word in TEN.split():
            pulled.append(word)
            yield word

    text = (
        "version: 1\nnodes: {inner: {type: graph, uses: inner.yaml}}\n"
        "edges: [{from: start, to: inner}, {from: inner, to: end}]\n"
    )
    stream = loads(text, base=tmp_path, runnables={"count": count}).stream("x")
    assert next(stream) == "one"
    assert pulled == ["one"]
    assert [*stream] == TEN.split()[1:]


# Failures


@pytest.mark.parametrize("options", ["", "timeout: 5s"], ids=["no limit", "with a limit"])
async def test_a_failure_before_the_first_token_falls_back(options: str) -> None:
    flow = fallback(FakeChat(fail_with=ConnectionError("gone")), options)
    assert add_up(list(flow.stream("x"))).text == "from the small one"
    assert add_up(await collect(flow, "x")).text == "from the small one"


@pytest.mark.parametrize("options", ["", "timeout: 5s"], ids=["no limit", "with a limit"])
async def test_a_failure_after_the_first_token_interrupts(options: str) -> None:
    flow = fallback(FakeChat(replies=[TEN], fail_with=ConnectionError("cut"), fail_after=2), options)
    recorder = Recorder()
    taken = []
    stream = (taken.append(chunk.text) for chunk in flow.stream("x", {"callbacks": [recorder]}))
    with pytest.raises(StreamInterrupted, match="'cloud' broke off: cut") as caught:
        list(stream)
    assert taken == ["one", " two"]
    assert caught.value.partial.text == "one two"
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert recorder.unfinished == []
    assert isinstance(recorder.errors[recorder.root], StreamInterrupted)
    with pytest.raises(StreamInterrupted) as caught:
        await collect(flow, "x")
    assert caught.value.partial.text == "one two"


async def test_a_buffered_answer_falls_back_after_its_first_token() -> None:
    flow = fallback(FakeChat(replies=[TEN], fail_with=ConnectionError("cut"), fail_after=2), "buffer: true")
    assert add_up(list(flow.stream("x"))).text == "from the small one"
    assert add_up(await collect(flow, "x")).text == "from the small one"


async def test_silence_before_the_first_token_times_out_and_falls_back() -> None:
    model = FakeChat(hang_after=0)
    flow = fallback(model, "timeout: 50ms")
    assert add_up(await collect(flow, "x")).text == "from the small one"
    assert add_up(list(flow.stream("x"))).text == "from the small one"
    model.release()


async def test_silence_after_the_first_token_interrupts() -> None:
    model = FakeChat(replies=[TEN], hang_after=2)
    flow = fallback(model, "timeout: 50ms")
    with pytest.raises(StreamInterrupted) as caught:
        await collect(flow, "x")
    assert caught.value.partial.text == "one two"
    assert isinstance(caught.value.__cause__, NodeTimeout)
    with pytest.raises(StreamInterrupted) as caught:
        list(flow.stream("x"))
    assert caught.value.partial.text == "one two"
    model.release()


def test_a_slow_reader_does_not_lose_chunks_under_a_limit() -> None:
    flow = fallback(FakeChat(replies=[TEN]), "timeout: 5s")
    taken = []
    for chunk in flow.stream("x"):
        time.sleep(0.01)
        taken.append(chunk.text)
    assert "".join(taken) == TEN


# Nobody listens any more


def test_closing_a_stream_closes_the_model() -> None:
    model, recorder = FakeChat(replies=[TEN]), Recorder()
    stream = one(model).stream("x", {"callbacks": [recorder]})
    assert next(stream).text == "one"
    stream.close()  # type: ignore[attr-defined]
    assert model.calls[0].ended == "closed"
    assert recorder.unfinished == []


def test_abandoning_a_stream_closes_the_model() -> None:
    model, recorder = FakeChat(replies=[TEN]), Recorder()
    stream = one(model).stream("x", {"callbacks": [recorder]})
    next(stream)
    del stream
    assert model.calls[0].ended == "closed"
    assert recorder.unfinished == []


def test_closing_a_stream_under_a_limit_ends_its_thread() -> None:
    before = set(threading.enumerate())
    model = FakeChat(replies=[TEN], pause=0.01)
    stream = loads(ONE + "limits: {timeout: 5s}", models={"large": model}).stream("x")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert leftovers(before) == []
    assert model.calls[0].ended == "closed"


@pytest.mark.parametrize("limits", ["", "limits: {timeout: 5s}"])
async def test_closing_an_async_stream_closes_the_model(limits: str) -> None:
    model, recorder = FakeChat(replies=[TEN], pause=0.005), Recorder()
    stream = loads(ONE + limits, models={"large": model}).astream("x", {"callbacks": [recorder]})
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0)  # LangChain leaves its own generator to the loop
    await asyncio.sleep(0.05)
    assert model.calls[0].ended == "closed"
    assert recorder.unfinished == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("style", ["ainvoke", "astream", "abatch", "arun"])
@pytest.mark.parametrize("limits", ["", "limits: {timeout: 5s}"], ids=["no limit", "limit"])
async def test_cancellation_passes_through(style: str, limits: str) -> None:
    before = set(threading.enumerate())
    model, recorder = FakeChat(replies=[TEN], hang_after=1), Recorder()
    flow = loads(FALLBACK.replace(", OPTIONS", "") + limits, models={"large": model, "small": FakeChat()})
    config: Any = {"callbacks": [recorder]}
    work = {
        "ainvoke": lambda: flow.ainvoke("x", config),
        "astream": lambda: collect(flow, "x", config=config),
        "abatch": lambda: flow.abatch(["x", "y"], {"callbacks": []}),
        "arun": lambda: flow.arun("x", config),
    }[style]
    task = asyncio.ensure_future(work())
    while not model.calls:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.02)
    assert [call.ended for call in model.calls] == ["closed"] * len(model.calls)
    assert flow.models["small"].calls == []  # no edge took it for a failure
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert leftovers(before) == []
    assert recorder.unfinished == []


async def test_a_stream_cancelled_at_any_step_ends_its_runs() -> None:
    """Whatever its tasks are about to do: one that has not begun, for one, never does."""
    flow = loads(ONE, models={"large": FakeChat(replies=["one two three"])})
    for steps in range(60):
        recorder = Recorder()
        task = asyncio.ensure_future(collect(flow, "x", config={"callbacks": [recorder]}))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert recorder.unfinished == [], f"cancelled after {steps} steps of the loop"
        assert asyncio.all_tasks() == {asyncio.current_task()}


class Interrupting(FakeChat):
    """Ctrl-C while it writes."""

    def _chunk(self, *args: Any) -> Any:
        raise KeyboardInterrupt


@pytest.mark.parametrize("style", ["invoke", "stream", "batch", "run"])
@pytest.mark.parametrize("limits", ["", "limits: {timeout: 5s}"], ids=["no limit", "limit"])
def test_ctrl_c_passes_through(style: str, limits: str) -> None:
    before = set(threading.enumerate())
    small, recorder = FakeChat(), Recorder()
    flow = loads(FALLBACK.replace(", OPTIONS", "") + limits, models={"large": Interrupting(), "small": small})
    config: Any = {"callbacks": [recorder]}
    with pytest.raises(KeyboardInterrupt):
        {
            "invoke": lambda: flow.invoke("x", config),
            "stream": lambda: list(flow.stream("x", config)),
            "batch": lambda: flow.batch(["x"], config),
            "run": lambda: flow.run("x", config),
        }[style]()
    assert small.calls == []
    assert leftovers(before) == []
    assert recorder.unfinished == []


def test_values_that_are_no_messages_stream_too() -> None:
    text = ONE.replace("models: {large: {provider: host}}\n", "").replace(
        "{type: chat, model: large}", "{type: runnable, name: parts, role: answer}"
    )

    def parts(_: str) -> Any:
        yield {"a": 1}
        yield {"b": 2}

    assert list(loads(text, runnables={"parts": parts}).stream("x")) == [{"a": 1}, {"b": 2}]
    assert loads(text, runnables={"parts": lambda _: 0}).invoke("x") == 0
    assert list(loads(text, runnables={"parts": lambda _: 0}).stream("x")) == [0]
    assert list(loads(text, runnables={"parts": lambda _: None}).stream("x")) == [None]


def test_an_answer_without_content_is_still_an_answer() -> None:
    (*_, last) = one(FakeChat(replies=[""])).stream("x")
    assert last.text == ""
    assert last.response_metadata["dynflow"]["answer"] == "cloud"


async def test_a_model_that_loads_does_not_hold_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynflow.nodes.chat import Chat

    monkeypatch.setattr(Chat, "warm_up", lambda self: time.sleep(0.3))
    task = asyncio.ensure_future(one(FakeChat()).ainvoke("x"))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 3
    assert isinstance(task.result(), AIMessage)
