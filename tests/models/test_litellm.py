"""litellm as chat model, against a real llama.cpp server, and against a server that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core import exceptions as lc
from langchain_core.messages import AIMessageChunk, ToolMessage

from dynflow.errors import MissingDependency, RefusedByModel
from dynflow.models.embedded import locate
from dynflow.models.failures import NotReached
from dynflow.models.litellm import LiteLLMChat
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create

pytest.importorskip("litellm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
KEY = "sk-canary-5ecret"
SPIDER = "How many legs has a spider?"


def chat(base: str, **settings: Any) -> LiteLLMChat:
    given = {"temperature": 0.0, "max_tokens": 24, "api_key": KEY, **settings}
    model = create(ModelSettings(provider="litellm", model="openai/smollm2", api_base=base, **given), "large")
    assert isinstance(model, LiteLLMChat)
    return model


@pytest.fixture(scope="module")
def llama() -> Iterator[LiteLLMChat]:
    """SmolLM2 behind a real HTTP server that speaks the OpenAI protocol and wants a key."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(locate("embedded/smollm2-135m-instruct"))
    params.n_ctx, params.verbosity, params.api_keys, params.cpuparams.n_threads = 2048, -1, [KEY], 1
    server = xllamacpp.Server(params)
    yield chat(server.listening_address + "/v1")
    del server


class Peer:
    """A server that answers every request as it is told, and notes when the client goes away."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.gone = threading.Event()
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: None
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                peer.requests.append({"body": json.loads(body), "headers": dict(self.headers), "path": self.path})
                self.close_connection = True
                try:
                    peer.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    peer.gone.set()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.server.shutdown()
    peer.server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def start_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()


def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    body = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "smollm2", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    start_stream(handler)
    handler.wfile.write(event({"role": "assistant", "content": "Half an"}) + event({"content": " answer"}))


def whole(handler: BaseHTTPRequestHandler) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    send(handler, 200, {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def streamed(handler: BaseHTTPRequestHandler) -> None:
    start_stream(handler)
    handler.wfile.write(event({"role": "assistant", "content": "Hello"}) + event({"content": " you"}))
    handler.wfile.write(event({}, "stop") + b"data: [DONE]\n\n")


def said_oddly(*events: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    """A stream whose server is in the middle of it, and then sends these."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start_stream(handler)
        handler.wfile.write(event({"role": "assistant", "content": "Hello"}))
        for body in events:
            handler.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    start_stream(handler)
    for _ in range(2000):
        handler.wfile.write(event({"role": "assistant", "content": "word "}))
        handler.wfile.flush()
        time.sleep(0.01)


async def test_all_call_styles_agree(llama: LiteLLMChat) -> None:
    whole = llama.invoke(SPIDER)
    assert "8" in whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] > 20
    assert whole.response_metadata["finish_reason"] == "stop"
    assert (await llama.ainvoke(SPIDER)).text == whole.text
    for chunks in (list(llama.stream(SPIDER)), [chunk async for chunk in llama.astream(SPIDER)]):
        total = sum(chunks[1:], chunks[0])
        assert isinstance(total, AIMessageChunk)
        assert len(chunks) > 5
        assert total.text == whole.text
        assert total.usage_metadata is not None
        assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]
        assert total.response_metadata["finish_reason"] == "stop"


def test_options_reach_the_model(llama: LiteLLMChat) -> None:
    assert llama.invoke(SPIDER, max_tokens=2).response_metadata["finish_reason"] == "length"
    assert "legs" not in llama.invoke(SPIDER, stop=["legs"]).text


def test_a_context_overflow(llama: LiteLLMChat) -> None:
    with pytest.raises(lc.ContextOverflowError):
        llama.invoke("hello " * 5000)


def test_a_wrong_key(llama: LiteLLMChat) -> None:
    assert llama.settings.api_base is not None
    with pytest.raises(lc.ModelAuthenticationError) as caught:
        chat(llama.settings.api_base, api_key="sk-wrong-5ecret").invoke(SPIDER)
    assert "sk-wrong-5ecret" not in str(caught.value)


async def test_a_stream_that_breaks_off_raises(peer: Peer) -> None:
    peer.answer = cut_off
    seen: list[str] = []
    with pytest.raises(lc.ModelConnectionError, match="cut off"):
        seen.extend(chunk.text for chunk in chat(peer.url).stream("hi"))
    with pytest.raises(lc.ModelConnectionError, match="cut off"):
        seen.extend([chunk.text async for chunk in chat(peer.url).astream("hi")])


async def test_closing_a_stream_closes_the_connection(peer: Peer) -> None:
    peer.answer = endless
    stream = chat(peer.url).stream("hi")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert peer.gone.wait(3)
    peer.gone.clear()
    astream = chat(peer.url).astream("hi")
    async for _ in astream:
        break
    await astream.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(peer.gone.wait, 3)


