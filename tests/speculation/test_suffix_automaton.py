"""The suffix automaton against a search that tries every place."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dynflow.speculation.suffix_automaton import SuffixAutomaton


def naive(text: list[int]) -> tuple[int, int, int]:
    """Length, most recent and first earlier end of the longest suffix that occurs earlier."""
    ends: dict[int, list[int]] = {0: [-1]}
    for end in range(len(text) - 1):
        length = 0
        while length <= end and text[end - length] == text[len(text) - 1 - length]:
            length += 1
        ends.setdefault(length, []).append(end)
    longest = max(ends)
    return longest, ends[longest][-1 if longest else 0], ends[longest][0]


pieces = st.lists(st.integers(0, 3), max_size=7)
copying = st.lists(st.tuples(pieces, st.integers(0, 30), st.integers(0, 12)), max_size=9)


@settings(deadline=None)
@given(copying)
def test_longest_and_most_recent(parts: list[tuple[list[int], int, int]]) -> None:
    automaton = SuffixAutomaton()
    for piece, start, size in parts:
        for token in piece + automaton.text[start : start + size]:
            automaton.append(token)
            assert (automaton.match_length, automaton.match_end, automaton.first_end) == naive(automaton.text)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 12))
def test_the_continuation_goes_on_as_after_the_match(text: list[int], limit: int) -> None:
    automaton = SuffixAutomaton()
    for token in text:
        automaton.append(token)
    _, end, _ = naive(text)
    expected = list(text)
    for _ in range(limit if end >= 0 else 0):
        expected.append(expected[len(expected) - len(text) + end + 1])
    assert automaton.continuation(automaton.match_end, limit) == expected[len(text) :]


class Counted(list[int]):
    """Counts how often an item is set."""

    steps = 0

    def __setitem__(self, index: Any, value: Any) -> None:
        self.steps += 1
        super().__setitem__(index, value)


def test_hostile_text_costs_little() -> None:
    """A run of one token, broken off: noting every suffix at every token would be millions of steps."""
    automaton = SuffixAutomaton()
    automaton._seen_last = noted = Counted(automaton._seen_last)
    for index in range(6_000):
        automaton.append(0 if index % 3_000 else index)
    assert automaton.match_length == 2_999
    assert len(automaton._link) <= 2 * len(automaton.text) + 1
    assert noted.steps <= 300 * len(automaton.text)
