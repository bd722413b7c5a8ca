"""A budget of retries, so that an outage does not multiply its own load."""

from __future__ import annotations

import threading


class RetryBudget:
    """Tokens that retries take: a retry takes one, a success gives a tenth of one back. When none is left, failures
    are final until calls succeed again. Threads may share one.

    Source: gRPC proposal A6, "Throttling Retry Attempts and Hedged RPCs".
    """

    def __init__(self, tokens: float = 10.0, per_success: float = 0.1) -> None:
        self._most = self._tokens = tokens
        self._per_success = per_success
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a token for one retry; False where none is left."""
        with self._lock:
            # The tiny addend: ten tenths must make a whole.
            if self._tokens + 1e-9 < 1:
                return False
            self._tokens -= 1
            return True

    def succeeded(self) -> None:
        """A call has succeeded."""
        with self._lock:
            self._tokens = min(self._most, self._tokens + self._per_success)
