"""What a request made is freed as it ends: in a large process the garbage collector comes late, and stops all."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dynflow import Flow, loads

CANNED = """
version: 1
limits: {timeout: 60s}
nodes: {reply: {type: prompt, role: answer, template: "{input}"}}
edges:
  - {from: start, to: reply, when: input.tokens > 2}
  - {from: start, to: reply}
  - {from: reply, to: end}
"""
REQUESTS = 20


@pytest.fixture
def garbage() -> Iterator[list[Any]]:
    """What only the garbage collector frees."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def left_by_us(garbage: list[Any]) -> Counter[str]:
    gc.collect()
    return Counter(type(each).__name__ for each in garbage if type(each).__module__.startswith("dynflow"))


@pytest.fixture(scope="module")
def flow() -> Flow:
    flow = loads(CANNED)
    flow.invoke("what the first request makes stays")
    return flow


def test_in_a_thread(flow: Flow, garbage: list[Any]) -> None:
    for number in range(REQUESTS):
        flow.invoke(f"number {number}")
        list(flow.stream(f"number {number}"))
    flow.batch([f"number {number}" for number in range(REQUESTS)])
    assert left_by_us(garbage) == Counter()


async def test_on_an_event_loop(flow: Flow, garbage: list[Any]) -> None:
    async def read(chunks: AsyncIterator[Any]) -> None:
        async for _ in chunks:
            pass

    for number in range(REQUESTS):
        await flow.ainvoke(f"number {number}")
        await read(flow.astream(f"number {number}"))
    await flow.abatch([f"number {number}" for number in range(REQUESTS)])
    assert left_by_us(garbage) == Counter()
