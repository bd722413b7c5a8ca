"""Whoever goes away is heard: the upstream connection closes at once, all runs end, the bill is settled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dynflow import Flow, loads
from dynflow.models.health import forget_all
from tests.faults.cells import Expected, Fault, graph, model_text, reservations, settled, spent, started_since
from tests.faults.server import FaultServer, serving
from tests.flow.recorder import Recorder
from tests.pace import slowness

pytest.importorskip("litellm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
WITHIN = 0.1
"""Seconds within which upstream sees that nobody listens any more."""
DEADLINES = pytest.mark.parametrize("deadline", [False, True], ids=["no deadline", "deadline"])
RESERVATION = Expected("", 1, "the reservation").usd
RECEIVED = Expected("", 1, "prompt and received words").usd


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module", params=["litellm", "ollama"])
def provider(request: pytest.FixtureRequest, server: FaultServer) -> str:
    """Its library is imported: a first call takes seconds."""
    provider: str = request.param
    pytest.importorskip(provider)
    flow = loads(graph(server, provider, Fault("good", "to warm up"), "none", 0.0))
    flow.invoke("Are you there?")
    flow.close()
    return provider


class Watched:
    """A flow whose upstream has a fault, and what was seen of one request to it."""

    def __init__(self, server: FaultServer, provider: str, fault: str, deadline: bool) -> None:
        forget_all()
        text = graph(server, provider, Fault(fault, "", silent=False), "fallback", 0.0)
        self.flow = loads(text if deadline else text.replace(", timeout: 10.0s", ""))
        self.recorder = Recorder()
        self.config: Any = {"callbacks": [self.recorder]}
        self.server, self.fault = server, fault
        self.hits, self.left = server.hits[fault], len(server.left.get(fault, ()))
        self.threads = set(threading.enumerate())
        self.factor = slowness()

    async def under_way(self) -> None:
        """Wait until upstream has the request, and has said what it says."""
        await settled(lambda: self.server.hits[self.fault] > self.hits, 5.0)
        await asyncio.sleep(0.1)

    async def check(self, since: float, usd: float | None, requests: int = 1) -> None:
        """As `_check`; whatever comes of it, the next test finds nothing of this one."""
        try:
            await self._check(since, usd, requests)
        finally:
            self.flow.close()

    async def _check(self, since: float, usd: float | None, requests: int) -> None:
        """The connections were closed in time after `since`; nothing is left; so much was spent (None: no matter)."""
        server, fault = self.server, self.fault
        await settled(lambda: len(server.left.get(fault, ())) - self.left == requests)
        closed = server.left.get(fault, [])[self.left :]
        assert len(closed) == requests == server.hits[fault] - self.hits
        late = max(closed) - since
        assert late <= WITHIN * self.factor or late <= WITHIN * slowness()
        self.flow.close()
        await settled(lambda: not (self.recorder.unfinished or server.open or self._lingering()))
        assert self.recorder.unfinished == []
        assert server.open == 0
        assert self._lingering() == []
        assert reservations(self.flow) == 0
        assert server.hits["good.fallback"] == 0  # no edge took it for a failure
        if usd is not None:
            assert spent(self.flow) == pytest.approx(usd * requests, abs=1e-9)

    def _lingering(self) -> list[Any]:
        return [*started_since(self.threads), *asyncio.all_tasks() - {asyncio.current_task()}]


def two_words(stream: Iterator[Any]) -> None:
    """Read all that `stall_midway` says."""
    next(stream), next(stream)


@DEADLINES
@pytest.mark.parametrize("abandon", [False, True], ids=["close", "abandon"])
async def test_a_stream_that_is_closed(server: FaultServer, provider: str, deadline: bool, abandon: bool) -> None:
    watched = Watched(server, provider, "stall_midway", deadline)
    stream: Any = watched.flow.stream("What is in store?", watched.config)
    await asyncio.to_thread(two_words, stream)
    await asyncio.sleep(0.05)  # under a deadline, a thread waits for the next word by now
    since = time.monotonic()
    if not abandon:
        stream.close()
    del stream
    await watched.check(since, RECEIVED)


@DEADLINES
@pytest.mark.parametrize("abandon", [False, True], ids=["close", "abandon"])
async def test_an_async_stream_that_is_closed(
    server: FaultServer, provider: str, deadline: bool, abandon: bool
) -> None:
    watched = Watched(server, provider, "stall_midway", deadline)
    stream: Any = watched.flow.astream("What is in store?", watched.config)
    await anext(stream)
    await anext(stream)
    since = time.monotonic()
    if not abandon:
        await stream.aclose()
    del stream
    await watched.check(since, RECEIVED)


def ways() -> dict[str, Callable[[Flow, Any], Any]]:
    async def collected(flow: Flow, config: Any) -> None:
        async for _ in flow.astream("What is in store?", config):
            pass

    return {
        "ainvoke": lambda flow, config: flow.ainvoke("What is in store?", config),
        "astream": collected,
        "abatch": lambda flow, config: flow.abatch(["What is in store?"], config),
    }


@DEADLINES
@pytest.mark.parametrize("fault", ["stall", "stall_after_headers", "stall_midway", "endless"])
@pytest.mark.parametrize("style", list(ways()))
async def test_a_task_that_is_cancelled(
    server: FaultServer, provider: str, style: str, fault: str, deadline: bool
) -> None:
    watched = Watched(server, provider, fault, deadline)
    task = asyncio.ensure_future(ways()[style](watched.flow, watched.config))
    await watched.under_way()
    since = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    streamed = deadline or style == "astream"
    usd = RECEIVED if fault == "stall_midway" and streamed else RESERVATION
    await watched.check(since, None if fault == "endless" and streamed else usd)


RACE = """
version: 1
models:
  slow: {slow}
  quick: {quick}
