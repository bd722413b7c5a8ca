"""A model that fails as it is told, and the ways to ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig

from dynflow import Flow, loads
from dynflow.models.failures import from_status
from dynflow.testing import FakeChat

STYLES = ("invoke", "ainvoke", "stream", "astream")
WHOLE = ("invoke", "ainvoke")


class Flaky(FakeChat):
    """Fails as told, call by call; then it answers as a `FakeChat` does."""

    failures: Sequence[Exception | None] = ()

    def _next(self) -> Exception | None:
        turn = len(self.calls) - 1
        return self.failures[turn] if turn < len(self.failures) else None

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for index, chunk in enumerate(super()._stream(messages, stop, run_manager, **kwargs)):
            if index == self.fail_after and (error := self._next()) is not None:
                raise error
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        index = 0
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            if index == self.fail_after and (error := self._next()) is not None:
                raise error
            index += 1
            yield chunk


def flow(model: BaseChatModel, retries: int | None = 2, limits: str = "{}", node: str = "", price: str = "") -> Flow:
    retrying = "" if retries is None else f", retries: {retries}"
    text = f"""
version: 1
models: {{m: {{provider: host, max_tokens: 10{retrying}{price}}}}}
nodes: {{a: {{type: chat, model: m{node}}}}}
edges: [{{from: start, to: a}}, {{from: a, to: end}}]
limits: {limits}
"""
    return loads(text, models={"m": model})


async def ask(asked: Flow, style: str, *callbacks: BaseCallbackHandler) -> str:
    """The answer's text, by one of the call styles."""
    config: RunnableConfig = {"callbacks": list(callbacks)}
    if style == "invoke":
        return str((await asyncio.to_thread(asked.invoke, "one two", config)).text)
    if style == "ainvoke":
        return str((await asked.ainvoke("one two", config)).text)
    if style == "stream":
        return "".join(chunk.text for chunk in await asyncio.to_thread(lambda: list(asked.stream("one two", config))))
    return "".join([chunk.text async for chunk in asked.astream("one two", config)])


def day_left(asked: Flow) -> float:
    """USD left today."""
    assert asked._engine.day is not None
    return asked._engine.day.left


def server_error(wait: float | None = None) -> Exception:
    error = from_status(503, "come back later")
    if wait is not None:
        error.retry_after = wait  # type: ignore[attr-defined]
    return error


def notes(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", ()))
