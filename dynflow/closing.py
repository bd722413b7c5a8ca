"""Ends a stream where its reader leaves off; an iterator that cannot be closed is left to itself."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
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


async def _ended(
    task: asyncio.Task[T], cancel: Callable[[], Any], cancelled: asyncio.CancelledError | None = None
) -> T:
    """The task's result, or the cancellation of whoever waits for it; in any case it is done."""
    while not task.done():
        done = asyncio.get_running_loop().create_future()  # `asyncio.wait` would do, at several times the price
        notify = partial(_resolve, done)
        task.add_done_callback(notify)
        try:
            await done
        except asyncio.CancelledError as error:
            if cancelled is None:
                cancel()
                cancelled = error
        finally:
            task.remove_done_callback(notify)
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # it has been seen
        raise cancelled
    return task.result()


def _resolve(waiter: asyncio.Future[Any], given: Any) -> None:
    if not waiter.done():
        waiter.set_result(given)


async def each_cancelled_once(items: AsyncIterator[T], context: contextvars.Context | None = None) -> AsyncIterator[T]:
    """The items, each made when it is asked for, and so: in one task, which runs in `context`, or in a copy of ours."""
    loop, end = asyncio.get_running_loop(), object()
    given: asyncio.Future[Any] = loop.create_future()
    asked: asyncio.Future[bool] = loop.create_future()

    async def make() -> None:
        nonlocal asked
        async with aclosing(items):
            async for item in items:
                asked = loop.create_future()
                _resolve(given, item)
                if not await asked:
                    return

    making = loop.create_task(make(), context=context)
    making.add_done_callback(lambda _: _resolve(given, end))
    try:
        while (item := await given) is not end:
            yield item
            given = loop.create_future()
            _resolve(asked, True)
    except asyncio.CancelledError as error:
        making.cancel()
        await _ended(making, making.cancel, error)
    except BaseException:
        _resolve(asked, False)
        await _ended(making, making.cancel)
        raise
    await _ended(making, making.cancel)