nodes:
  both: {{type: race, of: [one, two]}}
  one: {{type: chat, model: slow}}
  two: {{type: chat, model: quick}}
edges: [{{from: start, to: both}}, {{from: both, to: end}}]
limits: {{usd_per_day: 1}}
"""


@pytest.mark.parametrize("fault", ["stall", "stall_midway"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_who_loses_a_race(server: FaultServer, provider: str, fault: str, asynchronous: bool) -> None:
    watched = Watched(server, provider, fault, False)
    text = RACE.format(slow=model_text(server, provider, fault), quick=model_text(server, provider, "slow"))
    watched.flow = loads(text)
    if asynchronous:
        answer = await watched.flow.ainvoke("What is in store?", watched.config)
    else:
        answer = await asyncio.to_thread(watched.flow.invoke, "What is in store?", watched.config)
    since = time.monotonic()
    assert answer.response_metadata["dynflow"]["answer"] == "both"
    await watched.check(since, None)


INNER = """
version: 1
nodes:
  inner: {{type: graph, uses: inner.yaml}}
edges: [{{from: start, to: inner}}, {{from: inner, to: end}}]
limits: {{usd_per_day: 1, timeout: 10s}}
"""


async def test_a_stream_inside_a_sub_graph(server: FaultServer, provider: str, tmp_path: Any) -> None:
    watched = Watched(server, provider, "stall_midway", False)
    text = graph(server, provider, Fault("stall_midway", ""), "none", 0.0).replace(", timeout: 10.0s", "")
    (tmp_path / "inner.yaml").write_text(text)
    watched.flow = loads(INNER.format(), base=tmp_path)
    stream: Any = watched.flow.stream("What is in store?", watched.config)
    await asyncio.to_thread(two_words, stream)
    await asyncio.sleep(0.05)
    since = time.monotonic()
    stream.close()
    await watched.check(since, RECEIVED)


@DEADLINES
@pytest.mark.parametrize("fault", ["stall_midway", "endless"])
async def test_a_client_that_hangs_up(server: FaultServer, provider: str, fault: str, deadline: bool) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    responses = pytest.importorskip("starlette.responses")
    watched = Watched(server, provider, fault, deadline)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def texts() -> Any:
            async for chunk in watched.flow.astream("What is in store?", watched.config):
                yield chunk.text

        await responses.StreamingResponse(texts())(scope, receive, send)

    host = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="critical", ws="none"))
    serving = asyncio.create_task(host.serve())
    await settled(lambda: host.started, 5.0)
    port = host.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await watched.under_way()
    assert b" 200 " in await reader.readline()
    since = time.monotonic()
    writer.close()
    await settled(lambda: not watched.recorder.unfinished and bool(watched.recorder.names), 2.0)
    host.should_exit = True
    await serving
    await watched.check(since, RECEIVED if fault == "stall_midway" else None)
