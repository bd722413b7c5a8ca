"""Keeps visits within their time, sync, async and streamed."""

from __future__ import annotations

import asyncio
import contextvars
import math
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from dynflow.closing import closing
from dynflow.node import Cancelled
from dynflow.visit import Visit
from dynflow.waiting import check_wanted

T = TypeVar("T")
_GRACE = 0.02
"""Seconds between looks at whether a visit was called off, while its next chunk waits to be fetched."""


@contextmanager
def heard(visit: Visit) -> Iterator[None]:
    """Lets whatever blocks in this thread, deep beneath, hear that the visit was called off."""

    def check() -> None:
        if visit.called_off:
            raise Cancelled

    token = check_wanted.set(check)
    try:
        yield
    finally:
        check_wanted.reset(token)


def within(function: Callable[[], T], visit: Visit) -> T:
    """The function's result, or the visit's expiry. A thread that is late is called off and left behind."""
    (result,) = each_within(lambda: [function()], [visit])
    if isinstance(result, BaseException):
        raise result
    return result


def each_within(function: Callable[[], Sequence[T]], visits: Sequence[Visit]) -> Sequence[T | BaseException]:
    """The result of each visit of a batch, or its expiry: one whose time is up before leaves the others theirs."""
    by_time = sorted(enumerate(visits), key=lambda each: each[1].time_limit)
    if by_time[0][1].time_limit == math.inf:
        return function()
    batch: Future[Sequence[T]] = Future()

    def work() -> None:
        try:
            with heard(visits[0]):
                batch.set_result(function())
        except BaseException as error:  # handed to the thread that waits
            batch.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    began, late = time.perf_counter(), dict[int, BaseException]()
    try:
        for place, visit in by_time:
            limit = visit.time_limit
            left = None if limit == math.inf else max(0.0, began + limit - time.perf_counter())
            if wait([batch], timeout=left).done:
                return _shared_out(batch, late, len(visits))
            late[place] = visit.expired()
        return [late[place] for place in range(len(visits))]
    finally:
        for visit in visits:
            visit.call_off()


def _shared_out(
    batch: Future[Sequence[T]] | asyncio.Future[Sequence[T]], late: Mapping[int, BaseException], count: int
) -> Sequence[T | BaseException]:
    """What a batch gave each of so many visits, or the error that it ended in; those that were late before stay so."""
    error = batch.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    ends: Sequence[T | BaseException] = batch.result() if error is None else [error] * count
    return [late.get(place, end) for place, end in enumerate(ends)]


async def in_time(result: Awaitable[T], visit: Visit, seconds: float) -> T:
    """Turn a time-out of our own into the visit's expiry; one that the node raised stays its own."""
    if seconds == math.inf:
        return await result
    try:
        async with asyncio.timeout(seconds) as timer:
            return await result
    except TimeoutError as failure:
        raise (visit.expired() if timer.expired() else failure) from None


async def each_in_time(results: Awaitable[Sequence[T]], visits: Sequence[Visit]) -> Sequence[T | BaseException]:
    """The same, async."""
    batch = asyncio.ensure_future(results)
    began, late = time.perf_counter(), dict[int, BaseException]()
    try:
        for place, visit in sorted(enumerate(visits), key=lambda each: each[1].time_limit):
            limit = visit.time_limit
            left = None if limit == math.inf else max(0.0, began + limit - time.perf_counter())
            if (await asyncio.wait([batch], timeout=left))[0]:
                return _shared_out(batch, late, len(visits))
            late[place] = visit.expired()
        return [late[place] for place in range(len(visits))]
    finally:
        for visit in visits:
            visit.call_off()  # a worker thread that still runs for them may stop
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)


def pumped(items: Callable[[], Iterator[Any]], visit: Visit, ends: float) -> Iterator[Any]:
    """The items with an end to their time, by `time.perf_counter`: a thread makes and fetches them, so that neither a
    model that loads nor a silent upstream can hold us."""
    end = object()
    fetched: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=8)

    def put(item: Any, error: BaseException | None = None) -> None:
        while not visit.called_off:
            try:
                fetched.put((item, error), timeout=_GRACE)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            with heard(visit), closing(items()) as made:
                for item in made:
                    put(item)
                    if visit.called_off:
                        return
            put(end)
        except BaseException as error:  # handed to the thread that waits
            put(end, error)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    try:
        while True:
            try:
                item, error = fetched.get(timeout=max(0.0, ends - time.perf_counter()))
            except queue.Empty:
                raise visit.expired() from None
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        visit.call_off()
