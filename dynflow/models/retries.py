"""Whether and when a failed attempt is followed by another: the answers to what tenacity asks."""

from __future__ import annotations

import random
from collections.abc import Callable

from tenacity import RetryCallState, wait_random_exponential

from dynflow.models.failures import retryable
from dynflow.models.health import Health

BACKOFF = 0.5
"""Seconds: the longest wait before the first retry; it doubles with each further one."""
LONGEST_BACKOFF = 8.0
LONGEST_RETRY_AFTER = 60.0
"""Seconds: who is asked to wait longer fails at once, and leaves it to the graph what to do meanwhile."""


class RetryPolicy:
    """The policy of one call: at most so many retries, none that could not begin in time, none that the model's
    health forbids. The waits are random, between nothing and a bound that doubles, and never shorter than what the
    provider asked for (`retry_after` of its error).

    Source: M. Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015), full jitter.
    """

    def __init__(self, retries: int, health: Health, seconds_left: Callable[[], float]) -> None:
        self._retries = retries
        self._health = health
        self._seconds_left = seconds_left
        self._backoff = wait_random_exponential(multiplier=BACKOFF, max=LONGEST_BACKOFF)
        self.ended: str | None = None
        """Why there was no retry though some were left; None where none were."""

    def retry(self, state: RetryCallState) -> bool:
        """Whether another attempt could mend it."""
        error = _error(state)
        return error is not None and retryable(error)

    def wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt."""
        told = _asked(state)
        # The tenth more: those that were told the same should not come back at the same moment.
        return max(self._backoff(state), told * random.uniform(1.0, 1.1))

    def stop(self, state: RetryCallState) -> bool:
        """Whether there is to be no other attempt."""
        if state.attempt_number > self._retries:
            return True
        self.ended = self._obstacle(state)
        return self.ended is not None

    def _obstacle(self, state: RetryCallState) -> str | None:
        wait = state.upcoming_sleep
        if _asked(state) > LONGEST_RETRY_AFTER:
            asked = f"its provider asks to wait {_asked(state):.0f} s"
            return f"{asked}, and dynflow waits {LONGEST_RETRY_AFTER:.0f} s at most"
        if wait >= self._seconds_left():
            return f"the wait of {wait:.2g} s would outlast the time that is left"
        if self._health.breaker.seconds_left() > wait:
            return "its circuit breaker is open"
        if not self._health.retries.take():
            return "too many calls of this model failed of late: its retry budget is spent"
        return None


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _asked(state: RetryCallState) -> float:
    """Seconds that the provider asked to wait."""
    asked: float | None = getattr(_error(state), "retry_after", None)
    return asked or 0.0
