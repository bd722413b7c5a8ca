"""What llama.cpp is told to draft, and what its events tell of it, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from dynflow.models.llama_drafting import BATCH, Tally, modes_of
from dynflow.speculation.asked import Asked
from dynflow.speculation.choosing import Lookup, Measured
from dynflow.speculation.statistics import Speculation


def test_a_draft_never_fills_a_batch() -> None:
    """llama.cpp ends the process where the model's own token has no place beside a draft."""
    every = Asked(("prompt_lookup", "ngram_cache", "draft_model"), most=256, draft="small.gguf")
    assert all(mode.most < BATCH for mode in modes_of(every))


def test_the_longest_draft_asked_for_is_a_limit_and_not_a_wish() -> None:
    assert modes_of(Asked()) == modes_of(Asked(most=100)) == (Lookup(3, 6), Lookup(3, 16))
    assert modes_of(Asked(most=2)) == (Lookup(2, 2),)  # what follows a longer key would be too short for llama.cpp
    assert modes_of(Asked(most=1)) == (Lookup(1, 1),)
    assert modes_of(Asked(("ngram_cache",), most=9)) == (Measured("ngram_cache", 9),)
    assert modes_of(Asked(())) == ()


def told(*events: tuple[int, int, int]) -> Speculation:
    """Statistics of an answer by its events: tokens, drafted and accepted so far; a pass takes 10 ms."""
    tally = Tally()
    for event in _timed(events):
        tally.read({"timings": event})
    return tally.statistics(Lookup(3, 6), 0.01, True, "Q4_1", None)


def _timed(events: Iterable[tuple[int, int, int]]) -> Iterable[dict[str, Any]]:
    for index, (tokens, drafted, accepted) in enumerate(events):
        yield {"predicted_n": tokens, "predicted_ms": 10.0 * index, "draft_n": drafted, "draft_n_accepted": accepted}


@pytest.mark.parametrize(
    ("events", "passes", "accepted"),
    [
        # The prompt's token, a plain pass, a draft of six with four right and the model's own token.
        (((1, 0, 0), (2, 0, 0), (3, 6, 4), (4, 6, 4), (5, 6, 4), (6, 6, 4), (7, 6, 4)), 2, 4),
        # The same, with half characters and possible stop texts withheld.
        (((3, 6, 4), (7, 6, 4)), 2, 4),
        (((1, 0, 0), (7, 6, 4)), 2, 4),
        # The token of a plain pass is withheld between two drafts.
        (((1, 0, 0), (2, 6, 0), (4, 12, 1), (5, 12, 1)), 3, 1),
        # All of a draft's text is withheld until the next one's: who wrote what is not told, but how many passes is.
        (((1, 0, 0), (5, 12, 6), (9, 12, 6)), 2, 6),
        # The end of the text falls in a draft: what is behind it counts for nothing.
        (((1, 0, 0), (2, 6, 6), (5, 6, 6)), 1, 4),
        (((1, 0, 0), (2, 6, 6), (7, 6, 6)), 1, 6),  # and here only the model's own token
        # Plain decoding tells all at the end.
        (((20, 0, 0),), 19, 0),
        (((1, 0, 0),), 0, 0),
        ((), 0, 0),
    ],
)
def test_passes_and_accepted_tokens_make_up_the_answer(
    events: tuple[tuple[int, int, int], ...], passes: int, accepted: int
) -> None:
    statistics = told(*events)
    assert (statistics.passes, statistics.accepted) == (passes, accepted)
    assert sum(statistics.accepted_by_position) == accepted <= sum(statistics.drafted_by_position) == statistics.drafted
    assert statistics.tokens - 1 <= passes + accepted <= statistics.tokens
