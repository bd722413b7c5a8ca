"""Threads for native code, which must not be cut off: Python waits for them before it ends.

A daemon thread that is in C++ or Rust when Python shuts down is torn out of it, and the process aborts. Nodes with a
deadline run in daemon threads, and Ctrl-C or the deadline leaves them behind: so models load and compute apart.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
_TICK = 0.5  # seconds; on Windows a wait without limit would not hear Ctrl-C
_lock = threading.Lock()
_running: set[threading.Thread] = set()
_ended = False


def start(target: Callable[[], object], name: str) -> None:
    """Run the function in a thread that is joined before Python ends. Raises RuntimeError when Python has ended."""

    def work() -> None:
        try:
            target()
        finally:
            _running.discard(thread)

    thread = threading.Thread(target=work, name=name, daemon=False)  # else it would inherit daemonhood
    with _lock:
        if _ended:
            raise RuntimeError("Python is ending")
        _running.add(thread)
        thread.start()


def apart(function: Callable[[], T]) -> T:
    """The function's result, from such a thread. Raises what the function raises, and RuntimeError as `start`.

    Whoever waits here hears Ctrl-C at once, not when the function is done.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # handed to the thread that waits
            future.set_exception(error)

    start(work, "dynflow native")
    while not wait((future,), timeout=_TICK).done:
        pass
    if _forsaken():
        raise RuntimeError("Python is ending")
    return future.result()


def _forsaken() -> bool:
    """Whether this is a daemon thread of a program that is over, so that nobody is left to use its work."""
    if threading.main_thread().is_alive() or not threading.current_thread().daemon:
        return False
    own = {threading.main_thread(), *_running}
    return all(thread.daemon for thread in threading.enumerate() if thread not in own)


def _join() -> None:
    """Python has waited for all threads by now, but a daemon may have started one since."""
    global _ended
    with _lock:
        _ended = True
    for thread in list(_running):
        thread.join()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _running.clear()


atexit.register(_join)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
