"""A circuit breaker: a model that keeps failing is left alone for a while. Pure, but for the clock it is given.

Source: M. Nygard, Release It! (2nd ed. 2018), "Circuit Breaker".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

FAILURES = 5
"""Failures in a row that open it."""
COOL_DOWN = 5.0
"""Seconds that it stays open at first; they double with each probe that fails."""
LONGEST_COOL_DOWN = 60.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call. Whoever holds it says once how the call went."""

    state: Literal["closed", "half_open"]
    period: int
    """Which stretch between two changes of state it is from: word of an earlier one comes too late to count."""


class CircuitBreaker:
    """Closed, it admits every call; after so many failures in a row it is open, and admits none. When it has cooled
    down it is half open: it admits one call at a time, and that one's success closes it, its failure opens it again.
    A probe that has not been heard of for the longest cool-down makes room for another: it may hang for good. Should
    it succeed after all, that counts; its failure does not.

    What neither succeeded nor failed (it was cancelled, say) is withdrawn and changes nothing. Threads may share one.
    """

    def __init__(
        self,
        failures: int = FAILURES,
        cool_down: float = COOL_DOWN,
        longest_cool_down: float = LONGEST_COOL_DOWN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_failures = failures
        self._first_cool_down = cool_down
        self._longest_cool_down = longest_cool_down
        self._clock = clock
        self._lock = threading.Lock()
        self._period = 0
        self._failures = 0
        self._cool_down = cool_down
        self._opened: float | None = None
        """When it opened; None while it is closed."""
        self._probe: Permit | None = None
        """The call admitted half open that is under way."""
        self._probed = 0.0
        """When that was admitted."""

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """Where it stands now."""
        if self._opened is None:
            return "closed"
        return "open" if self.seconds_left() > 0 else "half_open"

    def seconds_left(self) -> float:
        """Seconds until it is half open; 0 where it is, or is closed."""
        opened = self._opened
        return 0.0 if opened is None else max(0.0, opened + self._cool_down - self._clock())

    def admit(self) -> Permit | None:
        """A permit for one call; None where it is open, or the one call that it admits half open is under way."""
        with self._lock:
            if self._opened is None:
                return Permit("closed", self._period)
            now = self._clock()
            if self.seconds_left() > 0 or (self._probe is not None and now < self._probed + self._longest_cool_down):
                return None
            self._probe, self._probed = Permit("half_open", self._period), now
            return self._probe

    def succeeded(self, permit: Permit) -> None:
        """The call succeeded, or failed in a way that shows its model to be there."""
        with self._lock:
            if permit.period != self._period:
                return
            self._failures = 0
            if permit.state == "half_open":
                self._opened, self._cool_down = None, self._first_cool_down
                self._change()

    def failed(self, permit: Permit) -> None:
        """The call failed, and by the model's fault."""
        with self._lock:
            if permit.period != self._period or self._overtaken(permit):
                return
            self._failures += 1
            if permit.state == "half_open":
                self._cool_down = min(2 * self._cool_down, self._longest_cool_down)
            elif self._failures < self._most_failures:
                return
            self._opened = self._clock()
            self._change()

    def withdraw(self, permit: Permit) -> None:
        """The call was never made, was cancelled, or says nothing of the model: as if it had not been admitted."""
        with self._lock:
            if permit is self._probe:
                self._probe = None

    def _overtaken(self, permit: Permit) -> bool:
        return permit.state == "half_open" and permit is not self._probe

    def _change(self) -> None:
        self._period += 1
        self._failures = 0
        self._probe = None
