"""What the chat models that run in this process share: waiting for an engine's events, sync and async."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from pydantic import PrivateAttr

from dynflow.ledger import COMPUTE_KEY
from dynflow.models.base import ProviderChat, openai_messages
from dynflow.models.engine import Engine, Event, Job
from dynflow.models.failures import timed_out
from dynflow.models.openai_format import Reader
from dynflow.waiting import take


class LocalChat(ProviderChat):
    """Base of the models that run in this process.

    The model is loaded at `warm_up` or the first call, once per process for all entries that name it alike. One
    request runs at a time; `settings.queue` more may wait, further ones raise Overloaded. Closing a stream, or
    cancelling a task, stops the generation at its next token; so does a synchronous node that nobody waits for any
    more. Picklable: the copy loads anew.
    """

    _engine: Engine | None = PrivateAttr(default=None)

    @abstractmethod
    def _load(self) -> Engine:
        """The engine, loaded or shared."""

    def _checked(self, event: Mapping[str, Any] | Exception) -> Mapping[str, Any]:
        """The event; raises the error that it stands for."""
        if isinstance(event, Exception):
            raise event
        return event

    def warm_up(self) -> None:
        """Load the model, or share a loaded one. Raises MissingModel, MissingDependency, ArtefactError."""
        self._loaded()

    def close(self) -> None:
        """Let go of the model; it is freed when nobody else in the process uses it."""
        self._engine = None

    def _loaded(self) -> Engine:
        engine = self._engine
        if engine is None or engine.abandoned:
            engine = self._engine = self._load()
        return engine

    def _request(self, messages: list[BaseMessage], options: dict[str, Any]) -> dict[str, Any]:
        """What the engine is asked, in the OpenAI protocol's words."""
        return {"messages": openai_messages(messages), **options}

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        options = self._options(stop, kwargs)
        timeout = options.pop("timeout", None)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        engine = self._loaded()
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        job = Job(self._request(messages, options), inbox.put)
        reader = Reader(self.settings.model, self.provider)
        engine.submit(job, self.settings.queue)
        try:
            while (event := self._next(inbox, job, deadline, timeout)) is not None:
                if (chunk := reader.feed(self._checked(event))) is not None:
                    yield chunk
            yield _last(reader, job)
        finally:
            engine.cancel(job)

    def _next(self, inbox: queue.SimpleQueue[Event], job: Job, deadline: float, timeout: float | None) -> Event:
        job.reader = threading.current_thread()
        try:
            return take(inbox, deadline)
        except TimeoutError:
            raise timed_out(timeout, self.settings) from None

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        loop = asyncio.get_running_loop()
        options = self._options(stop, kwargs)
        timeout = options.pop("timeout", None)
        deadline = None if timeout is None else loop.time() + timeout
        engine = await asyncio.to_thread(self._loaded)
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        job = Job(self._request(messages, options), lambda event: loop.call_soon_threadsafe(inbox.put_nowait, event))
        reader = Reader(self.settings.model, self.provider)
        engine.submit(job, self.settings.queue)
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        event = await inbox.get()
                except TimeoutError:
                    raise timed_out(timeout, self.settings) from None
                if event is None:
                    break
                if (chunk := reader.feed(self._checked(event))) is not None:
                    yield chunk
            yield _last(reader, job)
        finally:
            engine.cancel(job)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**(state["__pydantic_private__"] or {}), "_engine": None}}


def _last(reader: Reader, job: Job) -> ChatGenerationChunk:
    """The last chunk, with what the answer took."""
    chunk = reader.end()
    if job.compute is not None:
        chunk.generation_info = {**(chunk.generation_info or {}), COMPUTE_KEY: asdict(job.compute)}
    return chunk
