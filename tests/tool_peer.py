"""A real local server that calls tools: llama.cpp's, behind a thin layer that binds SmolLM2 to a call's form.

SmolLM2-135M is too small to call tools by itself, and this llama.cpp binds a model to a call only after text of the
model's own choice. The layer speaks the OpenAI protocol and does what servers with tools do: it writes the tools into
the prompt, and has llama.cpp's grammar bind the answer to one call of an offered tool. *That* a tool is called
follows a fixed rule (`tool_choice`, and with `auto` whenever a user spoke last); which tool, and with which arguments,
the model says. Texts that a schema leaves unbounded end after 60 characters, for a small model does not end them.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.servers import SERVER_KEY

_LONGEST_TEXT = 60
_EXAMPLE = 'get_weather in Paris: {"name": "get_weather", "arguments": {"location": "Paris"}}'


@contextmanager
def calling_tools(upstream: str) -> Iterator[str]:
    """The layer before a server of `tests.servers.smollm2`; its own base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.close_connection = True
            if _calls(request):
                answer = _post(upstream, _as_schema(request), self)
                if answer is not None:
                    self._tell(_as_call(json.loads(answer)), bool(request.get("stream")))
                return
            _bound(request)
            answer = _post(upstream, request, self)
            if answer is not None:
                self._send("text/event-stream" if request.get("stream") else "application/json", answer)

        def _tell(self, whole: dict[str, Any], stream: bool) -> None:
            if not stream:
                self._send("application/json", json.dumps(whole).encode())
                return
            (choice,) = whole["choices"]
            choice["delta"] = choice.pop("message")
            for index, call in enumerate(choice["delta"].get("tool_calls", ())):
                call["index"] = index
            events = [{**whole, "object": "chat.completion.chunk"}]
            body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
            self._send("text/event-stream", f"{body}data: [DONE]\n\n".encode())

        def _send(self, kind: str, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def smollm2_with_tools(smollm2_server: str) -> Iterator[str]:
    """The base URL of the real server with tools; it wants no key."""
    with calling_tools(smollm2_server) as url:
        yield url


def _post(upstream: str, request: dict[str, Any], handler: Any) -> bytes | None:
    """What the real server answers; None where it refused, which is passed on."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {SERVER_KEY}"}
    call = urllib.request.Request(f"{upstream}/chat/completions", json.dumps(request).encode(), headers)
    try:
        with urllib.request.urlopen(call) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            handler._send("application/json", error.read(), error.code)
        return None


def _calls(request: dict[str, Any]) -> bool:
    """Whether the answer is to be a call."""
    choice = request.get("tool_choice") or "auto"
    if not request.get("tools") or choice == "none":
        request.pop("tools", None)
        request.pop("tool_choice", None)
        return False
    if choice == "auto" and request["messages"][-1]["role"] != "user":
        request.pop("tools")
        request.pop("tool_choice", None)
        return False
    return True


def _as_schema(request: dict[str, Any]) -> dict[str, Any]:
    """The same request, asking for a call as JSON that a schema binds."""
    request = {name: value for name, value in request.items() if name not in ("stream", "stream_options")}
    tools = [tool["function"] for tool in request.pop("tools")]
    choice = request.pop("tool_choice", "auto")
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    lines = (f"- {tool['name']}: {tool.get('description', '')} {json.dumps(tool['parameters'])}" for tool in tools)
    offered = "\n".join(lines)
    said = f"You can call these functions:\n{offered}\nWrite the call that the user asks for, such as {_EXAMPLE}"
    forms = [
        {
            "type": "object",
            "properties": {"name": {"const": tool["name"]}, "arguments": _short(tool["parameters"])},
            "required": ["name", "arguments"],
        }
        for tool in tools
    ]
    form = {"type": "json_schema", "json_schema": {"name": "call", "schema": {"anyOf": forms}}}
    return {**request, "messages": [{"role": "system", "content": said}, *request["messages"]], "response_format": form}


def _as_call(whole: dict[str, Any]) -> dict[str, Any]:
    """The answer with the call where the protocol has it."""
    (choice,) = whole["choices"]
    call = json.loads(choice["message"]["content"])
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    called = {"id": f"call_{whole['id'][-8:]}", "type": "function", "function": function}
    choice["message"] = {"role": "assistant", "content": None, "tool_calls": [called]}
    choice["finish_reason"] = "tool_calls"
    return whole


def _bound(request: dict[str, Any]) -> None:
    """End the texts of a schema that the client gave."""
    named = (request.get("response_format") or {}).get("json_schema")
    if named:
        named["schema"] = _short(named["schema"])


def _short(schema: Any) -> Any:
    """The schema with every unbounded text ended."""
    if isinstance(schema, list):
        return [_short(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    short = {name: _short(value) for name, value in schema.items()}
    if schema.get("type") == "string" and not schema.keys() & {"enum", "const", "maxLength"}:
        short["maxLength"] = _LONGEST_TEXT
    return short
