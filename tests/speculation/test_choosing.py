"""Choosing a mode for a whole request, with synthetic costs."""

import pytest

from dynflow.speculation.choosing import Chooser, Costs, Lookup, Measured, kind_of, replay

SHORT, LONG = Lookup(3, 8), Lookup(3, 16)
TEXT = (
    "The ferry to the island leaves at six in the morning and at four in the afternoon, and tickets that were bought "
    "before Monday remain valid until the end of the month. Dogs travel for half the price of a seat, and bicycles "
    "must be booked in advance at the harbour."
)
COPY = f"Repeat this text word for word: {TEXT}"
READ = f"What does a dog pay? {TEXT}"
WRITE = "Write a poem about the sea."


def chooser(drafted: float = 0.2) -> Chooser:
    return Chooser(Costs(plain=0.01, drafted=drafted, reading=0.001))


@pytest.mark.parametrize(("prompt", "kind"), [(COPY, "edits"), (READ, "reads"), (WRITE, "writes")])
def test_kinds(prompt: str, kind: str) -> None:
    assert kind_of(prompt, prompt) == kind


def test_a_copy_is_drafted_and_new_text_is_not() -> None:
    assert chooser().choose("edits", [SHORT, LONG], {}) is not None
    assert chooser().choose("writes", [SHORT, LONG], {}) is None


def test_nothing_is_drafted_where_a_batch_costs_as_much_as_its_tokens() -> None:
    assert chooser(drafted=1.0).choose("edits", [SHORT, LONG], {}) is None


def test_nothing_is_drafted_without_a_mode() -> None:
    assert chooser().choose("edits", [], {}) is None


MISSES = (
    "The ferry to the moon. At six in the evening. That were bought by nobody. For half the night. In advance of it. "
)
"""Begins again and again as the text does, and goes on otherwise."""


def test_it_learns_that_a_flow_does_not_copy_and_that_it_does_again() -> None:
    own = chooser(drafted=0.3)
    for _ in range(6):
        own.learn("edits", COPY, MISSES, 30, [SHORT])
    assert own.choose("edits", [SHORT], {}) is None
    for _ in range(4):
        own.learn("edits", COPY, TEXT, 60, [SHORT])
    assert own.choose("edits", [SHORT], {}) == SHORT


def test_it_learns_that_new_text_repeats_itself() -> None:
    own = chooser()
    for _ in range(6):
        own.learn("writes", WRITE, "and the sea sings to the shore " * 12, 84, [SHORT])
    assert own.choose("writes", [SHORT], {}) == SHORT


def test_kinds_are_learned_apart() -> None:
    own = chooser(drafted=0.3)
    for _ in range(6):
        own.learn("reads", READ, MISSES, 30, [SHORT])
    assert own.choose("reads", [SHORT], {}) is None
    assert own.choose("edits", [SHORT], {}) == SHORT


def test_a_long_conversation_stays_where_it_has_been_read() -> None:
    assert chooser().choose("edits", [SHORT], {SHORT: 5_000, None: 0}) is None
    assert chooser().choose("edits", [SHORT], {SHORT: 5_000, None: 5_000}) == SHORT


def test_costs_follow_what_is_measured_within_bounds() -> None:
    costs = Costs(drafted=0.4)
    costs.learn(0.02, 99.0, None)
    assert (costs.plain, costs.drafted, costs.reading) == (0.02, 0.8, Costs().reading)
    costs.learn(0.04, 0.4, 0.001)
    assert costs.plain == pytest.approx(0.025)
    assert costs.drafted == pytest.approx(0.7)
    assert costs.reading == 0.001


def test_a_busy_moment_does_not_keep_drafting_off_for_ever() -> None:
    own = chooser(drafted=2.0)
    assert own.choose("edits", [SHORT], {}) is None
    for _ in range(40):
        own.costs.learn(0.01, None, None)
    assert own.choose("edits", [SHORT], {}) == SHORT


def test_replay_of_a_copy_of_a_repetition_and_of_new_text() -> None:
    text = [str(number) for number in range(40)]
    # One pass each for the tokens 1 and 2, for the key is not complete; then eight and one more in each pass.
    assert replay(text, text, SHORT) == (32, 32)
    # A repetition is three tokens long when it is first seen, so a draft has no more.
    assert replay([], ["a", "b", "c"] * 10, SHORT) == (18, 18)
    assert replay(text, [f"new {number}" for number in range(40)], SHORT) == (0, 0)
    assert replay([], [], SHORT) == (0, 0)


def test_replay_counts_what_is_refused() -> None:
    drafted, accepted = replay(["a", "b", "c", "d", "e", "f"], ["a", "b", "c", "x", "y", "z"], Lookup(3, 8))
    assert (drafted, accepted) == (2, 0)


def test_a_measured_mode_that_loses_is_left_and_tried_again() -> None:
    own, mode = chooser(), Measured("draft_model", 8, "tiny.gguf")
    assert own.choose("writes", [mode], {}) == mode
    for _ in range(3):
        own.learn("writes", WRITE, TEXT, 60, [mode], mode, 1.5)
    assert own.choose("writes", [mode], {}) is None
    for _ in range(20):
        own.learn("writes", WRITE, TEXT, 60, [mode])
    assert own.choose("writes", [mode], {}) == mode
