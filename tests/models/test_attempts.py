"""Attempts at a model: which failures are followed by another, after how long, and what each one leaves behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from langchain_core import exceptions as lc
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from dynflow import Flow, loads
from dynflow.errors import (
    ArtefactError,
    BudgetExceeded,
    DeadlineExceeded,
    MissingDependency,
    MissingModel,
    Overloaded,
    RefusedByModel,
    StreamInterrupted,
    failure_kind,
)
from dynflow.models.base import ProviderChat
from dynflow.models.failures import CircuitOpen, NotReached, QuotaExhausted, from_status, retry_after, timed_out
from dynflow.models.health import health_of
from dynflow.models.settings import ModelSettings
from dynflow.testing import FakeChat
from dynflow.trace import HELD_TAG, Attempt
from tests.flow.recorder import Recorder
from tests.pace import slowness

STYLES = ("invoke", "ainvoke", "stream", "astream")
WHOLE = ("invoke", "ainvoke")


class Flaky(FakeChat):
    """Fails as told, call by call; then it answers as a `FakeChat` does."""

    failures: Sequence[Exception | None] = ()

    def _next(self) -> Exception | None:
        turn = len(self.calls) - 1
        return self.failures[turn] if turn < len(self.failures) else None

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for index, chunk in enumerate(super()._stream(messages, stop, run_manager, **kwargs)):
            if index == self.fail_after and (error := self._next()) is not None:
                raise error
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        index = 0
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            if index == self.fail_after and (error := self._next()) is not None:
                raise error
            index += 1
            yield chunk


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts, wait for no longer than a provider asked."""
    monkeypatch.setattr("dynflow.models.retries.BACKOFF", 0.0)


def flow(model: BaseChatModel, retries: int | None = 2, limits: str = "{}", node: str = "", price: str = "") -> Flow:
    retrying = "" if retries is None else f", retries: {retries}"
    text = f"""
version: 1
models: {{m: {{provider: host, max_tokens: 10{retrying}{price}}}}}
nodes: {{a: {{type: chat, model: m{node}}}}}
edges: [{{from: start, to: a}}, {{from: a, to: end}}]
limits: {limits}
"""
    return loads(text, models={"m": model})


async def ask(asked: Flow, style: str, *callbacks: BaseCallbackHandler) -> str:
    """The answer's text, by one of the call styles."""
    config: RunnableConfig = {"callbacks": list(callbacks)}
    if style == "invoke":
        return str((await asyncio.to_thread(asked.invoke, "one two", config)).text)
    if style == "ainvoke":
        return str((await asked.ainvoke("one two", config)).text)
    if style == "stream":
        return "".join(chunk.text for chunk in await asyncio.to_thread(lambda: list(asked.stream("one two", config))))
    return "".join([chunk.text async for chunk in asked.astream("one two", config)])


def day_left(asked: Flow) -> float:
    """USD left today."""
    assert asked._engine.day is not None
    return asked._engine.day.left


def server_error(wait: float | None = None) -> Exception:
    error = from_status(503, "come back later")
    if wait is not None:
        error.retry_after = wait  # type: ignore[attr-defined]
    return error


def notes(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", ()))


# Which failures


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "error",
    [
        server_error(),
        from_status(500, "no"),
        from_status(529, "overloaded"),
        from_status(429, "slower"),
        from_status(408, "too slow"),
        from_status(409, "conflict"),
        from_status(425, "too early"),
        from_status(None, "broke"),
        NotReached("refused"),
        TimeoutError("late"),
        ConnectionResetError("gone"),
    ],
    ids=repr,
)
async def test_what_may_pass_is_tried_again(error: Exception, style: str) -> None:
    model = Flaky(replies=["a b"], failures=[error])
    assert await ask(flow(model), style) == "a b"
    assert len(model.calls) == 2


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "error",
    [
        *(from_status(status, "no") for status in (400, 401, 402, 403, 404, 413, 422)),
        lc.ContextOverflowError("too long"),
        QuotaExhausted("pay first"),
        RefusedByModel("no"),
        Overloaded("the queue is full"),
        BudgetExceeded("too dear"),
        MissingModel("gone"),
        MissingDependency("litellm", "pip install"),
        ArtefactError("damaged"),
        DeadlineExceeded("over"),
        CircuitOpen("inner", 1.0),
        ValueError("a fault of the code"),
    ],
    ids=repr,
)
async def test_what_no_repetition_mends_is_not(error: Exception, style: str) -> None:
    model = Flaky(failures=[error])
    with pytest.raises(type(error)) as caught:
        await ask(flow(model), style)
    assert caught.value is error
    assert len(model.calls) == 1
    assert "tried" not in notes(error)


