"""Retries: which failures are followed by another attempt, and after how long."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from langchain_core import exceptions as lc

from dynflow.errors import (
    ArtefactError,
    BudgetExceeded,
    DeadlineExceeded,
    MissingDependency,
    MissingModel,
    Overloaded,
    RefusedByModel,
)
from dynflow.models.failures import CircuitOpen, NotReached, QuotaExhausted, from_status
from tests.models.flaky import STYLES, Flaky, ask, flow, notes, server_error
from tests.models.no_backoff import no_backoff  # noqa: F401 - a fixture
from tests.pace import slowness


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


@pytest.mark.parametrize("style", STYLES)
async def test_attempts_share_the_requests_time(style: str) -> None:
    model = Flaky(failures=[server_error()] * 10, delay=0.25)
    began = time.perf_counter()
    with pytest.raises((DeadlineExceeded, lc.ModelAPIError)):
        await ask(flow(model, retries=10, limits="{timeout: 600ms}"), style)
    assert time.perf_counter() - began <= 0.6 + 0.25 * slowness()
    assert 2 <= len(model.calls) <= 3


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
