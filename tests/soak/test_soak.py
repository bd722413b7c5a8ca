"""Long runs through the fault server: nothing grows, and nothing is left behind.

`make soak` makes 10,000 requests and 1,000 cancels; the ordinary tests a tenth.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import psutil
import pytest

from dynflow import Flow, loads
from dynflow.errors import failure_kind
from dynflow.models.health import forget_all
from tests.effort import EFFORT
from tests.faults.cells import Fault, graph, reservations, settled, started_since
from tests.faults.server import FaultServer, serving
from tests.flow.recorder import Recorder

pytest.importorskip("litellm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
REQUESTS = 1_000 * EFFORT
CANCELS = 100 * EFFORT
AT_ONCE = 16
QUESTION = "What is in store?"
FAULTS = (
    *("refused", "reset", "reset_after_headers", "empty", "web_page", "status_400", "status_401", "status_429"),
    *("status_500", "stall", "stall_after_headers", "stall_midway", "slow_drip", "reset_midway", "cut", "half_close"),
    *("unfinished", "malformed", "bad_framing", "short_length", "long_length", "error_midway", "drip"),
)
GROWTH = 16 * 2**20
"""Bytes that the process may grow by once it is warm, where the C library keeps one arena of memory, as under
`make soak`: several fragment, and the process grows though nothing holds on to anything."""
BLOCKS = 20_000
"""Blocks of Python's own allocator, of two million, that may come to be: caches fill, and counts vary."""


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr("dynflow.models.retries.BACKOFF", 0.001)


def flow_with(server: FaultServer, provider: str, fault: str, patience: float = 0.05) -> Flow:
    """A flow with a fallback, whose model has the fault; it waits so many seconds for a silent upstream."""
    text = graph(server, provider, Fault(fault, "", silent=True), "fallback", patience)
    return loads(text.replace("usd_per_day: 1,", "usd_per_day: 1000,"))


async def ask(flow: Flow, style: str) -> str:
    """What one request comes to."""
    forget_all()  # an open circuit breaker would keep the faults away
    try:
        match style:
            case "ainvoke":
                await flow.ainvoke(QUESTION)
            case "astream":
                _ = [chunk async for chunk in flow.astream(QUESTION)]
            case "invoke":
                await asyncio.to_thread(flow.invoke, QUESTION)
            case "stream":
                await asyncio.to_thread(lambda: list(flow.stream(QUESTION)))
    except Exception as error:
        return failure_kind(error)
    return "answer"


class Standing:
    """What the process holds."""

    def __init__(self) -> None:
        for _ in range(3):
            gc.collect()
        process = psutil.Process()
        self.blocks = sys.getallocatedblocks()
        self.files = process.num_fds()
        self.bytes = process.memory_info().rss
        self.threads = set(threading.enumerate())
        self.tasks = len(asyncio.all_tasks())


