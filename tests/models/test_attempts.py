"""Attempts at a model: what each one leaves behind, what goes out of it, and how it is called off."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from langchain_core import exceptions as lc
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from dynflow import loads
from dynflow.errors import (
    StreamInterrupted,
)
from dynflow.models.failures import CircuitOpen, NotReached, from_status
from dynflow.models.health import health_of
from dynflow.testing import FakeChat
from dynflow.trace import HELD_TAG
from tests.flow.recorder import Recorder
from tests.models.flaky import STYLES, WHOLE, Flaky, ask, day_left, flow, notes, server_error
from tests.models.no_backoff import no_backoff  # noqa: F401 - a fixture
from tests.pace import slowness

# What each attempt leaves behind


@pytest.mark.parametrize("style", STYLES)
async def test_each_attempt_is_a_run_and_a_line_of_the_trace(style: str) -> None:
    model = Flaky(replies=["a b"], failures=[server_error(0.01), from_status(429, "slower")])
    recorder = Recorder()
    asked = flow(model)
    await ask(asked, style, recorder)
    runs = [run for run, name in recorder.names.items() if name == "model"]
    assert [type(recorder.errors.get(run)) for run in runs] == [lc.ModelAPIError, lc.ModelRateLimitError, type(None)]
    assert recorder.unfinished == []
    assert len({recorder.parents[run] for run in runs}) == 1
    model.calls.clear()
    (visit,) = asked.run("q").trace.visits
    assert [(each.model, each.error, each.breaker) for each in visit.attempts] == [
        ("m", "unavailable", "closed"),
        ("m", "rate_limit", "closed"),
        ("m", None, "closed"),
    ]
    first, second, _ = visit.attempts
    assert first.waited == 0.0
    assert 0.01 <= second.waited <= 0.011


async def test_attempts_of_a_failed_visit_are_told() -> None:
    text = """
version: 1
models: {m: {provider: host, retries: 1}, n: {provider: host}}
nodes: {a: {type: chat, model: m}, b: {type: chat, model: n}}
edges: [{from: start, to: a}, {from: a, to: b, when: a.failed}, {from: a, to: end}, {from: b, to: end}]
"""
    model = Flaky(failures=[server_error(), NotReached("refused")])
    result = await loads(text, models={"m": model, "n": FakeChat()}).arun("q")
    first, _ = result.trace.visits
    assert not first.ok
    assert [each.error for each in first.attempts] == ["unavailable", "unavailable"]


async def test_each_attempt_is_charged() -> None:
    price = ", price: {input: 0, output: 1000}"
    turned_down = Flaky(replies=["a b"], failures=[from_status(429, "no"), NotReached("no")])
    doubtful = Flaky(replies=["a b"], failures=[from_status(500, "no")])
    cut = Flaky(replies=["a b"], failures=[from_status(None, "cut")], fail_after=1)
    costs = {}
    for name, model in {"turned down": turned_down, "doubtful": doubtful, "cut": cut}.items():
        asked = flow(model, limits="{usd_per_request: 1, timeout: 60s}", price=price)
        result = await asked.arun("one two")
        assert result.value.text == "a b"
        costs[name] = result.ledger.usd
    assert costs["turned down"] == pytest.approx(2e-3)
    # In doubt: all that was reserved, for the ten tokens of max_tokens. Cut: the one token that had come.
    assert costs["doubtful"] == pytest.approx(2e-3 + 10e-3)
    assert costs["cut"] == pytest.approx(2e-3 + 1e-3)


async def test_what_the_limits_do_not_afford_is_not_tried_again() -> None:
    model = Flaky(failures=[from_status(500, "the failure")])
    asked = flow(model, limits="{usd_per_request: 0.015}", price=", price: {input: 0, output: 1000}")
    with pytest.raises(lc.ModelAPIError, match="the failure") as caught:
        await asked.ainvoke("one two")
    assert "'m' was not tried again: a call of 'm' could cost" in notes(caught.value)
    assert len(model.calls) == 1


# Streams


@pytest.mark.parametrize("style", ["stream", "astream"])
async def test_what_has_gone_out_is_not_repeated(style: str) -> None:
    model = Flaky(replies=["a b c"], failures=[from_status(None, "cut")], fail_after=2)
    with pytest.raises(StreamInterrupted) as caught:
        await ask(flow(model), style)
    assert caught.value.partial.text == "a b"
    assert len(model.calls) == 1


@pytest.mark.parametrize("limits", ["{}", "{timeout: 60s}"])
@pytest.mark.parametrize("style", STYLES)
async def test_what_is_held_back_is(style: str, limits: str) -> None:
    model = Flaky(replies=["a b c"], failures=[from_status(None, "cut")], fail_after=2)
    assert await ask(flow(model, node=", buffer: true", limits=limits), style) == "a b c"
    assert len(model.calls) == 2


@pytest.mark.parametrize("limits", ["{}", "{timeout: 60s}"])
@pytest.mark.parametrize("style", WHOLE)
async def test_an_answer_cut_off_is_tried_again_where_nothing_goes_out(style: str, limits: str) -> None:
    model = Flaky(replies=["a b c"], failures=[from_status(None, "cut")], fail_after=2)
    assert await ask(flow(model, limits=limits), style) == "a b c"


@pytest.mark.parametrize("style", STYLES)
async def test_labels_are_tried_again_whatever_had_come(style: str) -> None:
    model = Flaky(replies=["yes it is"], failures=[from_status(None, "cut")], fail_after=2)
    asked = flow(model, node=", labels: ['yes', 'no']")
    if style == "stream":
        assert [item.label for item in asked.stream("q")] == ["yes"]
    elif style == "astream":
        assert [item.label async for item in asked.astream("q")] == ["yes"]
    else:
        assert (await asked.ainvoke("q") if style == "ainvoke" else asked.invoke("q")).label == "yes"
    assert len(model.calls) == 2


class Watcher(Recorder, _StreamingCallbackHandler):  # type: ignore[type-arg]
    """One who passes tokens on as they come, as LangGraph's messages mode does."""

    def tap_output_aiter(self, run_id: Any, output: Any) -> Any:
        return output

    def tap_output_iter(self, run_id: Any, output: Any) -> Any:
        return output


