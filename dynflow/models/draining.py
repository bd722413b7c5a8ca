"""Reads an event stream to the end of its body and closes it whole, so that its connection can serve again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx

from dynflow.closing import undisturbed

_LAST_EVENT = b"[DONE]"
_SECONDS = 0.05
"""How long the end of a body may take after its last event; it is to save a handshake, not to cost one."""


async def drained(response: httpx.Response) -> None:
    """A response hook of httpx. The openai package stops at the last event, and httpx then closes the connection,
    because the end of the body has not been read. And httpcore never gives up a connection if it is cancelled while
    it is about to close the response."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = _Drained(response.stream)


class _Drained(httpx.AsyncByteStream):
    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self._body = body
        self._parts = aiter(body)
        self._end = b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            self._end = (self._end + part)[-2 * len(_LAST_EVENT) :]
            yield part
            if _LAST_EVENT in self._end:
                await self._drain()  # here, so that whoever reads to the end leaves no generator half read
                return

    async def aclose(self) -> None:
        await undisturbed(self._close())

    async def _close(self) -> None:
        if _LAST_EVENT in self._end:
            await self._drain()
        await self._body.aclose()

    async def _drain(self) -> None:
        with suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(_SECONDS):
                async for _ in self._parts:
                    pass
