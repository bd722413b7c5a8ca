"""The decoding loop on tiny models: the text of the target alone, whatever is drafted."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynflow.speculation.draft_model import DraftModel
from dynflow.speculation.drafters import FirstLookup, NgramCache, PromptLookup, Proposal
from tests.speculation.tiny import VOCABULARY, Tokens, generate, speculating, tiny_llama

SOAK = bool(os.environ.get("DYNFLOW_SOAK"))


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_llama()


def prompts(count: int) -> list[list[int]]:
    generator = random.Random(5)
    return [[generator.randrange(VOCABULARY - 1) for _ in range(generator.randint(1, 20))] for _ in range(count)]


class Wrong:
    """Drafts what is hardly ever right."""

    name = option = "prompt_lookup"
    free = True

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        return Proposal([(tokens[-1] + 5) % VOCABULARY] * limit, evidence=20)


def test_greedy_text_is_that_of_the_target_alone(llama: Any) -> None:
    past = NgramCache()
    small = tiny_llama(1, hidden=8)
    accepted = 0
    count = 200 if SOAK else 20
    for index, prompt in enumerate(prompts(count)):
        drafters = [[PromptLookup()], [past, PromptLookup()], [DraftModel(small, VOCABULARY, None, lambda: True)]]
        decoding = speculating([*drafters[index % 3], *([Wrong()] if index % 5 == 1 else [])], writer := Tokens())
        plain = generate(llama, prompt, max_new_tokens=20)
        assert generate(llama, prompt, decoding, max_new_tokens=20) == plain
        assert [token for tokens, _ in writer.runs for token in tokens] == plain
        told = decoding.statistics()
        assert sum(len(tokens) for tokens, drafted in writer.runs if drafted) == told.accepted
        assert (told.tokens, told.exactness, told.dtype) == (len(plain), "exact_greedy", "float32")
        assert told.fallback is None
        accepted += told.accepted
        past.learn(plain)
    assert accepted > 4 * count / 3


@pytest.mark.parametrize("options", [{"temperature": 0.8}, {"temperature": 1.3, "top_p": 0.9}, {"top_k": 5}])
def test_seeded_samples_are_those_of_the_target_alone(llama: Any, options: dict[str, Any]) -> None:
    import torch

    accepted = 0
    for prompt in prompts(15):
        texts = []
        for decoding in (None, speculating([PromptLookup()])):
            torch.manual_seed(3)
            texts.append(generate(llama, prompt, decoding, do_sample=True, **options))
        assert texts[0] == texts[1]
        assert decoding is not None
        assert decoding.statistics().exactness == "exact_distribution"
        accepted += decoding.statistics().accepted
    assert accepted > 15


def test_processors_see_the_text_that_they_would_see(llama: Any) -> None:
    for prompt in prompts(100 if SOAK else 10):
        options = {"repetition_penalty": 1.2, "no_repeat_ngram_size": 5}
        assert generate(llama, prompt, speculating([PromptLookup()]), **options) == generate(llama, prompt, **options)


def test_an_answer_ends_where_it_would(llama: Any) -> None:
    ends = set()
    for prompt in prompts(150 if SOAK else 15):
        for options in ({"max_new_tokens": 1}, {"max_new_tokens": 7}, {"eos_token_id": [3, 11]}):
            plain = generate(llama, prompt, **options)
            decoding = speculating([PromptLookup()])
            assert generate(llama, prompt, decoding, **options) == plain
            assert decoding.statistics().tokens == len(plain)
            ends.add(plain[-1])
    assert 3 in ends


def test_a_draft_model_that_is_the_target_is_always_right(llama: Any) -> None:
    decoding = speculating([DraftModel(llama, VOCABULARY, None, lambda: True)])
    plain = generate(llama, prompts(1)[0], eos_token_id=None)
    assert generate(llama, prompts(1)[0], decoding, eos_token_id=None) == plain
    told = decoding.statistics()
    assert told.accepted == told.drafted > 20
    assert told.drafters == ("draft_model",)
    assert told.passes < 8


def test_a_draft_model_whose_text_is_taken_back_reads_the_last_token_again(llama: Any) -> None:
    drafter = DraftModel(llama, VOCABULARY, None, lambda: True)
    expected = drafter.draft([1, 2, 3], 4).tokens
    drafter.draft([1, 2, 3, 4, 5], 4)
    drafter.draft([1, 2, 3, 4, 5, 6], 4)
    drafter.forget(3)
    assert drafter.draft([1, 2, 3], 4).tokens == expected


def test_who_had_nothing_to_say_did_not_draft(llama: Any) -> None:
    class Silent(DraftModel):
        def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
            return Proposal()

    decoding = speculating([Silent(llama, VOCABULARY, None, lambda: True)])
    generate(llama, prompts(1)[0], decoding)
    assert decoding.statistics().drafters == ()


def test_who_drafted_is_told_as_options_name_it(llama: Any) -> None:
    decoding = speculating([FirstLookup()])
    generate(llama, prompts(1)[0] * 2, decoding)
    assert decoding.statistics().drafters == ("prompt_lookup",)


def test_a_drafter_that_fails_is_left_out(llama: Any) -> None:
    class Broken(PromptLookup):
        def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
            raise RuntimeError("no luck")

    decoding = speculating([Broken()])
    assert generate(llama, prompts(1)[0], decoding) == generate(llama, prompts(1)[0])
    assert decoding.statistics().fallback == "prompt_lookup failed: no luck"


@pytest.mark.parametrize("drafting", ["model", "lookup"])
def test_cancelling_stops_within_one_pass(llama: Any, drafting: str) -> None:
    small = tiny_llama(1, hidden=8)
    passes, wanted, most = [], [True], 9
    for model in (llama, small):
        forward = model.forward

        def counting(*args: Any, _forward: Any = forward, **kwargs: Any) -> Any:
            passes.append(kwargs["input_ids"].shape[1])
            wanted[0] = len(passes) < most
            return _forward(*args, **kwargs)

        model.forward = counting
    drafter = PromptLookup() if drafting == "lookup" else DraftModel(small, VOCABULARY, None, lambda: wanted[0])
    try:
        generate(llama, prompts(1)[0], speculating([drafter], wanted=lambda: wanted[0]), eos_token_id=None)
    finally:
        del llama.forward
    assert len(passes) == most


def test_memory_returns_to_its_level(llama: Any) -> None:
    past = NgramCache(size=100)

    def alive() -> int:
        gc.collect()
        return len(gc.get_objects())

    def request(index: int) -> None:
        past.learn(generate(llama, [index % 7, index % 3, 1], speculating([past, PromptLookup()]), max_new_tokens=6))

    for index in range(30):
        request(index)
    level = alive()
    for index in range(500 if SOAK else 50):
        request(index)
    assert alive() <= level + 50
    assert len(past) <= 100
