"""A model loaded in this process, and the bounded queue of requests before it."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from dynflow.energy import Meter
from dynflow.errors import Overloaded
from dynflow.ledger import Compute
from dynflow.models.apart import apart, start

Event = Mapping[str, Any] | Exception | None
"""What a request gives, in order: events of the OpenAI chat protocol, an Exception if it failed, and None at last."""


@dataclass(eq=False)
class Job:
    """One request. `emit` is called from another thread, with each event; `reader` is the thread that reads them."""

    request: Mapping[str, Any]
    emit: Callable[[Event], object]
    cancelled: bool = False
    compute: Compute | None = None
    """What it took, once it has been served."""
    reader: threading.Thread = field(default_factory=threading.current_thread)

    @property
    def wanted(self) -> bool:
        """False once cancelled, or when the process ends and nobody is left to read."""
        return not self.cancelled and (threading.main_thread().is_alive() or self.reader.is_alive())

    def deliver(self, event: Event) -> bool:
        """Hand over one event; True if the request is no longer wanted and should stop."""
        if self.wanted:
            try:
                self.emit(event)
            except RuntimeError:  # the reader's event loop is closed
                self.cancelled = True
        return not self.wanted


class Engine(ABC):
    """A loaded model that serves one request after another. Dropping the last reference to it frees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.abandoned = False
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[Job] = deque()

    @abstractmethod
    def serve(self, job: Job) -> None:
        """Answer one request through `job.deliver`, stopping when that says so. Runs in the engine's own thread."""

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn, besides the one that is being served."""
        return len(self._waiting)

    def submit(self, job: Job, limit: int) -> None:
        """Queue a request. Raises Overloaded if `limit` requests wait already."""
        with self._lock:
            if self._busy:
                if len(self._waiting) >= limit:
                    raise Overloaded(f"{self.name} is busy and {limit} requests wait already; raise its `queue`")
                self._waiting.append(job)
            else:
                start(lambda: self._work(job), f"dynflow {self.name}")
                self._busy = True

    def cancel(self, job: Job) -> None:
        """Drop a request: from the queue at once, from the model after the token or batch that it is at."""
        job.cancelled = True
        with self._lock, suppress(ValueError):
            self._waiting.remove(job)

    def abandon(self) -> None:
        """In a forked child: the engine's threads are not here, so nobody must use it again."""
        self.abandoned = True

    def _work(self, job: Job | None) -> None:
        while job is not None:
            if job.wanted:
                meter = Meter()
                try:
                    self.serve(job)
                except Exception as error:
                    job.deliver(error)
                job.compute = meter.read()
                job.deliver(None)
            with self._lock:
                job = self._waiting.popleft() if self._waiting else None
                self._busy = job is not None


_engines: WeakValueDictionary[Hashable, Engine] = WeakValueDictionary()
_loading = threading.Lock()


def shared(key: Hashable, load: Callable[[], Engine]) -> Engine:
    """The engine of this key, loaded at most once while anybody holds it. One model loads at a time."""
    return _engines.get(key) or apart(lambda: _load(key, load))


def _load(key: Hashable, load: Callable[[], Engine]) -> Engine:
    with _loading:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = load()
        return engine


def _after_fork() -> None:
    global _loading
    for engine in list(_engines.values()):
        engine.abandon()
    _engines.clear()
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
