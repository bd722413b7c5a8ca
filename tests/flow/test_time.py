"""Time: node timeouts, the request's deadline, and what is inside groups and sub-graphs when it is up."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dynflow import DeadlineExceeded, Flow, NodeTimeout, loads
from dynflow.node import Call, Output
from dynflow.testing import FakeChat
from dynflow.timing import each_in_time, each_within
from tests.flow.recorder import Recorder
from tests.pace import slowness


async def both(flow: Flow) -> list[Any]:
    return [flow.run("x"), await flow.arun("x")]


INNER = """
version: 1
nodes:
  slow: {type: runnable, name: slow, role: answer}
  sorry: {type: prompt, role: answer, template: inner sorry}
edges:
  - {from: start, to: slow}
  - {from: slow, to: sorry, when: slow.failed}
  - {from: slow, to: end}
  - {from: sorry, to: end}
LIMITS
"""
OUTER = """
version: 1
nodes:
  inner: {type: graph, uses: inner.yaml, OPTIONS}
  sorry: {type: prompt, role: answer, template: outer sorry}
edges:
  - {from: start, to: inner}
  - {from: inner, to: sorry, when: inner.error in KINDS}
  - {from: inner, to: end}
  - {from: sorry, to: end}
LIMITS
"""


def nested(folder: Path, *, kinds: str, inner: str = "", outer: str = "", options: str = "") -> Flow:
    (folder / "inner.yaml").write_text(INNER.replace("LIMITS", inner))
    text = OUTER.replace("LIMITS", outer).replace(", OPTIONS", options).replace("in KINDS", f"== '{kinds}'")
    return loads(text, base=folder, runnables={"slow": lambda _: time.sleep(0.5)})


async def test_the_inner_deadline_is_handled_inside(tmp_path: Path) -> None:
    flow = nested(tmp_path, kinds="deadline", inner="limits: {timeout: 40ms}", outer="limits: {timeout: 10s}")
    for result in await both(flow):
        assert result.value.text == "inner sorry"
        assert result.trace.degraded


async def test_the_outer_deadline_ends_the_whole_sub_graph(tmp_path: Path) -> None:
    flow = nested(tmp_path, kinds="deadline", inner="limits: {timeout: 10s}", outer="limits: {timeout: 40ms}")
    for result in await both(flow):
        assert result.value.text == "outer sorry"


async def test_a_nodes_timeout_ends_the_whole_sub_graph(tmp_path: Path) -> None:
    for result in await both(nested(tmp_path, kinds="timeout", options=", timeout: 40ms")):
        assert result.value.text == "outer sorry"
        assert result.trace.inner["inner"].path == ["start", "slow"]


GROUP = """
version: 1
models: {m: {provider: host}}
nodes:
  both: {type: parallel, of: [one, two], OPTIONS}
  one: {type: chat, model: m, role: signal, MEMBER}
  two: {type: chat, model: m, role: signal}
  done: {type: prompt, role: answer, template: done}
  late: {type: prompt, role: answer, template: late}
edges:
  - {from: start, to: both}
  - {from: both, to: late, when: both.failed}
  - {from: both, to: done}
  - {from: done, to: end}
  - {from: late, to: end}
"""


async def test_a_group_that_is_late_calls_its_members_off() -> None:
    model = FakeChat(replies=["a b c d e f g h i j"], pause=0.02)
    text = GROUP.replace("OPTIONS", "timeout: 50ms").replace(", MEMBER", "")
    flow = loads(text, models={"m": model})
    flow.warm_up()
    for result in await both(flow):
        assert result.value.text == "late"
        time.sleep(0.1)
        assert [visit.node for visit in result.trace.visits if visit.node in ("one", "two")] == []
    assert {call.ended for call in model.calls} == {"closed"}
    assert len(model.calls) == 4


async def test_a_members_own_timeout_fails_the_group() -> None:
    model = FakeChat(replies=["a b c"], pause=0.1)
    text = GROUP.replace(", OPTIONS", "").replace("MEMBER", "timeout: 50ms")
    for result in await both(loads(text, models={"m": model})):
        assert result.value.text == "late"
        assert {visit.node: visit.error for visit in result.trace.visits}["one"] == "timeout"
        assert {visit.node: visit.ok for visit in result.trace.visits}["two"]


ONE = """
version: 1
models: {m: {provider: host}}
nodes: {a: {type: chat, model: m, OPTIONS}}
edges: [{from: start, to: a}, {from: a, to: end}]
LIMITS
"""


@pytest.mark.parametrize(
    ("options", "limits", "error"),
    [
        (", timeout: 30ms", "", NodeTimeout),
        (", timeout: 10s", "limits: {timeout: 30ms}", DeadlineExceeded),
        (", timeout: 30ms", "limits: {timeout: 10s}", NodeTimeout),
    ],
)
async def test_the_shorter_time_counts(options: str, limits: str, error: type[Exception]) -> None:
    model = FakeChat(hang_after=0)
    flow = loads(ONE.replace(", OPTIONS", options).replace("LIMITS", limits), models={"m": model})
    for style in (flow.invoke, lambda value: flow.batch([value]), lambda value: list(flow.stream(value))):
        with pytest.raises(error):
            style("x")
    with pytest.raises(error):
        await flow.ainvoke("x")
    with pytest.raises(error):
        await flow.abatch(["x"])
    model.release()


def test_a_timeout_that_the_node_raises_is_its_own() -> None:
    flow = loads(
        ONE.replace("OPTIONS", "timeout: 10s").replace("LIMITS", ""),
        models={"m": FakeChat(fail_with=TimeoutError("the socket's"))},
    )
    with pytest.raises(TimeoutError, match="the socket's") as caught:
        flow.invoke("x")
    assert not isinstance(caught.value, NodeTimeout)


def test_threads_that_are_late_end_at_their_next_chunk() -> None:
    before = set(threading.enumerate())
    model, recorder = FakeChat(replies=["a b c d e f g h"], pause=0.03), Recorder()
    flow = loads(ONE.replace("OPTIONS", "timeout: 50ms").replace("LIMITS", ""), models={"m": model})
    with pytest.raises(NodeTimeout):
        flow.invoke("x", {"callbacks": [recorder]})
    ends = time.monotonic() + 2
    while set(threading.enumerate()) - before and time.monotonic() < ends:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()
    assert model.calls[0].ended == "closed"
    assert recorder.unfinished == []


TOGETHER = """
version: 1
nodes:
  first: {type: runnable, name: first, role: signal, ports: {ready: boolean}}
  measure: {type: lengths}
  measured: {type: prompt, role: answer, template: measured}
  late: {type: prompt, role: answer, template: late}
