"""Native code that must not be cut off: Python waits for it before it ends, and whoever asked may leave earlier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
_TICK = 0.5  # seconds; on Windows a wait without limit would not hear Ctrl-C


def apart(function: Callable[[], T]) -> T:
    """The function's result, from a thread that is joined before Python shuts down. Raises what the function raises.

    A daemon thread that is in native code then would be torn out of it, which C++ answers with an abort: so it ends
    where Ctrl-C, or a time limit, leaves behind a thread that loads a model. The main thread hears Ctrl-C at once
    this way, not after the load. Raises RuntimeError in a daemon thread while Python ends.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="dynflow native")  # its threads are joined, daemons or not
    try:
        future = pool.submit(function)
    except RuntimeError:  # Python ends; it still waits for threads that are no daemons
        if threading.current_thread().daemon:
            raise
        return function()
    finally:
        pool.shutdown(wait=False)
    while not wait((future,), timeout=_TICK).done:
        pass
    return future.result()
