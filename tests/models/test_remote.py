"""What the models behind a network share: connections that are kept and closed, time limits, and who may give up."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core import exceptions as lc
from langchain_core.caches import InMemoryCache

from dynflow.models.base import ProviderChat
from dynflow.models.remote import RemoteChat
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
from dynflow.waiting import check_wanted
from tests.faults.server import FaultServer, serving
from tests.pace import slowness

pytest.importorskip("litellm")
pytest.importorskip("ollama")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
CLOSED_WITHIN = 0.1
Make = Callable[..., ProviderChat]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


@pytest.fixture(params=["litellm", "ollama"])
def make(server: FaultServer, request: pytest.FixtureRequest) -> Make:
    """A model whose requests go wrong in the way that is named; its library is imported."""

    def made(fault: str, **more: Any) -> ProviderChat:
        of_litellm = request.param == "litellm"
        entry = {"model": f"openai/{fault}" if of_litellm else fault, "provider": request.param}
        address = f"{server.url}/v1" if of_litellm else server.url
        return create(ModelSettings(**entry, api_base=address, **more), "large")

    made("good").warm_up()
    return made


def wait_until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.005)


def test_synchronous_calls_share_a_connection(server: FaultServer, make: Make) -> None:
    model = make("good")
    most = 0
    for _ in range(5):
        model.invoke("hi")
        list(model.stream("hi"))
        most = max(most, server.open)
    assert server.hits["good"] == 10
    assert most == 1
    model.close()
    wait_until(lambda: server.open == 0)
    assert model.invoke("hi").text  # a later call opens a new one
    del model
    gc.collect()
    wait_until(lambda: server.open == 0)


def test_each_event_loop_has_a_client_and_closes_it(server: FaultServer, make: Make) -> None:
    model = make("good")

    async def calls() -> int:
        for _ in range(3):
            await model.ainvoke("hi")
            async for _ in model.astream("hi"):
                pass
        return server.open

    for _ in range(3):
        assert asyncio.run(calls()) == 1
        wait_until(lambda: server.open == 0)
    assert len(model._clients._leases) <= 1  # type: ignore[attr-defined]


async def test_closing_a_model_spares_the_calls_under_way(server: FaultServer, make: Make) -> None:
    model = make("slow")
    chunks = model.astream("hi")
    first = await anext(aiter(chunks))
    model.close()
    rest = [chunk async for chunk in chunks]
    assert (first.text + "".join(chunk.text for chunk in rest)).endswith("five")
    while server.open:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_that_is_closed_closes_its_connection(server: FaultServer, make: Make, asynchronous: bool) -> None:
    model = make("endless")

    async def leave() -> float:
        chunks = model.astream("hi")
        async for _ in chunks:
            break
        left = time.monotonic()
        await chunks.aclose()  # type: ignore[attr-defined]
        while not server.left:
            await asyncio.sleep(0.001)
        return left

    if asynchronous:
        left = asyncio.run(leave())
    else:
        chunks = model.stream("hi")
        next(chunks)
        left = time.monotonic()
        chunks.close()  # type: ignore[attr-defined]
        wait_until(lambda: bool(server.left))
    assert server.left["endless"][0] - left < CLOSED_WITHIN * slowness()


@pytest.mark.parametrize("fault", ["stall", "stall_midway", "slow_drip", "endless"])
@pytest.mark.parametrize("style", ["invoke", "ainvoke", "stream", "astream"])
def test_the_time_limit_is_for_the_whole_call(server: FaultServer, make: Make, fault: str, style: str) -> None:
    """A server that sends something now and then would never meet a limit on its silence."""
    limit = 0.3 * slowness()
    model = make(fault, timeout=f"{limit:.3f}s")

    async def astream() -> None:
        async for _ in model.astream("hi"):
            pass

    ways: dict[str, Callable[[], Any]] = {
        "invoke": lambda: model.invoke("hi"),
        "ainvoke": lambda: asyncio.run(model.ainvoke("hi")),
        "stream": lambda: list(model.stream("hi")),
        "astream": lambda: asyncio.run(astream()),
    }
    began = time.monotonic()
    with pytest.raises(lc.ModelTimeoutError, match=r"did not finish within \d"):
        ways[style]()
    ended = time.monotonic()
    assert limit - 0.01 <= ended - began < limit + 0.25 * slowness()
    wait_until(lambda: bool(server.left.get(fault)) and server.open == 0)
    assert server.left[fault][0] - ended < CLOSED_WITHIN * slowness()


@pytest.mark.parametrize("fault", ["stall", "stall_midway"])
def test_a_thread_that_nobody_waits_for_hangs_up(server: FaultServer, make: Make, fault: str) -> None:
    model, given_up = make(fault), threading.Event()
    raised: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    class GivenUp(Exception):
        pass

    def check() -> None:
        if given_up.is_set():
            raise GivenUp

    def work() -> None:
        check_wanted.set(check)
        try:
            list(model.stream("hi"))
        except BaseException as error:
            raised.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: server.hits[fault] == 1)
    time.sleep(0.05)
    given_up.set()
    left = time.monotonic()
    assert isinstance(raised.get(timeout=5), GivenUp)
    wait_until(lambda: bool(server.left.get(fault)) and server.open == 0)
    assert server.left[fault][0] - left < CLOSED_WITHIN * slowness()
    thread.join()


def _in_child(model: RemoteChat, out: Any) -> None:
    out.put((model.invoke("hi").text, threading.active_count()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
def test_a_forked_child_has_connections_of_its_own(server: FaultServer, make: Make) -> None:
    model = make("good")
    whole = model.invoke("hi").text
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_args, **_more: None)  # Python ≥ 3.12 warns of any fork beside threads
        child = context.Process(target=_in_child, args=(model, out))
        child.start()
    assert out.get(timeout=30)[0] == whole
    child.join(30)
    assert child.exitcode == 0
    assert model.invoke("hi").text == whole
    assert server.hits["good"] == 3


def test_a_copy_opens_its_own(make: Make) -> None:
    model = make("good")
    whole = model.invoke("hi").text
    copied = pickle.loads(pickle.dumps(model))
    assert copied.invoke("hi").text == whole
    assert model.model_copy(deep=True).invoke("hi").text == whole


def test_the_time_left_makes_no_other_call_for_the_cache(server: FaultServer, make: Make) -> None:
    model = make("good")
    model.cache = InMemoryCache()
    assert model.invoke("hi", timeout=5.0).text == model.invoke("hi", timeout=4.9).text
    assert server.hits["good"] == 1


async def test_many_loops_leave_no_client(server: FaultServer, make: Make) -> None:
    """Synchronous and asynchronous callers at once: neither disturbs the other's loop."""
    model = make("slow")
    together = await asyncio.gather(
        *(asyncio.to_thread(model.invoke, "hi") for _ in range(4)), *(model.ainvoke("hi") for _ in range(4))
    )
    assert {answer.text for answer in together} == {"one two three four five"}
    model.close()
    while server.open:
        await asyncio.sleep(0.005)


def test_the_library_is_imported_beside_the_event_loop(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("good")
    threads: list[threading.Thread] = []
    monkeypatch.setattr(type(model), "_library_loaded", lambda self: False)
    monkeypatch.setattr(type(model), "warm_up", lambda self: threads.append(threading.current_thread()))
    asyncio.run(model.ainvoke("hi"))
    assert threads
    assert threads[0] is not threading.main_thread()