async def test_cancelling_a_task_closes_the_connection(peer: Peer) -> None:
    peer.answer = endless

    async def read() -> None:
        async for _ in chat(peer.url).astream("hi"):
            pass

    task = asyncio.create_task(read())
    while not peer.requests and not task.done():
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
        (401, lc.ModelAuthenticationError),
        (403, lc.ModelPermissionDeniedError),
        (404, lc.ModelNotFoundError),
        (429, lc.ModelRateLimitError),
        (500, lc.ModelAPIError),
        (503, lc.ModelAPIError),
    ],
)
async def test_every_status_has_its_error_after_one_attempt(peer: Peer, status: int, family: type[Exception]) -> None:
    peer.answer = lambda handler: send(handler, status, {"error": {"message": f"no, {KEY}", "code": None}})
    model = chat(peer.url)
    for call in (lambda: model.invoke("hi"), lambda: list(model.stream("hi"))):
        with pytest.raises(family) as caught:
            call()
        assert KEY not in str(caught.value)
        assert getattr(caught.value, "billed", True) is (status >= 500)
    with pytest.raises(family):
        await model.ainvoke("hi")
    assert len(peer.requests) == 3


def test_a_content_filter_is_a_refusal(peer: Peer) -> None:
    error = {
        "message": "content management policy",
        "code": "content_policy_violation",
        "type": "invalid_request_error",
    }
    peer.answer = lambda handler: send(handler, 400, {"error": error})
    with pytest.raises(RefusedByModel):
        chat(peer.url).invoke("hi")


def test_a_silent_server_times_out(peer: Peer) -> None:
    peer.answer = lambda handler: time.sleep(1)
    with pytest.raises(lc.ModelTimeoutError):
        chat(peer.url, timeout="200ms").invoke("hi")


@pytest.mark.parametrize("base", ["http://127.0.0.1:9/v1", "http://nowhere.invalid/v1"])
async def test_an_unreachable_server_bills_nothing(base: str) -> None:
    model = chat(base)
    for call in (lambda: model.invoke("hi"), lambda: list(model.stream("hi"))):
        with pytest.raises(NotReached) as caught:
            call()
        assert not caught.value.billed
    with pytest.raises(NotReached):
        await model.ainvoke("hi")
    with pytest.raises(NotReached):
        _ = [chunk async for chunk in model.astream("hi")]


async def test_what_was_sent_leaves_the_bill_in_doubt(peer: Peer) -> None:
    peer.answer = cut_off
    with pytest.raises(lc.ModelConnectionError) as in_mid_stream:
        list(chat(peer.url).stream("hi"))
    peer.answer = lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(lc.ModelError) as hung_up:
        chat(peer.url).invoke("hi")
    with pytest.raises(lc.ModelError) as hung_up_async:
        await chat(peer.url).ainvoke("hi")
    for caught in (in_mid_stream, hung_up, hung_up_async):
        assert not isinstance(caught.value, NotReached)
        assert not hasattr(caught.value, "billed")


