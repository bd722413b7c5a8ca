"""A server that misbehaves as it is told: OpenAI's chat protocol and Ollama's, over plain TCP on loopback.

The fault is named by the model that a request asks for: `cut`, or `cut.anything` where a test wants hits of its own.
It counts hits by that name, and notes when a client goes away before it was answered.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WORDS = ("one", " two", " three", " four", " five")
CUT_AFTER = 2
"""Words that come before an answer breaks off."""
TOKENS = {"prompt": 11, "completion": 5}
"""What a whole answer says that it used."""


@dataclass
class Exchange:
    """One request and how it is answered."""

    model: str
    streamed: bool
    ollama: bool
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    began: float
    chunked: bool = False
    whole: bool = False
    """Whether it was answered to the end, so that the connection may serve another request."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, length: int | None = None, **headers: str) -> None:
        """The status line and headers; without a length the body comes in chunks."""
        self.chunked = length is None
        kind = "application/x-ndjson" if self.ollama else "text/event-stream" if self.streamed else "application/json"
        framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
        lines = {"content-type": kind, **framing, **{name.replace("_", "-"): text for name, text in headers.items()}}
        text = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {text}\r\n" for name, text in lines.items())
        await self.send(text.encode() + b"\r\n")

    async def body(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    async def end(self) -> None:
        if self.chunked:
            await self.send(b"0\r\n\r\n")
        self.whole = True

    @property
    def parts(self) -> list[bytes]:
        """The body of a good answer: an event for each word and one for the end, or a whole one cut in as many."""
        if self.streamed:
            return [*map(self.word, WORDS), self.finish()]
        text = self.whole_answer()
        step = -(-len(text) // (len(WORDS) + 1))
        return [text[start : start + step] for start in range(0, len(text), step)]

    def word(self, word: str) -> bytes:
        if self.ollama:
            return self.event({"model": "m", "message": {"role": "assistant", "content": word}, "done": False})
        return self.event(_completion({"index": 0, "delta": {"role": "assistant", "content": word}}, "chunk"))

    def finish(self) -> bytes:
        """What says that the answer is whole, with its usage."""
        if self.ollama:
            counts = {"prompt_eval_count": TOKENS["prompt"], "eval_count": TOKENS["completion"]}
            end = {"role": "assistant", "content": ""}
            return self.event({"model": "m", "message": end, "done": True, "done_reason": "stop", **counts})
        last = self.event(_completion({"index": 0, "delta": {}, "finish_reason": "stop"}, "chunk"))
        used = self.event({**_completion(None, "chunk"), "usage": _usage()})
        return last + used + b"data: [DONE]\n\n"

    def event(self, value: Any) -> bytes:
        text = json.dumps(value).encode()
        return text + b"\n" if self.ollama else b"data: " + text + b"\n\n"

    def whole_answer(self, finish: str | None = "stop") -> bytes:
        message = {"role": "assistant", "content": "".join(WORDS)}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return json.dumps({**_completion(choice), "usage": _usage()}).encode()

    async def start(self, length: int | None = None) -> None:
        """The head and the first words of a good answer, and time to read them: a fault may overtake them."""
        await self.head(length=length, connection="close")
        for part in self.parts[:CUT_AFTER]:
            await self.body(part)
        await asyncio.sleep(0.02)

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _usage() -> dict[str, int]:
    prompt, completion = TOKENS["prompt"], TOKENS["completion"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _completion(choice: dict[str, Any] | None, kind: str = "") -> dict[str, Any]:
    object_name = "chat.completion.chunk" if kind else "chat.completion"
    return {"id": "x", "object": object_name, "created": 1, "model": "m", "choices": [choice] if choice else []}


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


# The faults


async def good(exchange: Exchange) -> None:
    await exchange.head()
    for part in exchange.parts:
        await exchange.body(part)
    await exchange.end()


async def slow(exchange: Exchange) -> None:
    """A word each 10 ms."""
    await exchange.head()
    for part in exchange.parts:
        await exchange.body(part)
        await asyncio.sleep(0.01)
    await exchange.end()


async def endless(exchange: Exchange) -> None:
    """Words that never end."""
    await exchange.head()
    while True:
        await exchange.body(exchange.word(" more"))
        await asyncio.sleep(0.01)


async def reset(exchange: Exchange) -> None:
    exchange.reset()


async def reset_after_headers(exchange: Exchange) -> None:
    await exchange.head()
    exchange.reset()


async def reset_midway(exchange: Exchange) -> None:
    await exchange.start()
    exchange.reset()


async def cut(exchange: Exchange) -> None:
    """The connection is closed after a few words."""
    await exchange.start()


async def unfinished(exchange: Exchange) -> None:
    """A clean end, but nothing that says that the answer is whole."""
    if exchange.streamed:
        await exchange.start()
    else:
        text = exchange.whole_answer(None)
        await exchange.head(length=len(text))
        await exchange.body(text)
    await exchange.end()


async def half_close(exchange: Exchange) -> None:
    """The server has said all it will, in mid-answer, and goes on listening."""
    await exchange.start()
    exchange.writer.write_eof()
    await forever()


async def stall(exchange: Exchange) -> None:
    """Nothing at all, not even headers."""
    await forever()


async def stall_after_headers(exchange: Exchange) -> None:
    await exchange.head()
    await forever()


async def stall_midway(exchange: Exchange) -> None:
    await exchange.start()
    await forever()


async def drip(exchange: Exchange) -> None:
    """A good answer, a byte at a time."""
    await exchange.head(length=sum(map(len, exchange.parts)))
    for byte in b"".join(exchange.parts):
        await exchange.send(bytes([byte]))
    await exchange.end()


async def slow_drip(exchange: Exchange) -> None:
    """A byte at a time, so slowly that no read ever times out and no answer is ever whole."""
    await exchange.head(length=sum(map(len, exchange.parts)))
    for byte in b"".join(exchange.parts):
        await exchange.send(bytes([byte]))
        await asyncio.sleep(0.1)


async def malformed(exchange: Exchange) -> None:
    """What should be JSON is not."""
    await exchange.start()
    await exchange.body(b"{]\n" if exchange.ollama else b'data: {"choices": [{\n\n')
    await exchange.end()


async def bad_framing(exchange: Exchange) -> None:
    """A chunk of HTTP whose size is no number."""
    await exchange.start()
    await exchange.send(b"zz\r\nwhat\r\n")


async def short_length(exchange: Exchange) -> None:
    """The content-length covers the first words only."""
    parts = exchange.parts
    await exchange.start(sum(map(len, parts[:CUT_AFTER])))
    await exchange.body(b"".join(parts[CUT_AFTER:]))


async def long_length(exchange: Exchange) -> None:
    """The content-length promises more than comes."""
    await exchange.start(sum(map(len, exchange.parts)))


async def empty(exchange: Exchange) -> None:
    await exchange.head(length=0)
    await exchange.end()


async def web_page(exchange: Exchange) -> None:
    """A gateway answers in the model's place."""
    text = b"<html>Welcome to the airport's network</html>"
    await exchange.head(length=len(text), content_type="text/html")
    await exchange.body(text)
    await exchange.end()


async def error_midway(exchange: Exchange) -> None:
    """The server says in mid-stream that it cannot go on."""
    if not exchange.streamed:
        await _status(exchange, 500)
        return
    await exchange.start()
    error: Any = "out of memory" if exchange.ollama else {"message": "out of memory", "type": "server_error"}
    await exchange.body(exchange.event({"error": error}))
    await exchange.end()


async def _status(exchange: Exchange, status: int, **headers: str) -> None:
    error: Any = f"status {status}" if exchange.ollama else {"message": f"status {status}", "code": None}
    text = json.dumps({"error": error}).encode()
    await exchange.head(status, len(text), **headers)
    await exchange.body(text)
    await exchange.end()


def _of_status(status: int, **headers: str) -> Callable[[Exchange], Awaitable[None]]:
    return lambda exchange: _status(exchange, status, **headers)


FAULTS: dict[str, Callable[[Exchange], Awaitable[None]]] = {
    fault.__name__: fault
    for fault in (
        good,
        slow,
        endless,
        reset,
        reset_after_headers,
        reset_midway,
        cut,
        unfinished,
        half_close,
        stall,
        stall_after_headers,
        stall_midway,
        drip,
        slow_drip,
        malformed,
        bad_framing,
        short_length,
        long_length,
        empty,
        web_page,
        error_midway,
    )
} | {
    **{f"status_{status}": _of_status(status) for status in (400, 401, 403, 404, 408, 422, 500, 502, 503)},
    "status_429": _of_status(429, retry_after="0"),
}


class FaultServer:
    """Serves until it is closed, in a thread of its own."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        """Requests, by the model that they asked for."""
        self.left: dict[str, list[float]] = {}
        """When clients went away before they were answered (`time.monotonic`), by the model that they asked for."""
        self.open = 0
        """Connections that are open now."""
        self._loop = asyncio.new_event_loop()
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault server", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def refusing_url(self) -> str:
        """Nobody listens there."""
        return f"http://127.0.0.1:{self._closed.getsockname()[1]}"

    def close(self) -> None:
        async def stop() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._server.close()

        self._run(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self._closed.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            seen = b""
            while (head := await _head(reader, seen)) is not None:
                seen = await self._answer(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, _Done):
            pass  # cancelled as the server closes
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Answer one request; what has been read of the next one."""
        began = time.monotonic()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        asked = json.loads(await reader.readexactly(int(headers["content-length"])))
        model, ollama = asked["model"], head.split()[1].startswith("/api/")
        self.hits[model] += 1
        exchange = Exchange(model, bool(asked.get("stream")), ollama, reader, writer, began)
        next_byte = asyncio.ensure_future(reader.read(1))
        answer = asyncio.ensure_future(FAULTS[model.partition(".")[0]](exchange))
        try:
            await asyncio.wait([next_byte, answer], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self.left.setdefault(model, []).append(time.monotonic())
                raise _Done
            answer.result()
            if not exchange.whole:
                raise _Done
            return await next_byte
        except OSError:
            self.left.setdefault(model, []).append(time.monotonic())
            raise
        finally:
            answer.cancel()
            next_byte.cancel()
            await asyncio.gather(answer, next_byte, return_exceptions=True)


class _Done(Exception):
    """The connection serves no further request."""


async def _head(reader: asyncio.StreamReader, seen: bytes) -> str | None:
    """The head of a request, of which a byte may have been read; None where the client has closed."""
    try:
        return (seen + await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None


@contextmanager
def serving() -> Iterator[FaultServer]:
    """A fault server for the time of a block."""
    server = FaultServer()
    try:
        yield server
    finally:
        server.close()