edges:
  - {from: start, to: first}
  - {from: first, to: late, when: first.failed}
  - {from: first, to: measure}
  - {from: measure, to: late, when: measure.error == 'deadline'}
  - {from: measure, to: measured}
  - {from: measured, to: end}
  - {from: late, to: end}
limits: {timeout: TIMEOUT}
"""


async def test_each_request_of_a_batch_has_its_own_deadline(batching: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pace, measure = slowness(), batching.run_batch

    def until_one_is_late(self: Any, calls: Sequence[Call]) -> list[Output | Exception]:
        while min(call.seconds_left() for call in calls) > -0.05 * pace:
            time.sleep(0.01)
        return measure(self, calls)  # type: ignore[no-any-return]

    def first(_: str) -> dict[str, bool]:
        time.sleep(0.4 * pace)
        return {"ready": True}

    monkeypatch.setattr(batching, "run_batch", until_one_is_late)
    flow = loads(TOGETHER.replace("TIMEOUT", f"{round(1000 * pace)}ms"), runnables={"first": first})
    one_after_the_other: Any = {"max_concurrency": 1}
    for answers in (flow.batch(["a", "b"], one_after_the_other), await flow.abatch(["a", "b"], one_after_the_other)):
        assert [answer.text for answer in answers] == ["late", "measured"]
    assert batching.batches_seen == [["a", "b"]] * 2


class Timed:
    """A visit, as far as its time goes."""

    def __init__(self, time_limit: float) -> None:
        self.time_limit = time_limit
        self.called_off = False

    def expired(self) -> Exception:
        return DeadlineExceeded("late")

    def call_off(self) -> None:
        self.called_off = True


async def within_each(seconds: float, visits: Sequence[Any], error: Exception | None = None) -> list[Sequence[Any]]:
    """How visits of a batch end that takes so long, sync and async."""
    ended = threading.Event()

    def work() -> list[str]:
        ended.wait(seconds)
        if error is not None:
            raise error
        return ["a", "b", "c"]

    try:
        return [each_within(work, visits), await each_in_time(asyncio.to_thread(work), visits)]
    finally:
        ended.set()


async def test_one_whose_time_is_up_leaves_the_others_of_its_batch_theirs() -> None:
    for first, late, last in await within_each(0.2, [Timed(60.0), Timed(0.02), Timed(math.inf)]):
        assert (first, last) == ("a", "c")
        assert isinstance(late, DeadlineExceeded)
    visits = [Timed(0.02), Timed(0.01)]
    for ends in await within_each(60.0, visits):
        assert all(isinstance(end, DeadlineExceeded) for end in ends)
    assert all(visit.called_off for visit in visits)


async def test_one_whose_time_is_up_keeps_its_own_error_where_the_batch_fails_later() -> None:
    for late, failed in await within_each(0.2, [Timed(0.02), Timed(60.0)], OSError("broken")):
        assert isinstance(late, DeadlineExceeded)
        assert isinstance(failed, OSError)


LOADING = """
version: 1
models: {m: {provider: host}}
nodes: {a: {type: chat, model: m}}
edges:
  - {from: start, to: a}
  - {from: a, to: end}
limits: {timeout: 150ms}
"""


async def test_loading_counts_in_batches_as_it_does_elsewhere(batching: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()
    monkeypatch.setattr(batching, "warm_up", lambda self: loaded.wait(20))
    flow = loads(TOGETHER.replace("TIMEOUT", "150ms"), runnables={"first": lambda _: {"ready": True}})
    try:
        began = time.perf_counter()
        assert [answer.text for answer in flow.batch(["a", "b"])] == ["late", "late"]
        assert [answer.text for answer in await flow.abatch(["a", "b"])] == ["late", "late"]
        assert time.perf_counter() - began < 15
    finally:
        loaded.set()


async def test_loading_counts_in_streams_as_it_does_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()
    monkeypatch.setattr("dynflow.nodes.chat.Chat.warm_up", lambda self: loaded.wait(20))
    try:
        began = time.perf_counter()
        with pytest.raises(DeadlineExceeded):
            list(loads(LOADING, models={"m": FakeChat()}).stream("x"))
        with pytest.raises(DeadlineExceeded):
            [chunk async for chunk in loads(LOADING, models={"m": FakeChat()}).astream("x")]
        assert time.perf_counter() - began < 15
    finally:
        loaded.set()
