"""One call of a hosted model: the bare client, dynflow over it, and the other ways to reach that client.

The upstream is a process of its own on the loopback, which answers at once with a fixed text in the OpenAI protocol:
what remains is the caller's own CPU time. All contenders call litellm, so the difference is the wrapping. litellm left
to itself uses aiohttp for asynchronous calls; dynflow hands it a client on httpx, which has a row of its own. Each
contender has a process of its own too: litellm's Router and ChatLiteLLM register callbacks with litellm, which from
then on logs every call that anybody in the process makes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

BARE = "litellm, bare"
USED = "litellm, bare, with the client that dynflow hands it"
FLOW = "dynflow, a flow of one `chat` node"
MODEL = "openai/benchmark"
KEY = "unused"
QUESTION = "What is the capital of France?"
WORDS = ("Paris ", "is ", "the ", "capital ", "of ", "France.")
ANSWER = "".join(WORDS)
_USAGE = {"prompt_tokens": 12, "completion_tokens": len(WORDS), "total_tokens": 12 + len(WORDS)}


@dataclass(frozen=True)
class Way:
    """A way to call the model; each gives the answer's text."""

    invoke: Callable[[], str]
    ainvoke: Callable[[], Awaitable[str]]
    stream: Callable[[], str]
    astream: Callable[[], Awaitable[str]]


# The upstream


def _body(kind: str, **choice: Any) -> dict[str, Any]:
    return {"id": "c", "object": kind, "created": 0, "model": "benchmark", "choices": [{"index": 0, **choice}]}


