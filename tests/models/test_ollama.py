"""The Ollama adapter, against a server that speaks Ollama's chat protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core import exceptions as lc
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage

from dynflow.errors import MissingDependency
from dynflow.models.failures import NotReached
from dynflow.models.ollama import OllamaChat
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create

pytest.importorskip("ollama")
Answer = Callable[[BaseHTTPRequestHandler], None]


class Peer:
    """Answers `/api/chat` as it is told, and notes requests and a client that goes away."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.gone = threading.Event()
        self.answer: Answer = hello
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                peer.requests.append({"path": self.path, "key": self.headers.get("authorization"), **body})
                try:
                    peer.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    peer.gone.set()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def chat(self, **settings: Any) -> OllamaChat:
        url = f"http://127.0.0.1:{self.server.server_port}"
        model = create(ModelSettings(provider="ollama", model="tiny", api_base=url, **settings), "tiny")
        assert isinstance(model, OllamaChat)
        return model


def start(handler: BaseHTTPRequestHandler, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("content-type", "application/x-ndjson")
    handler.end_headers()


def part(handler: BaseHTTPRequestHandler, text: str = "", **more: Any) -> None:
    body = {"model": "tiny", "message": {"role": "assistant", "content": text}, "done": False, **more}
    handler.wfile.write(json.dumps(body).encode() + b"\n")
    handler.wfile.flush()


def hello(handler: BaseHTTPRequestHandler) -> None:
    start(handler)
    part(handler, "Hello")
    part(handler, " you")
    part(handler, done=True, done_reason="stop", prompt_eval_count=7, eval_count=2)


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    start(handler)
    part(handler, "Half")


def endless(handler: BaseHTTPRequestHandler) -> None:
    start(handler)
    for _ in range(2000):
        part(handler, "word ")
        time.sleep(0.01)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.server.shutdown()
    peer.server.server_close()


async def test_all_call_styles_agree(peer: Peer) -> None:
    model = peer.chat(temperature=0, max_tokens=9, stop=["x"], seed=3, api_key="k", capabilities={"context": 512})
    for whole in (model.invoke("hi"), await model.ainvoke("hi")):
        assert whole.text == "Hello you"
        assert whole.usage_metadata == {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
        assert whole.response_metadata["finish_reason"] == "stop"
    for chunks in (list(model.stream("hi")), [chunk async for chunk in model.astream("hi")]):
        total = sum(chunks[1:], chunks[0])
        assert isinstance(total, AIMessageChunk)
        assert [chunk.text for chunk in chunks] == ["Hello", " you", ""]
        assert total.usage_metadata == {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    asked = peer.requests[0]
    assert (asked["path"], asked["model"], asked["key"]) == ("/api/chat", "tiny", "Bearer k")
    assert asked["messages"] == [{"role": "user", "content": "hi"}]
    assert asked["options"] == {"temperature": 0, "num_predict": 9, "stop": ["x"], "seed": 3, "num_ctx": 512}


async def test_a_stream_that_breaks_off_raises(peer: Peer) -> None:
    peer.answer = cut_off
    with pytest.raises(lc.ModelConnectionError, match="cut off"):
        list(peer.chat().stream("hi"))
    with pytest.raises(lc.ModelConnectionError, match="cut off"):
        await peer.chat().ainvoke("hi")


async def test_closing_a_stream_closes_the_connection(peer: Peer) -> None:
    peer.answer = endless
    stream = peer.chat().stream("hi")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert peer.gone.wait(3)
    peer.gone.clear()
    task = asyncio.create_task(peer.chat().ainvoke("hi"))
    while len(peer.requests) < 2 and not task.done():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(peer.gone.wait, 3)


@pytest.mark.parametrize(
    ("status", "family"),
    [
        (400, lc.ModelInvalidRequestError),
        (404, lc.ModelNotFoundError),
        (429, lc.ModelRateLimitError),
        (500, lc.ModelAPIError),
    ],
)
async def test_every_status_has_its_error(peer: Peer, status: int, family: type[Exception]) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> None:
        start(handler, status)
        handler.wfile.write(b'{"error": "no, secret-canary"}')

    peer.answer = refuse
    with pytest.raises(family, match="no") as caught:
        peer.chat(api_key="secret-canary").invoke("hi")
    assert "secret-canary" not in str(caught.value)
    with pytest.raises(family):
        await peer.chat().ainvoke("hi")
    assert len(peer.requests) == 2


def test_an_error_in_mid_stream(peer: Peer) -> None:
    def fail(handler: BaseHTTPRequestHandler) -> None:
        start(handler)
        part(handler, "Half")
        handler.wfile.write(b'{"error": "out of memory"}\n')

    peer.answer = fail
    with pytest.raises(lc.ModelAPIError, match="out of memory"):
        peer.chat().invoke("hi")


def test_garbage_is_the_servers_fault(peer: Peer) -> None:
    def garbage(handler: BaseHTTPRequestHandler) -> None:
        start(handler)
        handler.wfile.write(b"<html>\n")

    peer.answer = garbage
    with pytest.raises(lc.ModelAPIError, match="protocol"):
        peer.chat().invoke("hi")


def test_a_silent_and_an_absent_server(peer: Peer) -> None:
    peer.answer = lambda handler: time.sleep(1)
    with pytest.raises(lc.ModelTimeoutError, match=r"0\.2 s"):
        peer.chat(timeout="200ms").invoke("hi")
    for base in ("http://127.0.0.1:9", "http://nowhere.invalid"):
        with pytest.raises(NotReached) as caught:
            create(ModelSettings(provider="ollama", model="m", api_base=base), "m").invoke("hi")
        assert not caught.value.billed


async def test_what_was_sent_leaves_the_bill_in_doubt(peer: Peer) -> None:
    peer.answer = lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(lc.ModelConnectionError) as whole:
        peer.chat().invoke("hi")
    with pytest.raises(lc.ModelConnectionError) as whole_async:
        await peer.chat().ainvoke("hi")
    for caught in (whole, whole_async):
        assert not isinstance(caught.value, NotReached)
        assert not hasattr(caught.value, "billed")


def test_tools_and_images(peer: Peer) -> None:
    def call(handler: BaseHTTPRequestHandler) -> None:
        start(handler)
        message = {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}],
        }
        part(handler, message=message, done=True, done_reason="stop")

    def weather(city: str) -> str:
        """The weather in a city."""
        return city

    peer.answer = call
    asked = peer.chat().bind_tools([weather]).invoke("Weather in Paris?")
    assert [(made["name"], made["args"]) for made in asked.tool_calls] == [("weather", {"city": "Paris"})]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    said = HumanMessage(content=[{"type": "text", "text": "what is this"}, picture])
    answered = ToolMessage("sunny", tool_call_id=asked.tool_calls[0]["id"], name="weather")
    peer.chat().invoke([said, asked, answered])
    first, second, third = peer.requests[1]["messages"]
    assert (first["content"], first["images"]) == ("what is this", ["QUJD"])
    assert second["tool_calls"][0]["function"]["arguments"] == {"city": "Paris"}
    assert (third["role"], third["tool_name"]) == ("tool", "weather")
    with pytest.raises(lc.ModelInvalidRequestError, match="data URLs"):
        peer.chat().invoke([HumanMessage(content=[{"type": "image_url", "image_url": {"url": "http://x/y.png"}}])])


def test_a_choice_of_tool_is_not_dropped_in_silence(peer: Peer) -> None:
    def weather(city: str) -> str:
        """The weather in a city."""
        return city

    for choice in ("any", "weather", True):
        with pytest.raises(lc.ModelInvalidRequestError, match="cannot oblige a model to call a tool") as caught:
            peer.chat().bind_tools([weather], tool_choice=choice).invoke("Weather in Paris?")
        assert caught.value.billed is False
    assert not peer.requests
    peer.chat().bind_tools([weather], tool_choice="auto").invoke("Weather in Paris?")
    peer.chat().bind_tools([weather], tool_choice="none").invoke("Weather in Paris?")
    assert [bool(asked.get("tools")) for asked in peer.requests] == [True, False]
    assert not any("tool_choice" in asked for asked in peer.requests)


def test_credentials_of_the_address_are_sent(peer: Peer) -> None:
    url = f"127.0.0.1:{peer.server.server_port}"
    settings = ModelSettings(provider="ollama", model="tiny", api_base=f"http://me:p%40ss@{url}/?region=north")
    create(settings, "tiny").invoke("hi")
    assert base64.b64decode(str(peer.requests[0]["key"]).removeprefix("Basic ")) == b"me:p@ss"
    assert peer.requests[0]["path"] == "/api/chat?region=north"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, peer: Peer) -> None:
    monkeypatch.setitem(sys.modules, "ollama", None)
    with pytest.raises(MissingDependency, match=r'pip install "dynflow\[ollama\]"'):
        peer.chat().invoke("hi")
