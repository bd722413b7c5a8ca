"""Text and tokens in step: pieces as they come, words spelt as they would be there, and no more work than is new."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

from dynflow.speculation.token_text import TokenText, translation_fault
from tests.speculation.tiny_tokenizers import TEXTS, byte_fallback, byte_level, runs_of_letters

KINDS = {"bytes": byte_level(), "fallback": byte_fallback()}


def encoded(tokenizer: Any, text: str) -> list[int]:
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return tokens


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_comes_character_by_character(tokenizer: Any, text: str) -> None:
    prompt, tokens = encoded(tokenizer, "Say: "), encoded(tokenizer, text)
    written = TokenText(tokenizer, prompt)
    pieces = [written.read([token]) for token in tokens]
    assert text in tokenizer.decode(prompt) + "".join(pieces) == tokenizer.decode(prompt + tokens)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert written.tokens[-len(tokens) :] == tokens
    assert not written.unfinished


def test_what_is_no_text_holds_nothing_up(tokenizer: Any) -> None:
    """Special tokens, and bytes that are no character."""
    start = encoded(tokenizer, "漢")[-3:-2]
    written = TokenText(tokenizer, [])
    words = encoded(tokenizer, "over")
    assert written.read([tokenizer.eos_token_id, *words]).strip() == "over"
    assert not written.read(start)
    assert written.unfinished == start
    assert "over" in written.read([*start * 6, *words])
    assert not written.unfinished


@pytest.mark.parametrize("text", TEXTS)
def test_words_are_spelt_as_they_would_be_there(tokenizer: Any, text: str) -> None:
    """At each place: the tokens that the tokenizer has for the rest of the text."""
    tokens = encoded(tokenizer, "Well. " + text)
    same = places = 0
    for place in range(4, len(tokens) - 1):
        written = TokenText(tokenizer, [])
        written.read(tokens[:place])
        if not written.unfinished:
            rest = TokenText(tokenizer, tokens[:place]).read(tokens[place:])
            spelt = written.spell(rest)
            assert TokenText(tokenizer, tokens[:place]).read(spelt) == rest
            same, places = same + (spelt == tokens[place:]), places + 1
    assert same >= 0.9 * places > 10


def test_what_is_rewritten_is_spelt_as_a_whole(tokenizer: Any) -> None:
    generator = random.Random(2)
    written = TokenText(tokenizer, encoded(tokenizer, "Say:"))
    text = written.read(encoded(tokenizer, " "))
    kept = []
    for _ in range(200):
        away = min(generator.randrange(4), len(text))
        source = generator.choice(TEXTS)
        begin = generator.randrange(len(source) - 9)
        new = source[begin : begin + generator.randrange(9)]
        before = list(written.tokens)
        kept.append(written.rewrite(away, new))
        text = text[: len(text) - away] + new
        assert written.tokens[: kept[-1]] == before[: kept[-1]]
        assert "".join(written._pieces) == text
        assert len(before) - kept[-1] <= 40
    one = "Said: " + text
    assert abs(len(encoded(tokenizer, one)) - len(written.tokens)) < 0.15 * len(written.tokens)


def test_work_does_not_grow_with_the_text(tokenizer: Any) -> None:
    class Counting:
        """Counts what passes through."""

        def __init__(self) -> None:
            self.work = 0

        def decode(self, tokens: list[int], **options: Any) -> str:
            self.work += len(tokens)
            decoded: str = tokenizer.decode(tokens, **options)
            return decoded

        def encode(self, text: str, **options: Any) -> list[int]:
            self.work += len(text)
            return encoded(tokenizer, text)

    def work(repeats: int) -> int:
        counting = Counting()
        written = TokenText(counting, [])
        for _ in range(repeats):
            written.read(encoded(tokenizer, TEXTS[0]))
            written.rewrite(5, " pier again")
        return counting.work

    assert work(40) < 4.5 * work(10)


def test_tokenizers_that_understand_each_other() -> None:
    level, fallback = KINDS.values()
    assert translation_fault(level, fallback) is None
    assert translation_fault(fallback, level) is None
    assert translation_fault(level, runs_of_letters("ab")) is not None