def _whole() -> bytes:
    answer = _body("chat.completion", message={"role": "assistant", "content": ANSWER}, finish_reason="stop")
    body = json.dumps({**answer, "usage": _USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _streamed() -> bytes:
    kind = "chat.completion.chunk"
    events = [_body(kind, delta={"role": "assistant", "content": word}, finish_reason=None) for word in WORDS]
    events += [_body(kind, delta={}, finish_reason="stop"), {**_body(kind), "choices": [], "usage": _USAGE}]
    lines = [*(json.dumps(event) for event in events), "[DONE]"]
    parts = [f"data: {line}\n\n".encode() for line in lines]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + chunks + b"0\r\n\r\n"


async def _serve(ready: Any) -> None:
    whole, streamed = _whole(), _streamed()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                request = json.loads(await reader.readexactly(length))
                writer.write(streamed if request.get("stream") else whole)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _main(ready: Any) -> None:
    asyncio.run(_serve(ready))


@contextmanager
def upstream() -> Iterator[str]:
    """The server's base URL, while it runs."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_main, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join()


# The contenders


@contextmanager
def contenders(base: str) -> Iterator[dict[str, Callable[[str, int], float]]]:
    """By name: what gives the CPU seconds of one call in a style (`invoke`…), measured over so many calls."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in _MAKERS:
        pipes[name], there = context.Pipe()
        processes.append(context.Process(target=_measure, args=(name, base, there), daemon=True))
        processes[-1].start()
        there.close()  # ours: else nobody would notice that the process died

    def measured(name: str, style: str, times: int) -> float:
        try:
            pipes[name].send((style, times))
            seconds: float | None = pipes[name].recv()
        except (EOFError, OSError) as error:
            raise SystemExit(f"{name} failed: see its traceback above") from error
        if seconds is None:
            raise SystemExit(f"{name} did not give the upstream's answer")
        return seconds

    try:
        yield {name: partial(measured, name) for name in _MAKERS}
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _measure(name: str, base: str, asked: Any) -> None:
    """One contender's process: seconds for each (style, times) that is asked."""
    way = _MAKERS[name](base)
    with asyncio.Runner() as runner:
        for style in ("invoke", "ainvoke", "stream", "astream"):  # what the first calls import is no garbage
            _seconds(runner, getattr(way, style), 1)
        gc.collect()
        gc.freeze()  # else each collection would walk through all that was imported
        while True:
            style, times = asked.recv()
            asked.send(_seconds(runner, getattr(way, style), times))


def _seconds(runner: asyncio.Runner, call: Callable[[], Any], times: int) -> float | None:
    """CPU seconds of a call that takes nothing and gives the answer, or its coroutine; None for a wrong answer."""

    async def repeat() -> tuple[float, bool]:
        began = time.process_time()
        answers = [await call() for _ in range(times)]
        return time.process_time() - began, set(answers) == {ANSWER}

    gc.collect()
    if asyncio.iscoroutinefunction(call):
        taken, right = runner.run(repeat())
    else:
        began = time.process_time()
        answers = [call() for _ in range(times)]
        taken, right = time.process_time() - began, set(answers) == {ANSWER}
    return taken / times if right else None


def _bare(base: str) -> Way:
    import litellm

    return _of_litellm(
        litellm.completion, litellm.acompletion, MODEL, api_base=base, api_key=KEY, num_retries=0, max_retries=0
    )


def _used(base: str) -> Way:
    import litellm
    import openai

    from dynflow.models.litellm import openai_client

    clients: dict[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = {}

    def acomplete(**call: Any) -> Awaitable[Any]:
        loop = asyncio.get_running_loop()
        if loop not in clients:
            clients[loop] = openai_client(base, KEY, None)
        return litellm.acompletion(**call, client=clients[loop])

    plain = openai.OpenAI(api_key=KEY, base_url=base, max_retries=0)  # dynflow has no synchronous client
    return _of_litellm(
        partial(litellm.completion, client=plain), acomplete, MODEL, api_base=base, api_key=KEY, max_retries=0
    )


def _router(base: str) -> Way:
    import litellm

    parameters = {"model": MODEL, "api_base": base, "api_key": KEY, "max_retries": 0}
    router = litellm.Router([{"model_name": "large", "litellm_params": parameters}], num_retries=0)
    return _of_litellm(router.completion, router.acompletion, "large")


def _of_litellm(complete: Callable[..., Any], acomplete: Callable[..., Awaitable[Any]], model: str, **more: Any) -> Way:
    call = {"model": model, "messages": [{"role": "user", "content": QUESTION}], **more}
    streamed = {**call, "stream": True, "stream_options": {"include_usage": True}}

    def joined(events: Iterator[Any]) -> str:
        return "".join(event.choices[0].delta.content or "" for event in events if event.choices)

    async def ainvoke() -> str:
        return str((await acomplete(**call)).choices[0].message.content)

    async def astream() -> str:
        return joined(iter([event async for event in await acomplete(**streamed)]))

    return Way(
        lambda: str(complete(**call).choices[0].message.content), ainvoke, lambda: joined(complete(**streamed)), astream
    )


def _of_langchain(runnable: Any) -> Way:
    async def ainvoke() -> str:
        return str((await runnable.ainvoke(QUESTION)).text)

    async def astream() -> str:
        chunks: AsyncIterator[Any] = runnable.astream(QUESTION)
        return "".join([str(chunk.text) async for chunk in chunks])

    return Way(
        lambda: str(runnable.invoke(QUESTION).text),
        ainvoke,
        lambda: "".join(str(chunk.text) for chunk in runnable.stream(QUESTION)),
        astream,
    )


def _adapter(base: str) -> Way:
    from dynflow.models.settings import ModelSettings
    from dynflow.models.store import create

    return _of_langchain(
        create(ModelSettings(provider="litellm", model=MODEL, api_base=base, api_key=KEY), name="large")
    )


def _flow(base: str) -> Way:
    from dynflow import loads

    return _of_langchain(
        loads(f"""
version: 1
models:
  large: {{provider: litellm, model: {MODEL}, api_base: "{base}", api_key: {KEY}}}
nodes:
  answer: {{type: chat, model: large}}
edges:
  - {{from: start, to: answer}}
  - {{from: answer, to: end}}
""")
    )


def _chat_litellm(base: str) -> Way:
    from langchain_litellm import ChatLiteLLM

    return _of_langchain(ChatLiteLLM(model=MODEL, api_base=base, api_key=KEY, max_retries=0))


_MAKERS: dict[str, Callable[[str], Way]] = {
    BARE: _bare,
    USED: _used,
    "dynflow's adapter alone": _adapter,
    FLOW: _flow,
    "ChatLiteLLM": _chat_litellm,
    "litellm Router": _router,
}
