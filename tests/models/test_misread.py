"""Answers that have not the protocol's form: the model's failure, told without a word of what was answered."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core import exceptions as lc

from dynflow.models.failures import retryable
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create

pytest.importorskip("litellm")
pytest.importorskip("ollama")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
SAID = "canary: the patient's name"
CALL = {"id": "1", "index": 0, "type": "function"}
MESSAGES: dict[str, dict[str, Any]] = {
    "a record": {"content": {SAID: SAID}},
    "a list with a number": {"content": [SAID, 5]},
    "words that a client takes for another failure": {"content": [f"{SAID}: prompt is too long", 5]},
    "tool calls that are a text": {"content": "", "tool_calls": SAID},
    "a tool call that is a text": {"content": "", "tool_calls": [SAID]},
    "a function that is a text": {"content": "", "tool_calls": [{**CALL, "function": SAID}]},
    "arguments in a list": {"content": "", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": [SAID]}}]},
    "a name in a list": {"content": "", "tool_calls": [{**CALL, "function": {"name": [SAID], "arguments": "{}"}}]},
}
BODIES: dict[str, Any] = {"a text": SAID, "a list": [SAID], "choices that are a text": {"choices": SAID}}


class Server:
    """Answers with one message, or with one body, in the protocol and the way that it is asked in."""

    def __init__(self) -> None:
        self.message: dict[str, Any] | None = None
        self.body: Any = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                ollama, streamed = self.path.startswith("/api"), asked.get("stream", False)
                text = json.dumps(server.body if server.message is None else _answer(server.message, ollama, streamed))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream" if streamed else "application/json")
                self.end_headers()
                self.wfile.write(f"data: {text}\n\n".encode() if streamed and not ollama else f"{text}\n".encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


def _answer(message: dict[str, Any], ollama: bool, streamed: bool) -> dict[str, Any]:
    said = {"role": "assistant", **message}
    if ollama:
        return {"model": "m", "message": said, "done": True, "done_reason": "stop"}
    choice = {"index": 0, "delta" if streamed else "message": said, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def failure(server: Server, provider: str, name: str, style: str) -> lc.ModelAPIError:
    base = server.url if provider == "ollama" else f"{server.url}/v1"
    settings: Any = {"provider": provider, "model": name, "api_base": base, "api_key": "sk-any-key"}
    model = create(ModelSettings(**settings), "m")
    with pytest.raises(lc.ModelAPIError) as caught:
        model.invoke("hi") if style == "invoke" else list(model.stream("hi"))
    return caught.value


PROVIDERS = [("litellm", "openai/m"), ("litellm", "deepseek/m"), ("ollama", "m")]


@pytest.mark.parametrize("style", ["invoke", "stream"])
@pytest.mark.parametrize(("provider", "name"), PROVIDERS)
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_of_wrong_types(server: Server, message: Any, provider: str, name: str, style: str) -> None:
    if (message, style, name) == (MESSAGES["a tool call that is a text"], "stream", "deepseek/m"):
        pytest.skip("litellm passes over it")
    server.message = message
    error = failure(server, provider, name, style)
    assert f"the answer of {name} is not the protocol's" in str(error)
    assert SAID not in "".join(traceback.format_exception(error))
    assert retryable(error)


@pytest.mark.parametrize("style", ["invoke", "stream"])
@pytest.mark.parametrize(("provider", "name"), [("litellm", "openai/m"), ("ollama", "m")])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_of_another_form(server: Server, body: Any, provider: str, name: str, style: str) -> None:
    if (provider, body) == ("ollama", BODIES["choices that are a text"]):
        pytest.skip("its protocol has none")
    server.message, server.body = None, body
    error = failure(server, provider, name, style)
    assert f"the answer of {name} is not the protocol's" in str(error)
    assert SAID not in "".join(traceback.format_exception(error))


def test_it_says_where(server: Server) -> None:
    server.message = MESSAGES["a record"]
    assert str(failure(server, "ollama", "m", "invoke")).endswith("not the protocol's: message.content: string_type")
