"""HTTP clients that are kept between calls, so that their connections are used again."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import AsyncGeneratorType
from typing import Any, Generic, TypeVar

C = TypeVar("C")


@dataclass(eq=False, slots=True)
class _Lease(Generic[C]):
    """A client, open as long as somebody holds this."""

    client: C
    key: Hashable
    lifetime: AsyncGeneratorType[C, None]

    @property
    def open(self) -> bool:
        """Whether the client is still open: it closes with its event loop."""
        return self.lifetime.ag_frame is not None


class Clients(Generic[C]):
    """One client for each event loop that asks, for its connections belong to that loop.

    A client is closed when nobody uses it and this has let go of it, or in the end with its loop. The means for both
    is an asynchronous generator that waits at its `yield`: Python closes it on its own loop as soon as nobody holds it
    any more, and `loop.shutdown_asyncgens()` (which `asyncio.run` calls) does so in any case. A forked child has event
    loops of its own, and so clients of its own.
    """

    def __init__(self, close: Callable[[C], Awaitable[None]]) -> None:
        self._close = close
        self._leases: dict[asyncio.AbstractEventLoop, _Lease[C]] = {}
        # Holds the clients until this is gone: were they garbage together, sockets would go before their client.
        weakref.finalize(self, self._leases.clear).atexit = False

    @asynccontextmanager
    async def client(self, key: Hashable, make: Callable[[], C]) -> AsyncIterator[C]:
        """The running loop's client, kept open for the block; made anew where `key` has changed."""
        loop = asyncio.get_running_loop()
        lease = self._leases.get(loop)
        if lease is None or lease.key != key or not lease.open:
            for other in list(self._leases):
                if other.is_closed():
                    self._leases.pop(other, None)
            lifetime = _lifetime(make(), self._close)
            assert isinstance(lifetime, AsyncGeneratorType)
            lease = self._leases[loop] = _Lease(await anext(lifetime), key, lifetime)
        yield lease.client

    def clear(self) -> None:
        """Let go of all clients; each closes when nobody uses it any more."""
        self._leases.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return Clients, (self._close,)  # a copy opens its own


async def _lifetime(client: C, close: Callable[[C], Awaitable[None]]) -> AsyncGenerator[C, None]:
    try:
        yield client
    finally:
        await close(client)
