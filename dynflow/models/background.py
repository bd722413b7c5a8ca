"""Lets synchronous callers wait for asynchronous work, which runs on one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from dynflow.closing import aclosing
from dynflow.waiting import take

T = TypeVar("T")
_AHEAD = 1000
"""Items that may wait to be taken before their maker is made to wait."""

_starting = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_left_behind: list[asyncio.AbstractEventLoop] = []
"""Loops of a parent process: to close one would meddle with the parent's sockets."""


def iterate(items: AsyncIterator[T]) -> Iterator[T]:
    """The items, made on the background loop, one ahead of the other; closing the iterator ends their making at once.

    Raises what making them raises, and what `dynflow.waiting.check_wanted` does.
    """
    inbox: queue.SimpleQueue[tuple[T] | Future[None]] = queue.SimpleQueue()

    async def make() -> None:
        async with aclosing(items):
            async for item in items:
                inbox.put((item,))
                while inbox.qsize() > _AHEAD:
                    await asyncio.sleep(0.01)

    making = asyncio.run_coroutine_threadsafe(make(), _running_loop())
    making.add_done_callback(inbox.put)
    try:
        while not isinstance(taken := take(inbox), Future):
            yield taken[0]
        taken.result()
    finally:
        making.cancel()


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives, done on the background loop; it is cancelled where the wait for it is called off.

    Raises what the work raises, and what `dynflow.waiting.check_wanted` does.
    """
    inbox: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()
    doing = asyncio.run_coroutine_threadsafe(work, _running_loop())
    doing.add_done_callback(inbox.put)
    try:
        return take(inbox).result()
    finally:
        doing.cancel()


def in_background() -> bool:
    """Whether the running event loop is the background's."""
    return asyncio.get_running_loop() is _loop


def _running_loop() -> asyncio.AbstractEventLoop:
    """The loop; it starts with its first use, and anew in a forked child."""
    global _loop, _thread
    with _starting:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_run, args=(_loop,), name="dynflow calls", daemon=True)
            _thread.start()
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _stop() -> None:
    """At the end of the process: close connections in good order."""
    if _loop is not None and _thread is not None:
        _loop.call_soon_threadsafe(_loop.stop)
        _thread.join(1.0)


def _after_fork() -> None:
    global _loop, _thread, _starting
    if _loop is not None:
        _left_behind.append(_loop)
    _loop, _thread, _starting = None, None, threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
