"""Whether anybody still waits for what a thread does: said by whoever started it, read by what blocks deep beneath."""

from __future__ import annotations

import contextvars
import math
import queue
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_TICK = 0.5
"""Seconds; on Windows a wait without limit would not hear Ctrl-C."""
_LOOK = 0.03
"""Seconds between looks at whether the wait is called off."""


def _never() -> None:
    """Nobody can call the wait off."""


check_wanted: contextvars.ContextVar[Callable[[], None]] = contextvars.ContextVar("check_wanted", default=_never)
"""Raises where nobody waits any more for what this thread does."""


def take(inbox: queue.SimpleQueue[T], ends: float = math.inf) -> T:
    """The next item. Raises TimeoutError at `ends` (by `time.monotonic`), and what `check_wanted` raises."""
    check = check_wanted.get()
    tick = _TICK if check is _never else _LOOK
    while True:
        check()
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            return inbox.get(timeout=min(left, tick))
        except queue.Empty:
            continue