@pytest.mark.parametrize("style", STYLES)
async def test_the_last_failure_is_the_one_raised(style: str) -> None:
    errors = [server_error(), from_status(429, "slower"), from_status(500, "the last"), server_error()]
    model = Flaky(failures=errors)
    with pytest.raises(lc.ModelAPIError, match="the last") as caught:
        await ask(flow(model), style)
    assert caught.value is errors[2]
    assert "the model 'm' was tried 3 times" in notes(caught.value)
    assert len(model.calls) == 3


async def test_a_hosts_model_has_retries_of_its_own() -> None:
    model = Flaky(failures=[server_error()])
    with pytest.raises(lc.ModelAPIError) as caught:
        await flow(model, retries=None).ainvoke("q")
    assert "tried" not in notes(caught.value)
    assert len(model.calls) == 1


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


# How long


@pytest.mark.parametrize("style", STYLES)
async def test_a_provider_that_asks_to_wait_is_waited_for(style: str) -> None:
    model = Flaky(failures=[server_error(0.2)])
    began = time.perf_counter()
    await ask(flow(model), style)
    assert time.perf_counter() - began >= 0.2


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("wait", "limits", "why"),
    [
        (120.0, "{}", "its provider asks to wait 120 s, and dynflow waits 60 s at most"),
        (30.0, "{timeout: 20s}", "would outlast the time that is left"),
    ],
)
async def test_a_wait_in_vain_is_not_begun(style: str, wait: float, limits: str, why: str) -> None:
    model = Flaky(failures=[server_error(wait)])
    began = time.perf_counter()
    with pytest.raises(lc.ModelAPIError) as caught:
        await ask(flow(model, limits=limits), style)
    assert time.perf_counter() - began < 10
    assert "'m' was not tried again: " in notes(caught.value)
    assert why in notes(caught.value)
    assert len(model.calls) == 1


def test_waits_are_random_and_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynflow.models.attempts import Attempts

    monkeypatch.setattr("dynflow.models.retries.BACKOFF", 0.5)
    monkeypatch.setattr(Attempts, "_sleep", lambda self, seconds: setattr(self, "waited", seconds))
    waits: list[list[float]] = []
    for _ in range(50):
        model = Flaky(failures=[from_status(429, "slower")] * 6)
        (visit,) = flow(model, retries=6).run("q").trace.visits
        waits.append([each.waited for each in visit.attempts[1:]])
    for number, column in enumerate(zip(*waits, strict=True)):
        bound = min(0.5 * 2**number, 8.0)
        assert 0 <= min(column) < 0.5 * bound < max(column) <= bound


def test_what_a_response_asks() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0
    for nonsense in ("soon", "-1", "nan", "inf", ""):
        assert retry_after({"retry-after": nonsense}) is None


@pytest.mark.parametrize("style", STYLES)
async def test_attempts_share_the_requests_time(style: str) -> None:
    model = Flaky(failures=[server_error()] * 10, delay=0.25)
    began = time.perf_counter()
    with pytest.raises((DeadlineExceeded, lc.ModelAPIError)):
        await ask(flow(model, retries=10, limits="{timeout: 600ms}"), style)
    assert time.perf_counter() - began <= 0.6 + 0.25 * slowness()
    assert 2 <= len(model.calls) <= 3


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


# Health


@pytest.mark.parametrize("style", STYLES)
async def test_a_model_that_keeps_failing_is_left_alone(style: str) -> None:
    model = Flaky(failures=[server_error()] * 100)
    asked = flow(model, retries=1, limits="{usd_per_day: 1}", price=", price: {input: 0, output: 1000}")
    for _ in range(3):
        with pytest.raises(lc.ModelAPIError) as caught:
            await ask(asked, style)
    assert "was not tried again: its circuit breaker is open" in notes(caught.value)
    assert len(model.calls) == 5
    left = day_left(asked)
    for same in (asked, flow(model)):  # whichever flow uses it
        with pytest.raises(
            CircuitOpen, match=r"'m' is not called: its last calls failed; .* again in \d\.\d s"
        ) as shut:
            await ask(same, style)
        assert failure_kind(shut.value) == "unavailable"
        assert 0 < shut.value.retry_after <= 5
    assert len(model.calls) == 5
    assert day_left(asked) == left


