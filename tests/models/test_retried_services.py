"""Retries over HTTP, where hits can be counted: what the provider's client makes of an answer, and what of it we do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core import exceptions as lc

from dynflow import Flow, loads
from dynflow.models.failures import CircuitOpen, QuotaExhausted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
PROVIDERS = ("litellm", "ollama")


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None


class Service:
    """A chat service, of either protocol: it refuses as told, then it answers. It notes when each request came."""

    def __init__(self) -> None:
        self.hits: list[float] = []
        self.refusals: Sequence[Refusal] = ()
        self.always: Refusal | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                turn = len(service.hits)
                service.hits.append(time.perf_counter())
                refusal = service.refusals[turn] if turn < len(service.refusals) else service.always
                if refusal is not None:
                    said = {"message": "no", "code": refusal.code, "type": refusal.code}
                    error = {"error": "no"} if self.path.startswith("/api") else {"error": said}
                    self.reply(refusal.status, json.dumps(error), refusal.headers)
                elif self.path.startswith("/api"):
                    part = {"model": "m", "message": {"role": "assistant", "content": "yes"}, "done": True}
                    self.reply(200, json.dumps({**part, "done_reason": "stop"}) + "\n", {})
                else:
                    choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
                    whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                    self.reply(200, json.dumps(whole), {})

            def reply(self, status: int, text: str, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynflow.models.retries.BACKOFF", 0.0)


def flow(service: Service, provider: str, options: str = "", limits: str = "{}") -> Flow:
    pytest.importorskip(provider)
    model = "openai/m" if provider == "litellm" else "m"
    text = f"""
version: 1
models: {{m: {{provider: {provider}, model: {model}, api_base: "{service.url}", api_key: k{options}}}}}
nodes: {{a: {{type: chat, model: m}}}}
edges: [{{from: start, to: a}}, {{from: a, to: end}}]
limits: {limits}
"""
    return loads(text)


async def ask(asked: Flow, style: str) -> str:
    message = await asked.ainvoke("q") if style == "ainvoke" else await asyncio.to_thread(asked.invoke, "q")
    return str(message.text)


@pytest.mark.parametrize("style", ["invoke", "ainvoke"])
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
async def test_what_is_turned_down_is_asked_once(service: Service, provider: str, style: str, status: int) -> None:
    service.always = Refusal(status)
    with pytest.raises(lc.ModelError):
        await ask(flow(service, provider), style)
    assert len(service.hits) == 1


@pytest.mark.parametrize("style", ["invoke", "ainvoke"])
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_asked_twice_more(service: Service, provider: str, style: str, status: int) -> None:
    """Twice, by default: the client libraries, told not to, add none of their own."""
    service.always = Refusal(status)
    with pytest.raises(lc.ModelError) as caught:
        await ask(flow(service, provider), style)
    assert caught.value.is_retryable
    assert len(service.hits) == 3
    service.hits.clear()
    service.always, service.refusals = None, [Refusal(status)]
    assert await ask(flow(service, provider), style) == "yes"
    assert len(service.hits) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_no_retries_are_none(service: Service, provider: str) -> None:
    service.always = Refusal(503)
    with pytest.raises(lc.ModelAPIError):
        await flow(service, provider, ", retries: 0").ainvoke("q")
    assert len(service.hits) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["Retry-After", "retry-after-ms", "date"])
async def test_a_service_that_asks_to_wait(service: Service, provider: str, name: str, status: int) -> None:
    date = formatdate(time.time() + 2, usegmt=True)  # whole seconds: between one and two
    header, value, wait = {
        "Retry-After": ("Retry-After", "1", 1.0),
        "retry-after-ms": ("retry-after-ms", "300", 0.3),
        "date": ("Retry-After", date, 0.5),
    }[name]
    service.refusals = [Refusal(status, {header: value})]
    assert await ask(flow(service, provider), "ainvoke") == "yes"
    first, second = service.hits
    assert second - first >= wait


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_service_that_asks_for_too_long(service: Service, provider: str) -> None:
    service.always = Refusal(429, {"Retry-After": "3600"})
    with pytest.raises(lc.ModelRateLimitError) as caught:
        await flow(service, provider).ainvoke("q")
    assert caught.value.retry_after == 3600  # type: ignore[attr-defined]
    assert len(service.hits) == 1


async def test_an_empty_account_is_not_asked_again(service: Service) -> None:
    service.always = Refusal(429, code="insufficient_quota")
    for _ in range(2):
        with pytest.raises(QuotaExhausted):
            await flow(service, "litellm").ainvoke("q")
    assert len(service.hits) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_flows_of_one_process_share_a_breaker(service: Service, provider: str) -> None:
    service.always = Refusal(500)
    for _ in range(5):
        with pytest.raises(lc.ModelAPIError):
            await flow(service, provider, ", retries: 0").ainvoke("q")
    with pytest.raises(CircuitOpen):
        await flow(service, provider).ainvoke("q")
    with pytest.raises(lc.ModelAPIError):
        await flow(service, provider, ", revision: other, retries: 0").ainvoke("q")
    assert len(service.hits) == 6
