"""What the chat models behind a network share: one asynchronous implementation, time limits, and closing."""

from __future__ import annotations

import asyncio
import inspect
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from dynflow.closing import aclosing
from dynflow.models.background import iterate, wait_for
from dynflow.models.base import ProviderChat
from dynflow.models.clients import Clients
from dynflow.models.failures import timed_out
from dynflow.models.secrets import guard_logs

CONNECT_SECONDS = 10.0
"""How long a connection may take to come about."""
SILENT_SECONDS = 600.0
"""How long a server may send nothing, where no `timeout` is given."""


async def _aclose(client: Any) -> None:
    await client.close()


class RemoteChat(ProviderChat):
    """Base of the models that another process serves.

    A provider writes `_answer`, asynchronous. Asynchronous callers run it on their own event loop; synchronous ones
    wait while it runs on a loop in the background, where it can be cut off at any moment. `timeout` is for the whole
    call, from its start to the last chunk. Closing a stream, cancelling a task, and a node that nobody waits for any
    more close the connection at once. Clients are kept between calls, one for each event loop; `close` closes them.
    """

    _clients: Clients[Any] = PrivateAttr(default_factory=lambda: Clients(_aclose))
    _guarded: bool = PrivateAttr(default=False)

    @abstractmethod
    def _library_loaded(self) -> bool:
        """Whether `warm_up` would return at once."""

    @abstractmethod
    def _answer(
        self, messages: list[BaseMessage], options: dict[str, Any], stream: bool
    ) -> AsyncGenerator[ChatGenerationChunk]:
        """One attempt: chunks as they come, or (where `stream` is false) when all is there."""

    def close(self) -> None:
        """Close the connections that are not in use; a later call opens new ones."""
        self._clients.clear()

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return wait_for(self._collect(messages, self._options(stop, kwargs)))

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return await self._collect(messages, self._options(stop, kwargs))

    async def _collect(self, messages: list[BaseMessage], options: dict[str, Any]) -> ChatResult:
        """A whole answer. LangChain's own way to put chunks together, from a coroutine, is to start a thread."""
        await self._ready()
        timeout = options.pop("timeout", None)
        try:
            async with asyncio.timeout(timeout) as timer:
                chunks = [chunk async for chunk in self._answer(messages, options, stream=False)]
        except TimeoutError:
            if not timer.expired():
                raise
        else:
            return generate_from_stream(iter(chunks))
        raise timed_out(timeout, self.settings)  # out here, where what was cut off is not its context

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        yield from iterate(self._in_time(messages, self._options(stop, kwargs)))

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self._in_time(messages, self._options(stop, kwargs))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _in_time(
        self, messages: list[BaseMessage], options: dict[str, Any]
    ) -> AsyncGenerator[ChatGenerationChunk]:
        """A stream's chunks. Raises ModelTimeoutError when the call's time is up."""
        await self._ready()
        timeout = options.pop("timeout", None)
        async with aclosing(self._answer(messages, options, stream=True)) as chunks:
            if timeout is None:
                async for chunk in chunks:
                    yield chunk
                return
            ends = asyncio.get_running_loop().time() + timeout
            while True:
                try:
                    async with asyncio.timeout_at(ends) as timer:  # around each step: a yield must not stand inside
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if not timer.expired():
                        raise
                    break
                yield chunk
        raise timed_out(timeout, self.settings)

    async def _ready(self) -> None:
        if not self._library_loaded():
            await asyncio.to_thread(self.warm_up)  # takes seconds, which the event loop does not have
        if not self._guarded:
            guard_logs(self.settings)
            self._guarded = True


for _method in (RemoteChat._generate, RemoteChat._agenerate):
    # LangChain looks at the signature at each call, and to make it is slow.
    setattr(_method, "__signature__", inspect.signature(_method))  # noqa: B010
