"""The fault matrix: what becomes of a request for each fault, call style and graph, and how to find out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import HumanMessage

from dynflow import Flow, StreamInterrupted
from dynflow.chunks import add_up
from dynflow.errors import failure_kind
from dynflow.prompt_size import PromptSize
from dynflow.request import estimate_tokens
from tests.faults.server import CUT_AFTER, TOKENS, WORDS, FaultServer
from tests.flow.recorder import Recorder

Style = Literal["invoke", "ainvoke", "batch", "stream", "astream"]
STYLES: tuple[Style, ...] = ("invoke", "ainvoke", "batch", "stream", "astream")
LIVE: tuple[Style, ...] = ("stream", "astream")
"""The styles whose words go out as they come."""
Edge = Literal["none", "fallback", "buffered"]
"""The graph: without an edge for the model's failure, with one, and with one and `buffer: true`."""
Bill = Literal["nothing", "the reservation", "prompt and received words", "the usage told"]

QUESTION = "What is in store?"
BATCH = 2
"""Requests in a batch."""
RETRIES = 1
MAX_TOKENS = 100
DEADLINE = 10.0
"""Seconds that a request has where nothing is silent."""
PATIENCE = 0.4
"""Seconds that a silent upstream gets, on a machine that is not slow."""
INPUT_USD, OUTPUT_USD = 1e-6, 2e-6
"""Per token."""


@dataclass(frozen=True)
class Fault:
    """One fault and what it comes to. `name` is the server's, or `refused`."""

    name: str
    about: str
    error: str | None = "unavailable"
    """The kind of failure of an answer that is collected; None where there is an answer."""
    words: bool = False
    """Whether words come before it fails."""
    retried: bool = True
    silent: bool = False
    """Whether only the clock ends it."""
    unbilled: bool = False
    """Whether upstream surely billed nothing."""


FAULTS = (
    Fault("good", "none: a whole answer", error=None),
    Fault("drip", "a whole answer, a byte at a time", error=None),
    Fault("refused", "nobody listens", unbilled=True),
    Fault("reset", "connection reset before any header"),
    Fault("reset_after_headers", "connection reset after the headers"),
    Fault("empty", "status 200 and no body"),
    Fault("web_page", "status 200 and a web page"),
    Fault("status_400", "status 400", error="invalid", retried=False, unbilled=True),
    Fault("status_401", "status 401", error="auth", retried=False, unbilled=True),
    Fault("status_403", "status 403", error="auth", retried=False, unbilled=True),
    Fault("status_404", "status 404", retried=False, unbilled=True),
    Fault("status_422", "status 422", error="invalid", retried=False, unbilled=True),
    Fault("status_429", "status 429 with Retry-After", error="rate_limit", unbilled=True),
    Fault("status_500", "status 500"),
    Fault("status_503", "status 503"),
    Fault("stall", "silence instead of headers", error="deadline", silent=True),
    Fault("stall_after_headers", "silence after the headers", error="deadline", silent=True),
    Fault("stall_midway", "silence after some words", error="deadline", words=True, silent=True),
    Fault("slow_drip", "a byte at a time, too slowly", error="deadline", silent=True),
    Fault("reset_midway", "connection reset after some words", words=True),
    Fault("cut", "connection closed after some words", words=True),
    Fault("half_close", "half-closed after some words", words=True),
    Fault("unfinished", "a clean end without a finish reason", words=True),
    Fault("malformed", "broken JSON after some words", words=True),
    Fault("bad_framing", "a broken HTTP chunk after some words", words=True),
    Fault("short_length", "content-length too small", words=True),
    Fault("long_length", "content-length too large", words=True),
    Fault("error_midway", "an error event after some words", words=True),
)