async def test_an_open_breaker_is_told_in_the_trace() -> None:
    text = """
version: 1
models: {m: {provider: host}, n: {provider: host}}
nodes: {a: {type: chat, model: m}, b: {type: chat, model: n}}
edges: [{from: start, to: a}, {from: a, to: b, when: a.failed}, {from: a, to: end}, {from: b, to: end}]
"""
    asked = loads(text, models={"m": Flaky(failures=[server_error()] * 9), "n": FakeChat()})
    for _ in range(6):
        result = await asked.arun("q")
    assert result.trace.visits[0].attempts == (Attempt("m", 0.0, "unavailable", 0.0, "open"),)


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_refusals_do_not_open_it(status: int) -> None:
    model = Flaky(failures=[from_status(status, "no")] * 20)
    asked = flow(model, retries=0)
    for _ in range(20):
        with pytest.raises(lc.ModelError):
            await asked.ainvoke("q")
    assert len(model.calls) == 20
    assert health_of(model).breaker.state == "closed"


async def test_cancelled_calls_and_deadlines_do_not_open_it() -> None:
    model = FakeChat(hang_after=0)
    asked = flow(model, limits="{timeout: 10ms}")
    asked.warm_up()
    for _ in range(8):
        with pytest.raises(DeadlineExceeded):
            await asked.ainvoke("q")
    assert health_of(model).breaker.state == "closed"
    model.release()


class Late(ProviderChat):
    """An adapter of ours: a time-out of its service's, or (None) of the call's own limit."""

    provider = "late"
    status: int | None = None
    hits: int = 0

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self.hits += 1
        if self.status is None:
            raise timed_out(kwargs["timeout"], self.settings)
        raise from_status(self.status, "took too long")
        yield


@pytest.mark.parametrize(
    ("status", "limits", "opens"),
    [
        (504, "{}", True),
        (504, "{timeout: 60s}", True),
        (408, "{timeout: 60s}", True),
        (None, "{timeout: 60s}", False),
    ],
)
def test_time_outs_of_a_service_open_it_whatever_time_the_request_has(
    status: int | None, limits: str, opens: bool
) -> None:
    settings = ModelSettings(provider="litellm", model=f"late-{status}-{limits}", retries=0)
    model = Late(settings=settings, status=status)
    asked = flow(model, retries=None, limits=limits)
    for _ in range(8):
        with pytest.raises(lc.ModelError):
            asked.invoke("q")
    assert (health_of(model).breaker.state, model.hits) == (("open", 5) if opens else ("closed", 8))


async def test_an_outage_does_not_multiply_its_load() -> None:
    model = Flaky(failures=[from_status(429, "slower")] * 1000)  # which opens no breaker
    asked = flow(model, retries=2)
    for _ in range(50):
        with pytest.raises(lc.ModelRateLimitError) as caught:
            await asked.ainvoke("q")
    assert len(model.calls) == 50 + 10
    assert "its retry budget is spent" in notes(caught.value)
    model.failures = ()
    for _ in range(10):
        await asked.ainvoke("q")
    model.failures = [*[None] * len(model.calls), from_status(429, "slower")]
    assert (await asked.ainvoke("q")).text == "ok"


def test_a_loaded_graph_needs_no_tenacity() -> None:
    program = """
import sys, dynflow
dynflow.loads('''
version: 1
models: {m: {provider: litellm, model: openai/m}}
nodes: {a: {type: chat, model: m}}
edges: [{from: start, to: a}, {from: a, to: end}]
''')
sys.exit('tenacity' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_page_on_retries_has_the_numbers_of_the_code() -> None:
    from dynflow.models import attempts, breaker, retries
    from dynflow.models.retry_budget import RetryBudget

    page = " ".join((Path(__file__).parents[2] / "docs" / "retries.md").read_text().split())
    budget = RetryBudget()
    for says in (
        f"{attempts.RETRIES} by default, 10 at most",
        f"to {retries.LONGEST_BACKOFF:g} seconds",
        f"more than {retries.LONGEST_RETRY_AFTER:g} seconds",
        f"After {breaker.FAILURES} failures in a row",
        f"After {breaker.COOL_DOWN:g} seconds it is half open",
        f"{breaker.LONGEST_COOL_DOWN:g} seconds at most",
    ):
        assert says in page
    assert sum(budget.take() for _ in range(20)) == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_not_held_up() -> None:
    program = """
import os, sys
from dynflow.models import health
from dynflow.testing import FakeChat
with health._lock:
    child = os.fork()
    if child == 0:
        health.health_of(FakeChat())
        os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 7
