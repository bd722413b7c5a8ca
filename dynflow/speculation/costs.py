"""What a forward pass of n tokens costs on this machine, and what a drafted token does."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

_MOST_SURPRISE = 1.5  # a pass that took longer than this was disturbed: it counts as this much
_SCALE_RATE, _SHAPE_RATE = 0.2, 0.05  # how fast all passes together, and those of one size, follow what is measured


class Costs:
    """Seconds of a forward pass by its number of tokens, from measured sizes and corrected by every pass since.

    Between sizes it interpolates; beyond the largest it goes on as between the last two. Never falls with size.
    What slows all passes alike, such as a longer context, is followed fast; one size against the others slowly.
    """

    def __init__(self, measured: Mapping[int, float]) -> None:
        """`measured`: seconds by number of tokens; at least for 1 and one more. Raises ValueError."""
        self._sizes = sorted(measured)
        if len(self._sizes) < 2 or self._sizes[0] != 1 or min(measured.values()) <= 0:
            raise ValueError(f"costs need positive seconds for 1 token and for more, not {dict(measured)}")
        self._seconds = [measured[size] for size in self._sizes]

    def of(self, tokens: int) -> float:
        """Seconds of a pass of so many tokens."""
        place, share = self._place(tokens)
        lower, upper = max(self._seconds[:place]), max(self._seconds[: place + 1])
        return lower + (upper - lower) * share

    def learn(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        surprise = min(max(seconds / self.of(tokens), 1 / _MOST_SURPRISE), _MOST_SURPRISE)
        place, share = self._place(tokens)
        weights = {place - 1: 1 - min(share, 1.0), place: min(share, 1.0)}
        for index in range(len(self._seconds)):
            self._seconds[index] *= surprise ** (_SCALE_RATE + _SHAPE_RATE * weights.get(index, 0.0))

    def _place(self, tokens: int) -> tuple[int, float]:
        """Index of the upper of two sizes, and how far from the lower to it."""
        place = min(max(bisect_left(self._sizes, tokens), 1), len(self._sizes) - 1)
        lower, upper = self._sizes[place - 1], self._sizes[place]
        return place, (tokens - lower) / (upper - lower)


class DraftingCosts:
    """Seconds of a drafted token by drafter, of those that cost any.

    What is less than before is believed at once, what is more slowly: other work only slows, and a draft model that
    begins reads the prompt first.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def of(self, drafter: str) -> float | None:
        """None: not known yet."""
        return self._seconds.get(drafter)

    def learn(self, drafter: str, tokens: int, seconds: float) -> None:
        """A draft of so many tokens took so long; of none, that is the least that one takes."""
        each = seconds / max(tokens, 1)
        known = self._seconds.get(drafter, each)
        if not tokens:
            each = max(each, known)
        more = max(min(each, _MOST_SURPRISE * known) - known, 0.0)
        self._seconds[drafter] = min(each, known) + _SCALE_RATE * more
