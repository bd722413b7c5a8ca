"""`runnable`: functions and runnables of the host, called in every style; references to what earlier nodes gave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda

import dynflow
from dynflow.errors import NodeFailed

ONE = """
version: 1
nodes:
  answer:
    type: runnable
    name: answer
    role: answer
edges:
  - {from: start, to: answer}
  - {from: answer, to: end}
"""
TWO = """
version: 1
nodes:
  first:
    type: runnable
    name: first
  second:
    type: runnable
    name: second
    role: answer
    input: ${first.output}
edges:
  - {from: start, to: first}
  - {from: first, to: second}
  - {from: second, to: end}
"""


def upper(text: str) -> str:
    return text.upper()


async def upper_async(text: str) -> str:
    return text.upper()


def words(chunks: Iterator[str]) -> Iterator[str]:
    for chunk in chunks:
        yield from chunk.upper().split()


async def words_async(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    async for chunk in chunks:
        for word in chunk.upper().split():
            yield word


def indirect(_: str) -> Runnable[Any, Any]:
    return RunnableGenerator(words, words_async)


@pytest.mark.parametrize("handed", [upper, RunnableLambda(upper), len])
def test_sync_styles_agree(handed: Any) -> None:
    flow = dynflow.loads(ONE, runnables={"answer": handed})
    expected = handed.invoke("a b") if isinstance(handed, Runnable) else handed("a b")
    assert flow.invoke("a b") == expected
    assert list(flow.stream("a b")) == [expected]


@pytest.mark.parametrize("handed", [upper, upper_async, RunnableLambda(upper, upper_async)])
async def test_async_styles_agree(handed: Any) -> None:
    flow = dynflow.loads(ONE, runnables={"answer": handed})
    assert await flow.ainvoke("a b") == "A B"
    assert [chunk async for chunk in flow.astream("a b")] == ["A B"]


def test_coroutine_function_needs_an_async_call() -> None:
    with pytest.raises(NodeFailed, match="ainvoke"):
        dynflow.loads(ONE, runnables={"answer": upper_async}).invoke("a")


async def test_a_runnable_that_a_function_returns_is_run_and_streamed() -> None:
    flow = dynflow.loads(ONE, runnables={"answer": indirect})
    assert list(flow.stream("a b")) == ["A", "B"]
    assert [chunk async for chunk in flow.astream("a b")] == ["A", "B"]
    assert flow.invoke("a b") == "AB"


async def test_closing_the_stream_closes_what_the_function_returned() -> None:
    closed = asyncio.Event()

    async def endless(_: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            while True:
                yield "."
        finally:
            closed.set()

    flow = dynflow.loads(ONE, runnables={"answer": lambda _: RunnableGenerator(endless)})
    stream = flow.astream("a")
    assert await anext(stream) == "."
    await stream.aclose()
    await asyncio.wait_for(closed.wait(), 0.1)


@pytest.mark.parametrize("value", ["text", 7, ["a", "list"], {"a": "mapping"}])
def test_an_input_reference_hands_over_the_value_as_it_is(value: Any) -> None:
    flow = dynflow.loads(TWO, runnables={"first": lambda _: value, "second": lambda given: given})
    assert flow.invoke("question") == value


def test_runs_inside_a_function_belong_to_its_node() -> None:
    inner = RunnableLambda(upper).with_config(run_name="inner")
    flow = dynflow.loads(ONE, runnables={"answer": lambda text: inner.invoke(text)})

    async def collect() -> list[dict[str, Any]]:
        return [event async for event in flow.astream_events("a", version="v2")]  # type: ignore[misc]

    started = {event["name"]: event for event in asyncio.run(collect()) if event["event"] == "on_chain_start"}
    assert started["inner"]["parent_ids"][-1] == started["answer"]["run_id"]
