"""HTTP clients that are kept between calls, so that their connections are used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from dataclasses import dataclass
from types import AsyncGeneratorType
from typing import Any, Generic, TypeVar

C = TypeVar("C")


@dataclass(eq=False, slots=True)
class Lease(Generic[C]):
    """A client in use: whoever holds this keeps it open."""

    client: C
    key: Hashable
    _lifetime: AsyncGeneratorType[C, None]

    @property
    def open(self) -> bool:
        """Whether the client is still open: it closes with its event loop."""
        return self._lifetime.ag_frame is not None


class Clients(Generic[C]):
    """One client for each event loop that asks, for its connections belong to that loop.

    A client is closed when the last lease on it is gone and this has let go of it, or in the end with its loop. The
    means for both is an asynchronous generator that waits at its `yield`: Python closes it on its own loop as soon as
    nobody holds it any more, and `loop.shutdown_asyncgens()` (which `asyncio.run` calls) does so in any case. A forked
    child has event loops of its own, and so clients of its own.
    """

    def __init__(self, close: Callable[[C], Awaitable[None]]) -> None:
        self._close = close
        self._leases: dict[asyncio.AbstractEventLoop, Lease[C]] = {}

    async def lease(self, key: Hashable, make: Callable[[], C]) -> Lease[C]:
        """The running loop's client; made anew where `key` has changed."""
        loop = asyncio.get_running_loop()
        found = self._leases.get(loop)
        if found is None or found.key != key or not found.open:
            for other in list(self._leases):
                if other.is_closed():
                    self._leases.pop(other, None)
            lifetime = _lifetime(make(), self._close)
            assert isinstance(lifetime, AsyncGeneratorType)
            found = self._leases[loop] = Lease(await anext(lifetime), key, lifetime)
        return found

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
