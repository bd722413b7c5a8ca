"""The route that each conversation is on, so that it keeps it: a change of model throws its prompt cache away."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

MOST = 10_000
"""Conversations that are remembered: those that asked last."""


class Conversations:
    """Routes by conversation, in the memory of this process alone and gone with it. Threads may share it."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._routes: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._routes)

    def route(self, conversation: str) -> str | None:
        """The route that it is on; None where it is new, or was forgotten."""
        return self._routes.get(_key(conversation))

    def keep(self, conversation: str, route: str) -> None:
        """It is on this route now; beyond the bound the one that asked longest ago is forgotten."""
        key = _key(conversation)
        with self._lock:
            self._routes[key] = route
            self._routes.move_to_end(key)
            while len(self._routes) > self._most:
                self._routes.popitem(last=False)


def _key(conversation: str) -> bytes:
    """Of fixed size however long the name is, and no name that somebody could read."""
    return hashlib.sha256(conversation.encode("utf-8", "surrogatepass")).digest()[:16]