def test_tools_there_and_back(peer: Peer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        send(handler, 200, {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

    def weather(city: str) -> str:
        """The weather in a city."""
        return city

    peer.answer = answer
    model = chat(peer.url)
    asked = model.bind_tools([weather], tool_choice="any").invoke("Weather in Paris?")
    assert [(made["name"], made["args"]) for made in asked.tool_calls] == [("weather", {"city": "Paris"})]
    model.invoke([asked, ToolMessage("sunny", tool_call_id="c1")])
    first, second = (request["body"] for request in peer.requests)
    assert first["tools"][0]["function"]["name"] == "weather"
    assert first["tool_choice"] == "required"
    assert [message["role"] for message in second["messages"]] == ["assistant", "tool"]
    assert peer.requests[0]["headers"]["Authorization"] == f"Bearer {KEY}"


def test_tools_in_a_stream(peer: Peer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        start_stream(handler)
        parts = [{"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"ci'}}]
        rest = [{"index": 0, "function": {"arguments": 'ty": "Paris"}'}}]
        handler.wfile.write(event({"role": "assistant", "tool_calls": parts}) + event({"tool_calls": rest}))
        handler.wfile.write(event({}, "tool_calls") + b"data: [DONE]\n\n")

    peer.answer = answer
    chunks = list(chat(peer.url).stream("Weather in Paris?"))
    total = sum(chunks[1:], chunks[0])
    assert isinstance(total, AIMessageChunk)
    assert [(made["name"], made["args"]) for made in total.tool_calls] == [("weather", {"city": "Paris"})]


def test_credentials_of_the_address_are_sent(peer: Peer) -> None:
    peer.answer = whole
    chat(peer.url.replace("//", "//me:p%40ss@") + "?region=north", api_key=None).invoke("hi")
    asked = peer.requests[0]
    assert base64.b64decode(asked["headers"]["Authorization"].removeprefix("Basic ")) == b"me:p@ss"
    assert asked["path"] == "/v1/chat/completions?region=north"


def test_a_server_of_ones_own_needs_no_key(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    peer.answer = whole
    assert chat(peer.url, api_key=None).invoke("hi").text == "Hello"
    with pytest.raises(lc.ModelAuthenticationError, match="needs a key") as caught:
        create(ModelSettings(provider="litellm", model="openai/gpt-5-mini"), "large").invoke("hi")
    assert caught.value.billed is False  # type: ignore[attr-defined]


def test_tokens_that_nobody_counted_are_not_none(peer: Peer) -> None:
    """litellm says 0, or counts by itself, where the server says nothing; the ledger estimates, and says so."""
    peer.answer = whole
    assert chat(peer.url).invoke("hi").usage_metadata is None
    peer.answer = streamed
    chunks = list(chat(peer.url).stream("hi"))
    total = sum(chunks[1:], chunks[0])
    assert total.text == "Hello you"
    assert total.usage_metadata is None


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynflow.models.litellm import library

    library.cache_clear()
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(MissingDependency, match=r'pip install "dynflow\[litellm\]"'):
        chat("http://127.0.0.1:9/v1").invoke("hi")


def test_a_failing_call_prints_nothing(peer: Peer) -> None:
    peer.answer = lambda handler: send(handler, 401, {"error": {"message": "no"}})
    program = f"""
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
from langchain_core.exceptions import ModelAuthenticationError
settings = ModelSettings(provider="litellm", model="openai/m", api_base="{peer.url}", api_key="x")
try:
    create(settings, "large").invoke("hi")
except ModelAuthenticationError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_stream_leaves_no_generator_half_read(peer: Peer) -> None:
    peer.answer = streamed
    model = chat(peer.url)
    left: list[Any] = []
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=left.append)
    try:
        assert [chunk.text async for chunk in model.astream("hi")][:2] == ["Hello", " you"]
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(*hooks)
    assert left == []


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ({"error": {"message": f"the model fell over {KEY}", "code": 502}}, lc.ModelConnectionError, "fell over"),
        ({"error": "no words"}, lc.ModelConnectionError, "no words"),
        ([1, 2], lc.ModelAPIError, "not the protocol's"),
        (7, lc.ModelAPIError, "not the protocol's"),
        ({"choices": "none"}, lc.ModelAPIError, "not the protocol's"),
        ({"choices": [{"delta": {"content": 7}}]}, lc.ModelAPIError, "not the protocol's"),
        ({"choices": [], "usage": {"prompt_tokens": "many"}}, lc.ModelAPIError, "not the protocol's"),
    ],
)
async def test_what_a_stream_says_amiss(peer: Peer, body: Any, error: type[Exception], words: str) -> None:
    peer.answer = said_oddly(body)
    seen = []

    async def read() -> None:
        async for chunk in chat(peer.url).astream("hi"):
            seen.append(chunk.text)

    with pytest.raises(error, match=words) as caught:
        await read()
    assert seen == ["Hello"]
    assert KEY not in str(caught.value)


_TOLD = event({"content": "It ends with [DONE], grün"}).replace(rb"\u00fc", "ü".encode())
_END = event({}, "stop") + b"data: [DONE]\n\n"


def part_by_part(*parts: bytes, stays: float = 0.0, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """A stream that comes in these parts, from a server that may stay on after the last, and then breaks off."""
    if stays:
        headers["content-length"] = "100000"

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in {"content-type": "text/event-stream", "connection": "close", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        for part in parts:
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(0.03)
        time.sleep(stays)

    return answer


_SPLIT = _TOLD.index(b"[DONE]") + len(b"[DONE]")
_PACKED = zlib.compressobj(wbits=31)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(part_by_part(_TOLD[:_SPLIT], _TOLD[_SPLIT:], _END), id="the answer speaks of the end"),
        pytest.param(part_by_part(_TOLD, _END[:-9], _END[-9:], stays=0.3), id="the end in two parts"),
        pytest.param(part_by_part(_TOLD, _END + b": and a comment\n\n", stays=0.3), id="a comment after the end"),
        pytest.param(part_by_part(_TOLD, _END + b"data: what is it?\n\n"), id="an event after the end"),
        pytest.param(
            part_by_part(
                _PACKED.compress(_TOLD + _END) + _PACKED.flush(zlib.Z_SYNC_FLUSH), stays=0.3, content_encoding="gzip"
            ),
            id="compressed",
        ),
        pytest.param(part_by_part(_TOLD, _END, content_type="text/event-stream; charset=ISO-8859-1"), id="a charset"),
        pytest.param(part_by_part(b"\xef\xbb\xbf" + _TOLD, _END), id="a byte order mark"),
        pytest.param(part_by_part((_TOLD + _END).replace(b"\n", b"\r\n")), id="other line ends"),
    ],
)
async def test_streams_of_other_servers(peer: Peer, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
    """A whole answer ends with its last event, also where the server says more, or stays on."""
    peer.answer = answer
    assert "".join([chunk.text async for chunk in chat(peer.url).astream("hi")]) == "It ends with [DONE], grün"


async def test_reasoning_under_its_other_name(peer: Peer) -> None:
    peer.answer = lambda handler: (
        start_stream(handler),
        handler.wfile.write(event({"reasoning": "Hm. "}) + event({"content": "Yes"}) + event({}, "stop")),
        handler.wfile.write(b": a comment\n\ndata: [DONE]\n\n"),
    )
    (first, *_) = [chunk async for chunk in chat(peer.url).astream("hi")]
    assert first.additional_kwargs["reasoning_content"] == "Hm. "
