"""Reads an event stream to the end of its body and closes it whole, so that its connection can serve again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx

from dynflow.closing import undisturbed

_LAST_EVENT = re.compile(rb"[\r\n]data: ?\[DONE\]")
"""At the beginning of a line, where no JSON has it: an answer may speak of "[DONE]"."""
_SPLIT = len(b"\ndata: [DONE")
"""Bytes of it that may stand in an earlier part, at most."""
_SECONDS = 0.05
"""How long the end of a body may take after its last event; it is to save a handshake, not to cost one."""


async def drained(response: httpx.Response) -> None:
    """A response hook of httpx. The openai package stops at the last event, and httpx then closes the connection,
    because the end of the body has not been read. And httpcore never gives up a connection if it is cancelled while
    it is about to close the response."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = _Drained(response.stream)


async def drain(parts: AsyncIterator[Any]) -> None:
    """Read what is left after the last event, if it comes at once."""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(_SECONDS):
            async for _ in parts:
                pass


class _Drained(httpx.AsyncByteStream):
    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self._body = body
        self._parts = aiter(body)
        self._end = b"\n"
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            seen = self._end + part
            self._end = seen[-_SPLIT:]
            self._ended = _LAST_EVENT.search(seen) is not None
            yield part
            if self._ended:
                await drain(self._parts)  # here, so that whoever reads to the end leaves no generator half read
                return

    async def aclose(self) -> None:
        await undisturbed(self._close())

    async def _close(self) -> None:
        if self._ended:
            await drain(self._parts)
        await self._body.aclose()
