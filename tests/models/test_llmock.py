"""llmock sends faults and judges from its side of the wire how the providers take them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core import exceptions as lc

import dynflow
from dynflow import Flow, StreamInterrupted
from dynflow.chunks import add_up
from tests.ollama_gateway import gateway

pytest.importorskip("litellm")
pytest.importorskip("ollama")
pytest.importorskip("llmock")
# litellm uses what pydantic is about to drop
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
QUESTION = "What is in store?"
Ask = Callable[[Flow], Any]


def _buffered(flow: Flow) -> Any:
    return add_up(list(flow.stream(QUESTION)))


ASKED: dict[str, Ask] = {
    "invoke": lambda flow: flow.invoke(QUESTION),
    "ainvoke": lambda flow: asyncio.run(flow.ainvoke(QUESTION)),
    "stream": _buffered,
}


@pytest.fixture(params=["litellm", "ollama"])
def make(
    request: pytest.FixtureRequest, llmock: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Flow]]:
    """A flow of one chat node before llmock; its time limit lets it ask for a stream, where faults are worst."""
    monkeypatch.setattr("dynflow.models.retries.BACKOFF", 0.2)
    flows: list[Flow] = []

    def loads(address: str, buffer: str) -> Flow:
        model = "openai/gpt-4o-mini" if request.param == "litellm" else "gpt-4o-mini"
        flow = dynflow.loads(f"""
version: 1
models:
  large: {{provider: {request.param}, model: {model}, api_base: "{address}", retries: 2}}
nodes:
  answer: {{type: chat, model: large, timeout: 30s, buffer: {buffer}}}
edges:
  - {{from: start, to: answer}}
  - {{from: answer, to: end}}
""")
        flows.append(flow)
        return flow

    if request.param == "litellm":
        yield lambda buffer: loads(llmock.base_url("openai"), buffer)
    else:
        with gateway(llmock.base_url("openai")) as address:
            yield lambda buffer: loads(address, buffer)
    for flow in flows:
        flow.close()


@pytest.fixture(params=list(ASKED))
def ask(request: pytest.FixtureRequest) -> Ask:
    return ASKED[request.param]


def test_a_truncated_stream_is_tried_again(llmock: Any, make: Callable[[str], Flow], ask: Ask) -> None:
    llmock.truncate(after_chunks=2)
    assert ask(make("true")).text
    assert len(llmock.requests) == 2
    llmock.assert_resilient(strict=True)


def test_a_dropped_connection_is_tried_again(llmock: Any, make: Callable[[str], Flow], ask: Ask) -> None:
    llmock.disconnect(after_chunks=2)
    assert ask(make("true")).text
    assert len(llmock.requests) == 2
    llmock.assert_resilient(strict=True)


def test_a_malformed_chunk_is_tried_again(llmock: Any, make: Callable[[str], Flow], ask: Ask) -> None:
    llmock.corrupt(after_chunks=2)
    assert ask(make("true")).text
    assert len(llmock.requests) == 2
    llmock.assert_resilient()  # it may see the second attempt begin before it has noticed the end of the first


def test_retry_after_is_waited_for(llmock: Any, make: Callable[[str], Flow], ask: Ask) -> None:
    llmock.rate_limit(times=2, retry_after=1.0)
    assert ask(make("true")).text
    assert len(llmock.requests) == 3
    llmock.assert_resilient(strict=True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_no_retry_mends_a_refusal(llmock: Any, make: Callable[[str], Flow], ask: Ask, status: int) -> None:
    llmock.fail(status, times=None)
    with pytest.raises(lc.ModelError):
        ask(make("true"))
    assert len(llmock.requests) == 1
    llmock.assert_resilient(strict=True)


def test_an_outage_ends_in_bounded_time(llmock: Any, make: Callable[[str], Flow], ask: Ask) -> None:
    llmock.outage()
    with pytest.raises(lc.ModelAPIError):
        ask(make("true"))
    assert len(llmock.requests) == 3
    llmock.assert_resilient()  # that jittered waits do not always grow is only a warning, and meant so


def test_what_went_out_is_not_taken_back(llmock: Any, make: Callable[[str], Flow]) -> None:
    llmock.truncate(after_chunks=3)
    with pytest.raises(StreamInterrupted) as caught:
        list(make("false").stream(QUESTION))
    assert caught.value.partial.text
    assert len(llmock.requests) == 1
