"""Ends a stream where its reader leaves off; an iterator that cannot be closed is left to itself."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

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


async def cancelled_once(work: Coroutine[Any, Any, T], context: contextvars.Context | None = None) -> T:
    """What the work gives. A cancellation reaches it once; then it may end in good order, and is waited for.

    anyio, and so Starlette when a client hangs up, cancels a task anew each time that it waits for anything while it
    cleans up. What closes connections and ends runs would then be cut off itself.
    """
    task = asyncio.create_task(work, context=context)
    return await _ended(task, task.cancel)


async def undisturbed(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. A cancellation waits until it is done: for what is short and must not be done by half."""
    return await _ended(asyncio.create_task(work), lambda: None)


async def _ended(task: asyncio.Task[T], cancel: Callable[[], Any]) -> T:
    """The task's result, or the cancellation of whoever waits for it; in any case it is done."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            if cancelled is None:
                cancel()
                cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # it has been seen
        raise cancelled
    return task.result()


async def each_cancelled_once(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The items, each made so. All steps share one context."""
    context, end = contextvars.copy_context(), object()

    async def step() -> Any:
        return await anext(items, end)

    async def close() -> None:
        async with aclosing(items):
            pass

    try:
        while (item := await cancelled_once(step(), context)) is not end:
            yield item
    finally:
        await cancelled_once(close(), context)
