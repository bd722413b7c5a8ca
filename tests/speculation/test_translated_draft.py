"""Drafts across tokenizers: what another model would say, in the target's own tokens; and the text is the target's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynflow.speculation.draft_model import DraftModel
from dynflow.speculation.drafters import Proposal
from dynflow.speculation.token_text import TokenText
from dynflow.speculation.translated_draft import TranslatedDraft
from tests.speculation.tiny import generate, speculating, tiny_llama
from tests.speculation.tiny_tokenizers import TEXTS, byte_fallback, byte_level

PAIRS = {"level": (byte_level(), byte_fallback()), "fallback": (byte_fallback(), byte_level())}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Any:
    """Tokenizers of target and draft."""
    return PAIRS[request.param]


class Knows(DraftModel):
    """A draft model that knows a text by heart; after words that are not from there, it knows nothing."""

    def __init__(self, tokenizer: Any, text: str) -> None:
        self._tokenizer, self._text, self.read, self._certain = tokenizer, text, 0, 0

    def forget(self, certain: int) -> None:
        self._certain = min(self._certain, certain)

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        self.read += len(tokens) - self._certain
        self._certain = len(tokens)
        said = self._tokenizer.decode(tokens, skip_special_tokens=True).lstrip(" ")
        if not self._text.startswith(said):
            return Proposal()
        known = TokenText(self._tokenizer, [])
        known.read(tokens)
        rest = [*known.spell(self._text[len(said) :]), self._tokenizer.eos_token_id]
        return Proposal(rest[:limit])


def checked(drafter: TranslatedDraft, prompt: list[int], answer: list[int], limit: int) -> tuple[int, int]:
    """Passes of a target that writes `answer`, and drafted tokens that it took."""
    text, passes, accepted = prompt + answer[:1], 0, 0
    while len(text) < len(prompt) + len(answer):
        rest = answer[len(text) - len(prompt) :]
        proposed = drafter.draft(text, limit).tokens
        assert len(proposed) <= limit
        taken = next(
            (place for place, token in enumerate(proposed) if rest[place : place + 1] != [token]), len(proposed)
        )
        text, passes, accepted = text + rest[: taken + 1], passes + 1, accepted + taken
    return passes, accepted


@pytest.mark.parametrize("limit", [1, 8])
@pytest.mark.parametrize("text", TEXTS)
def test_what_the_draft_knows_comes_in_the_targets_tokens(pair: Any, text: str, limit: int) -> None:
    """Characters that take several tokens, spaces and line ends, the end of the text: nearly every token is right."""
    target, other = pair
    text = text.lstrip(" ") * 2
    answer = [*target.encode(text, add_special_tokens=False), target.eos_token_id]
    model = Knows(other, text)
    ends = (other.eos_token_id,)
    drafter = TranslatedDraft(model, TokenText(target, [1]), TokenText(other, []), ends=ends, end=target.eos_token_id)
    passes, accepted = checked(drafter, [1], answer, limit)
    assert passes + accepted >= len(answer) - 1
    assert passes < 1.35 * len(answer) / (limit + 1) + 2
    assert model.read < 3 * len(answer) + 7 * passes


def test_a_draft_that_is_wrong_is_taken_back(pair: Any) -> None:
    """Where the target wrote otherwise, the draft model reads that."""
    target, other = pair
    drafted = TokenText(other, [])
    drafter = TranslatedDraft(Knows(other, "over the lazy dog"), TokenText(target, []), drafted)
    words = target.encode("over", add_special_tokens=False)
    assert drafter.draft(words, 8).tokens
    words += target.encode("\nafter a crane", add_special_tokens=False)
    assert not drafter.draft(words, 8).tokens
    assert other.decode(drafted.tokens).strip() == target.decode(words).strip()


@cache
def models(target: int, other: int) -> tuple[Any, Any]:
    """Tiny models of two vocabularies."""
    return (
        tiny_llama(vocab_size=target, eos_token_id=None, pad_token_id=0),
        tiny_llama(1, hidden=8, vocab_size=other, eos_token_id=None, pad_token_id=0),
    )


def translated(pair: Any, small: Any, prompt: list[int], wanted: Any = lambda: True) -> TranslatedDraft:
    target, other = pair
    ends = (other.eos_token_id,)
    model = DraftModel(small, small.config.vocab_size, None, wanted, ends)
    theirs = other.encode(target.decode(prompt, skip_special_tokens=True))
    return TranslatedDraft(model, TokenText(target, prompt), TokenText(other, theirs), ends, target.eos_token_id)


def test_greedy_text_is_that_of_the_target_alone(pair: Any) -> None:
    """Whatever random models say: broken characters, special tokens, all of it."""
    target, other = pair
    model, small = models(len(target), len(other))
    drafted = 0
    for text in TEXTS:
        prompt = target.encode(text[:20])
        plain = generate(model, prompt, max_new_tokens=24)
        decoding = speculating([translated(pair, small, prompt)])
        assert generate(model, prompt, decoding, max_new_tokens=24) == plain
        assert decoding.statistics().fallback is None
        drafted += decoding.statistics().drafted
    assert drafted > 20


def test_seeded_samples_are_those_of_the_target_alone(pair: Any) -> None:
    import torch

    target, other = pair
    model, small = models(len(target), len(other))
    prompt = target.encode("after a crane")
    texts = []
    for decoding in (None, speculating([translated(pair, small, prompt)])):
        torch.manual_seed(3)
        texts.append(generate(model, prompt, decoding, do_sample=True, max_new_tokens=24))
    assert texts[0] == texts[1]


def test_the_draft_model_reads_no_further_than_it_can(pair: Any) -> None:
    target, other = pair
    model, _ = models(len(target), len(other))
    small = tiny_llama(
        1, hidden=8, vocab_size=len(other), eos_token_id=None, pad_token_id=0, max_position_embeddings=30
    )
    prompt = target.encode("after a crane")
    decoding = speculating([translated(pair, small, prompt)])
    assert generate(model, prompt, decoding, max_new_tokens=60) == generate(model, prompt, max_new_tokens=60)
    assert decoding.statistics().fallback is None


def test_nobody_drafts_who_is_not_wanted(pair: Any) -> None:
    target, other = pair
    _, small = models(len(target), len(other))
    prompt = target.encode("after a crane")
    assert not translated(pair, small, prompt, lambda: False).draft([*prompt, prompt[0]], 5).tokens
