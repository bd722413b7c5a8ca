"""Ends a stream where its reader leaves off; an iterator that cannot be closed is left to itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def closing(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The items; a generator among them is closed at the end of the block."""
    try:
        yield items
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


@asynccontextmanager
async def aclosing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """The same, async."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
