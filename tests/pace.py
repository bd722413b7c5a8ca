"""How much slower this machine is now than the one that time limits of tests were chosen on."""

from __future__ import annotations

import time

_USUAL = 0.006
"""Seconds that the loop takes there, when nothing else runs."""


def slowness() -> float:
    """A factor for tolerances, at least 1; it takes a few milliseconds to measure."""
    slowest = 0.0
    for _ in range(3):
        began = time.perf_counter()
        total = 0
        for number in range(100_000):
            total += number
        slowest = max(slowest, time.perf_counter() - began)
    return max(1.0, slowest / _USUAL)