@dataclass(frozen=True)
class Expected:
    """What one request comes to."""

    outcome: str
    """`answer`, `fallback`, `interrupted`, or the kind of the failure that is raised."""
    hits: int
    """Requests that reach the faulty model."""
    bill: Bill
    """What each of them is billed."""

    @property
    def usd(self) -> float:
        """In all, with the fallback's answer."""
        prompt = PromptSize([HumanMessage(QUESTION)])
        each = {
            "nothing": 0.0,
            "the reservation": prompt.most * INPUT_USD + MAX_TOKENS * OUTPUT_USD,
            "prompt and received words": prompt.tokens * INPUT_USD + _RECEIVED * OUTPUT_USD,
            "the usage told": _ANSWER_USD,
        }[self.bill]
        return self.hits * each + (_ANSWER_USD if self.outcome == "fallback" else 0.0)


_ANSWER_USD = TOKENS["prompt"] * INPUT_USD + TOKENS["completion"] * OUTPUT_USD
_RECEIVED = sum(map(estimate_tokens, WORDS[:CUT_AFTER]))


def expected(fault: Fault, style: Style, edge: Edge) -> Expected:
    """What becomes of one request."""
    live = style in LIVE and edge != "buffered"
    if fault.error is None:
        return Expected("answer", 1, "the usage told")
    interrupted = live and fault.words
    again = fault.retried and not fault.silent and not interrupted
    hits = 0 if fault.name == "refused" else 1 + (RETRIES if again else 0)
    bill: Bill = "nothing" if fault.unbilled else "prompt and received words" if fault.words else "the reservation"
    outcome = "interrupted" if interrupted else fault.error if edge == "none" else "fallback"
    return Expected(outcome, hits, bill)


@dataclass(frozen=True)
class Cell:
    """One fault, met by one call style, in one graph."""

    fault: Fault
    style: Style
    edge: Edge

    @property
    def requests(self) -> int:
        return BATCH if self.style == "batch" else 1

    @property
    def expected(self) -> Expected:
        return expected(self.fault, self.style, self.edge)

    def __str__(self) -> str:
        return f"{self.fault.name}/{self.style}/{self.edge}"


def cells(fault: Fault) -> Iterator[tuple[Edge, list[Cell]]]:
    """All cells of a fault by their graphs; `buffer: true` matters where words would go out before it."""
    yield "none", [Cell(fault, style, "none") for style in STYLES]
    yield "fallback", [Cell(fault, style, "fallback") for style in STYLES]
    if fault.words:
        yield "buffered", [Cell(fault, style, "buffered") for style in LIVE]


_MODEL = """
    provider: {provider}
    model: {model}
    api_base: {base}
    api_key: sk-test
    max_tokens: {max_tokens}
    retries: {retries}
    price: {{input: 1, output: 2}}
"""
_WITH = """
version: 1
models:
  large: {large}
  small: {small}
nodes:
  cloud: {{type: chat, model: large{options}}}
  local: {{type: chat, model: small}}
edges:
  - {{from: start, to: cloud}}
  - {{from: cloud, to: local, when: cloud.failed}}
  - {{from: cloud, to: end}}
  - {{from: local, to: end}}
limits: {{usd_per_day: 1, timeout: {deadline}s}}
"""
_WITHOUT = """
version: 1
models:
  large: {large}
nodes:
  cloud: {{type: chat, model: large}}
edges:
  - {{from: start, to: cloud}}
  - {{from: cloud, to: end}}
limits: {{usd_per_day: 1, timeout: {deadline}s}}
"""


def model_text(server: FaultServer, provider: str, fault: str) -> str:
    """An entry of `models:` whose upstream has the fault."""
    base = server.refusing_url if fault.partition(".")[0] == "refused" else server.url
    if provider == "litellm":
        fault, base = f"openai/{fault}", f"{base}/v1"
    return _MODEL.format(provider=provider, model=fault, base=base, max_tokens=MAX_TOKENS, retries=RETRIES)


def graph(server: FaultServer, provider: str, fault: Fault, edge: Edge, patience: float) -> str:
    """The graph of some cells. Where there is a fallback, the node's own timeout leaves time for it."""
    large = model_text(server, provider, fault.name)
    if edge == "none":
        return _WITHOUT.format(large=large, deadline=patience if fault.silent else DEADLINE)
    options = ", buffer: true" if edge == "buffered" else ""
    if fault.silent:
        options += f", timeout: {patience}s"
    small = model_text(server, provider, "good.fallback")
    return _WITH.format(large=large, small=small, options=options, deadline=DEADLINE)


