"""Longest suffix of a growing text that occurs earlier in it, and where it did so first and last."""

from __future__ import annotations

from collections.abc import Sequence

_NOTED = 256


class SuffixAutomaton:
    """Reads a text token by token; knows after each the longest repeated suffix and its most recent earlier end.

    The automaton is Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985), built online:
    its suffix link from the whole text leads to the longest suffix that occurs twice. While the text goes on as it did
    after that occurrence, the match grows by one and stays both longest and most recent, which costs nothing. Only when
    it breaks off are the places since then noted in the states of their suffixes, latest first, each state at most once
    for a break; so a token costs O(1) amortised on text that either copies or does not. Where it is one long run broken
    by little, a suffix has as many suffixes as the run is long: the `_NOTED` longest are noted, and a shorter match may
    then be an older one than the most recent. Memory: at most two states a token.
    """

    def __init__(self) -> None:
        self.text: list[int] = []
        self.match_length = 0
        self.match_end = -1
        """Index of the match's last token; -1 without a match."""
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        self._seen_first = [-1]  # by state: the first end of its strings
        self._seen_last = [-1]  # by state: the latest end of its strings that has been noted
        self._whole = 0  # the state of the whole text
        self._unnoted: list[tuple[int, int]] = []  # (position, its state)

    @property
    def first_end(self) -> int:
        """Where the same suffix ended for the first time; -1 without a match."""
        return self._seen_first[self._link[self._whole]] if self.match_length else -1

    def read(self, text: Sequence[int]) -> None:
        """Read on to the end of a text that begins as what was read."""
        for index in range(len(self.text), len(text)):
            self.append(text[index])

    def append(self, token: int) -> None:
        """Read one more token."""
        position = len(self.text)
        self.text.append(token)
        self._extend(token)
        if self.match_length and self.text[self.match_end + 1] == token:
            self.match_end += 1
            self.match_length += 1
        else:
            self._note()
            state = self._link[self._whole]
            self.match_length, self.match_end = self._length[state], self._seen_last[state] if state else -1
        self._unnoted.append((position, self._whole))

    def continuation(self, end: int, limit: int) -> list[int]:
        """`limit` tokens that followed the place `end`, going round at the end of the text; none of no place."""
        if end < 0:
            return []
        start = end + 1
        found = self.text[start : start + limit]
        period = len(self.text) - start
        while len(found) < limit:
            found.append(found[len(found) - period])
        return found

    def _note(self) -> None:
        for position, place in reversed(self._unnoted):
            state, left = place, _NOTED
            while state > 0 and left and self._seen_last[state] < position:
                self._seen_last[state] = position
                state, left = self._link[state], left - 1
        self._unnoted.clear()

    def _extend(self, token: int) -> None:
        """The classical step."""
        added = self._state({}, 0, self._length[self._whole] + 1, len(self.text) - 1, -1)
        state, self._whole = self._whole, added
        while state >= 0 and token not in self._next[state]:
            self._next[state][token] = added
            state = self._link[state]
        if state < 0:
            return
        target = self._next[state][token]
        if self._length[target] == self._length[state] + 1:
            self._link[added] = target
            return
        seen = self._seen_first[target], self._seen_last[target]
        clone = self._state(dict(self._next[target]), self._link[target], self._length[state] + 1, *seen)
        while state >= 0 and self._next[state].get(token) == target:
            self._next[state][token] = clone
            state = self._link[state]
        self._link[target] = self._link[added] = clone

    def _state(self, successors: dict[int, int], link: int, length: int, seen_first: int, seen_last: int) -> int:
        self._next.append(successors)
        self._link.append(link)
        self._length.append(length)
        self._seen_first.append(seen_first)
        self._seen_last.append(seen_last)
        return len(self._link) - 1