async def test_requests_leave_nothing_behind(server: FaultServer) -> None:
    chance = random.Random(20)
    flows = [flow_with(server, provider, fault) for provider in ("litellm", "ollama") for fault in FAULTS]
    flows += [flow_with(server, provider, "good") for provider in ("litellm", "ollama")] * (len(FAULTS) // 2)
    came_to: Counter[str] = Counter()

    async def work(left: Iterator[int], upto: int) -> None:
        while next(left) < upto:
            style = chance.choice(("ainvoke", "ainvoke", "astream", "astream", "invoke", "stream"))
            came_to[await ask(chance.choice(flows), style)] += 1

    async def make(requests: int) -> Standing:
        left = count()
        await asyncio.gather(*(work(left, requests) for _ in range(AT_ONCE)))
        for flow in flows:
            flow.close()
        await settled(lambda: server.open == 0, 5.0)
        assert server.open == 0
        return Standing()

    warm = await make(REQUESTS // 5)
    done = await make(REQUESTS)
    assert sum(came_to.values()) == REQUESTS + REQUESTS // 5
    assert came_to["answer"] > 0.7 * sum(came_to.values()), came_to
    assert set(came_to) <= {"answer", "unavailable"}, came_to  # what is raised was interrupted
    assert done.files <= warm.files
    assert done.tasks == warm.tasks == 1
    pool = [each.name for each in threading.enumerate() if each.name.startswith("litellm-logging")]
    assert len(pool) == len(set(pool)), "litellm's one pool fills up by and by; a second one would be a leak"
    assert [each for each in started_since(warm.threads) if each.name not in pool] == []
    assert done.blocks - warm.blocks <= BLOCKS
    if os.environ.get("MALLOC_ARENA_MAX") == "1":
        assert done.bytes - warm.bytes <= GROWTH
    assert [reservations(flow) for flow in flows] == [0] * len(flows)


@pytest.mark.parametrize("provider", ["litellm", "ollama"])
async def test_connections_are_used_again(server: FaultServer, provider: str) -> None:
    """Also those whose answers came too late: deadlines strike at any point, in the midst of closing too."""
    flow = flow_with(server, provider, "good", 0.04)
    left = count()

    async def work() -> None:
        while next(left) < max(200, CANCELS):
            await ask(flow, "astream")

    await asyncio.gather(*(work() for _ in range(AT_ONCE // 2)))
    # Those that ask at once need one each, of the model and of its fallback, and some more while others are closed.
    assert server.open <= 4 * AT_ONCE
    flow.close()
    await settled(lambda: server.open == 0)
    assert server.open == 0


@pytest.mark.parametrize("provider", ["litellm", "ollama"])
async def test_cancels_leave_nothing_behind(server: FaultServer, provider: str) -> None:
    chance = random.Random(21)
    flows = [flow_with(server, provider, fault, 5.0) for fault in ("slow", "endless", "stall", "stall_midway")]
    recorder, threads = Recorder(), set(threading.enumerate())
    config: Any = {"callbacks": [recorder]}
    ended: Counter[str] = Counter()

    def close_after(flow: Flow, chunks: int) -> None:
        stream: Any = flow.stream(QUESTION, config)
        for _, _ in zip(range(chunks), stream, strict=False):
            pass
        stream.close()

    async def cancel(flow: Flow) -> None:
        style = chance.choice(("ainvoke", "astream", "abatch"))
        work: Any = {
            "ainvoke": lambda: flow.ainvoke(QUESTION, config),
            "astream": lambda: _all(flow.astream(QUESTION, config)),
            "abatch": lambda: flow.abatch([QUESTION, QUESTION], config),
        }[style]()
        task = asyncio.ensure_future(work)
        await asyncio.sleep(chance.uniform(0.0, 0.15))
        task.cancel()
        ended[type(*await asyncio.gather(task, return_exceptions=True)).__name__] += 1

    async def work(left: Iterator[int]) -> None:
        while next(left) < CANCELS:
            forget_all()
            if chance.random() < 0.2:
                await asyncio.to_thread(close_after, chance.choice(flows[:2]), chance.randint(1, 3))
            else:
                await cancel(chance.choice(flows))

    left = count()
    await asyncio.gather(*(work(left) for _ in range(AT_ONCE // 2)))
    assert ended["CancelledError"] > CANCELS // 2, ended
    for flow in flows:
        flow.close()
    await settled(lambda: not (unfinished(recorder) or server.open or started_since(threads)), 5.0)
    assert unfinished(recorder) == []
    assert server.open == 0
    assert started_since(threads) == []
    assert len(asyncio.all_tasks()) == 1
    assert [reservations(flow) for flow in flows] == [0] * len(flows)


def unfinished(recorder: Recorder) -> list[str]:
    """Runs that did not end exactly once. Not those of requests that were cancelled while LangChain started their run:
    it has no word for that."""
    begun = set(recorder.parents.values())
    runs = [run for run, parent in recorder.parents.items() if parent is not None or run in begun]
    return [recorder.names[run] for run in runs if recorder.ends[run] != 1]


async def _all(chunks: Any) -> None:
    async for _ in chunks:
        pass
