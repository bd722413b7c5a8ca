"""Requests that cannot be sent: the caller's own fault, so they cost nothing and speak against no model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core import exceptions as lc
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from dynflow import Flow, loads
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create

pytest.importorskip("litellm")
pytest.importorskip("ollama")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
HALF = "\ud83d"
MODELS = [
    ("litellm", "openai/m"),
    ("litellm", "anthropic/claude-3-5-haiku-latest"),
    ("litellm", "gemini/gemini-2.0-flash"),
    ("ollama", "m"),
]


class Server:
    """Counts what comes, and breaks."""

    def __init__(self) -> None:
        self.hits = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.hits += 1
                self.send_error(500)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def flow(server: Server, provider: str, name: str) -> Flow:
    text = f"""
version: 1
models:
  m:
    provider: {provider}
    model: {name}
    api_base: "{server.url}"
    api_key: "${{env:UNSENDABLE_KEY}}"
    max_tokens: 10
    retries: 2
    price: {{input: 1, output: 1}}
nodes: {{a: {{type: chat, model: m}}}}
edges: [{{from: start, to: a}}, {{from: a, to: end}}]
limits: {{usd_per_day: 1}}
"""
    return loads(text)


def called(arguments: dict[str, Any]) -> list[BaseMessage]:
    call = {"name": "look", "args": arguments, "id": "1"}
    return [HumanMessage("look"), AIMessage("", tool_calls=[call]), ToolMessage("x", tool_call_id="1")]


UNSENDABLE: dict[str, list[BaseMessage]] = {
    "text": [HumanMessage(f"half {HALF}")],
    "tool_arguments": called({"where": HALF}),
    "no_url": [HumanMessage([{"type": "image_url"}])],
    "file_id": [HumanMessage([{"type": "image", "file_id": "file-1"}])],
    "no_number": called({"where": {1, 2}}),
}


async def streamed(face: Any, messages: list[BaseMessage], **options: Any) -> list[Any]:
    return [chunk async for chunk in face.astream(messages, **options)]


async def refused(server: Server, asked: Flow, messages: list[BaseMessage], kind: str, **options: Any) -> None:
    before = server.hits
    face = asked.as_chat_model()
    for turn in range(5):
        with pytest.raises(lc.ModelError) as caught:
            await (face.ainvoke(messages, **options) if turn % 2 else streamed(face, messages, **options))
        assert type(caught.value).__name__ == kind
        assert caught.value.billed is False  # type: ignore[attr-defined]
    assert server.hits == before
    assert asked._engine.day is not None
    assert asked._engine.day.left == 1.0
    with pytest.raises(lc.ModelAPIError):  # the model is asked still, and its own failures are told as such
        await face.ainvoke("one")
    assert server.hits == before + 3


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynflow.models.retries.BACKOFF", 0.0)
    monkeypatch.setenv("UNSENDABLE_KEY", "sk-fine")


@pytest.mark.parametrize(("provider", "name"), MODELS)
@pytest.mark.parametrize("messages", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_messages_that_cannot_be_sent(
    server: Server, provider: str, name: str, messages: list[BaseMessage]
) -> None:
    await refused(server, flow(server, provider, name), messages, "ModelInvalidRequestError")


@pytest.mark.parametrize(("provider", "name"), MODELS)
async def test_a_stop_text_that_cannot_be_sent(server: Server, provider: str, name: str) -> None:
    await refused(server, flow(server, provider, name), [HumanMessage("x")], "ModelInvalidRequestError", stop=[HALF])


@pytest.mark.parametrize(("provider", "name"), MODELS)
@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-kéy", "sk-one\n"])
async def test_a_key_that_cannot_be_sent(provider: str, name: str, key: str) -> None:
    given: dict[str, Any] = {"provider": provider, "model": name, "api_key": key, "api_base": "http://127.0.0.1:9"}
    with pytest.raises(lc.ModelAuthenticationError, match="cannot be sent") as caught:
        await create(ModelSettings(**given), "m").ainvoke("x")
    assert caught.value.billed is False  # type: ignore[attr-defined]
    assert "sk-" not in str(caught.value)
