"""A model's health: the circuit breaker and the retry budget that all flows of a process share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core import exceptions as lc
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from dynflow import loads
from dynflow.errors import (
    DeadlineExceeded,
    failure_kind,
)
from dynflow.models.base import ProviderChat
from dynflow.models.failures import CircuitOpen, from_status, timed_out
from dynflow.models.health import health_of
from dynflow.models.settings import ModelSettings
from dynflow.testing import FakeChat
from dynflow.trace import Attempt
from tests.models.flaky import STYLES, Flaky, ask, day_left, flow, notes, server_error
from tests.models.no_backoff import no_backoff  # noqa: F401 - a fixture


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