@pytest.mark.parametrize("style", WHOLE)
async def test_a_watcher_sees_no_token_of_an_attempt_at_labels(style: str) -> None:
    model = Flaky(replies=["yes it is"], failures=[from_status(None, "cut")], fail_after=2)
    asked, watcher = flow(model, node=", labels: ['yes', 'no']"), Watcher()
    config: RunnableConfig = {"callbacks": [watcher]}
    await asked.ainvoke("q", config) if style == "ainvoke" else asked.invoke("q", config)
    runs = [run for run, name in watcher.names.items() if name == "model"]
    assert len(runs) == 2
    assert all(HELD_TAG in watcher.tags[run] for run in runs)


# Called off


@pytest.mark.parametrize("node", ["", ", labels: [a, b]"])
async def test_a_cancelled_call_ends_its_runs(node: str) -> None:
    model, recorder = FakeChat(hang_after=1), Recorder()
    task = asyncio.create_task(flow(model, node=node).ainvoke("q", {"callbacks": [recorder]}))
    while not model.calls or not model.calls[0].chunks:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "model" in recorder.names.values()
    assert recorder.unfinished == []
    assert model.calls[0].ended == "closed"


async def waiting(model: Flaky) -> None:
    """Until its first attempt has failed, and it waits for the second."""
    while not model.calls:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("style", ["ainvoke", "astream"])
@pytest.mark.parametrize("limits", ["usd_per_day: 1", "usd_per_day: 1, timeout: 60s"])
async def test_cancelling_a_wait_ends_it_at_once(style: str, limits: str) -> None:
    model = Flaky(failures=[from_status(429, "later")])
    model.failures[0].retry_after = 30.0  # type: ignore[union-attr]
    asked = flow(model, limits=f"{{{limits}}}", price=", price: {input: 0, output: 1000}")
    task = asyncio.create_task(ask(asked, style))
    await waiting(model)
    task.cancel()
    began = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.perf_counter() - began < 0.1 * slowness()
    assert day_left(asked) == pytest.approx(1)
    assert len(model.calls) == 1


async def test_a_cancelled_probe_leaves_room_for_another() -> None:
    model = Flaky(failures=[server_error()] * 5, delay=0)
    asked = flow(model, retries=0)
    for _ in range(5):
        with pytest.raises(lc.ModelAPIError):
            await asked.ainvoke("q")
    breaker = health_of(model).breaker
    assert breaker.state == "open"
    breaker._clock = lambda: time.monotonic() + 100
    model.hang_after = 0
    task = asyncio.create_task(asked.ainvoke("q"))
    while len(model.calls) < 6:
        await asyncio.sleep(0.005)
    with pytest.raises(CircuitOpen, match="by another request at this moment"):
        await asked.ainvoke("q")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.hang_after = None
    result = await asked.arun("q")
    assert [each.breaker for each in result.trace.visits[0].attempts] == ["half_open"]
    assert health_of(model).breaker.state == "closed"


def test_a_loser_of_a_race_stops_waiting() -> None:
    text = """
version: 1
models: {slow: {provider: host, retries: 2}, fast: {provider: host}}
nodes:
  first: {type: race, of: [a, b]}
  a: {type: chat, model: slow}
  b: {type: chat, model: fast}
edges: [{from: start, to: first}, {from: first, to: end}]
"""
    slow = Flaky(failures=[server_error(30.0)])
    before = set(threading.enumerate())
    assert loads(text, models={"slow": slow, "fast": FakeChat(delay=0.1)}).invoke("q").text == "ok"
    ends = time.perf_counter() + 1 * slowness()
    while set(threading.enumerate()) - before and time.perf_counter() < ends:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()
    assert len(slow.calls) == 1