@dataclass(frozen=True)
class Found:
    """What running a cell came to."""

    outcomes: tuple[str, ...]
    """Of each request."""
    partial: str
    """What had gone out of an answer that was interrupted."""
    hits: int
    usd: float
    seconds: float
    ended: float
    """When it had ended, by `time.monotonic`."""
    unfinished: tuple[str, ...]
    """LangChain runs that did not end exactly once."""
    threads: tuple[str, ...]
    tasks: int
    reservations: int


async def run(server: FaultServer, flow: Flow, cell: Cell) -> Found:
    """Run a cell on the flow of its graph."""
    threads, before, usd = set(threading.enumerate()), server.hits[cell.fault.name], spent(flow)
    recorder = Recorder()
    began = time.monotonic()
    results = await _results(flow, cell, recorder)
    ended = time.monotonic()
    partial = next((each.partial.text for each in results if isinstance(each, StreamInterrupted)), "")
    await settled(lambda: not (recorder.unfinished or started_since(threads) or _tasks()))
    return Found(
        tuple(map(_outcome, results)),
        partial,
        server.hits[cell.fault.name] - before,
        spent(flow) - usd,
        ended - began,
        ended,
        tuple(recorder.unfinished),
        tuple(thread.name for thread in started_since(threads)),
        _tasks(),
        reservations(flow),
    )


async def _results(flow: Flow, cell: Cell, recorder: Recorder) -> list[Any]:
    config: Any = {"callbacks": [recorder]}
    questions = [QUESTION] * cell.requests
    try:
        match cell.style:
            case "invoke":
                return [await asyncio.to_thread(flow.invoke, QUESTION, config)]
            case "ainvoke":
                return [await flow.ainvoke(QUESTION, config)]
            case "stream":
                return [add_up(await asyncio.to_thread(lambda: list(flow.stream(QUESTION, config))))]
            case "astream":
                return [add_up([chunk async for chunk in flow.astream(QUESTION, config)])]
            case "batch":
                return await asyncio.to_thread(lambda: flow.batch(questions, config, return_exceptions=True))
    except Exception as error:
        return [error]


def _outcome(result: Any) -> str:
    if isinstance(result, StreamInterrupted):
        return "interrupted"
    if isinstance(result, Exception):
        return failure_kind(result)
    assert result.text == "".join(WORDS)
    record = result.response_metadata["dynflow"]
    assert record["degraded"] is (record["answer"] == "local")
    return "answer" if record["answer"] == "cloud" else "fallback"


def _tasks() -> int:
    return len(asyncio.all_tasks()) - 1


def spent(flow: Flow) -> float:
    """USD spent and reserved today, of the one that `usd_per_day` allows."""
    day = flow._engine.day
    assert day is not None
    return 1 - day.left


def reservations(flow: Flow) -> int:
    """Reservations that nobody has settled yet."""
    day = flow._engine.day
    assert day is not None
    with day._books.store._transaction("DEFERRED") as books:
        (count,) = books.execute("SELECT COUNT(*) FROM reserved WHERE key = ?", (day._books.key,)).fetchone()
    return int(count)


def started_since(threads: set[threading.Thread]) -> list[threading.Thread]:
    """Threads begun since, but for those that are kept for all calls: executors', and the one for network calls."""
    kept = ("asyncio_", "AnyIO worker", "dynflow calls")
    return [each for each in set(threading.enumerate()) - threads if not each.name.startswith(kept)]


async def settled(holds: Any, seconds: float = 0.5) -> None:
    """Wait until it holds; not longer, for what holds is for the caller to say."""
    ends = time.monotonic() + seconds
    while not holds() and time.monotonic() < ends:
        await asyncio.sleep(0.005)
