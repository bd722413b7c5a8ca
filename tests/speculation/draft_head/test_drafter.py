"""A draft head beside its target: which state it starts from, and that what it draws is told as it was drawn."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from scipy.stats import chisquare

from dynflow.errors import ArtefactError
from dynflow.speculation.draft_head.drafter import DraftHead, LoadedHead
from dynflow.speculation.draft_head.last_states import LastStates
from dynflow.speculation.draft_head.network import HeadNetwork, TargetWeights
from tests.speculation.tiny import VOCABULARY, Tokens, generate, speculating, tiny_llama

DRAFTED = torch.tensor([1, 4, 5, 7, 9])
DRAWS = 3_000 if os.environ.get("DYNFLOW_SOAK") else 300


@cache
def beside(model: Any) -> LoadedHead:
    torch.manual_seed(5)
    network = HeadNetwork(16, 8)
    for weight in network.parameters():
        weight.data *= 2
    return LoadedHead(network.eval(), TargetWeights(model, DRAFTED), LastStates(model))


@cache
def target() -> Any:
    return tiny_llama()


def test_what_it_draws_is_told_as_it_was_drawn() -> None:
    """`verify` is exact for drafts that are: chi-square, with the even distribution as negative control."""
    model, head = target(), beside(target())
    model(torch.tensor([[3]]))
    torch.manual_seed(13)
    drawn = [DraftHead(head, VOCABULARY, 8.0).draft([3, 5], 2) for _ in range(DRAWS)]
    outside = torch.ones(VOCABULARY, dtype=torch.bool).index_fill(0, DRAFTED, False)
    for place in range(2):
        counts: dict[int, Counter[int]] = {}
        told: dict[int, torch.Tensor] = {}
        for proposal in drawn:
            before = proposal.tokens[0] if place else 5
            counts.setdefault(before, Counter())[proposal.tokens[place]] += 1
            told[before] = proposal.distributions[place]
            assert not told[before][outside].any()
        likeliest = max(counts, key=lambda token: counts[token].total())
        seen = torch.tensor([counts[likeliest][token] for token in DRAFTED.tolist()])
        chances = told[likeliest][DRAFTED].double()
        assert chisquare(seen, chances / chances.sum() * seen.sum()).pvalue > 1e-6
        assert chisquare(seen).pvalue < 1e-9


def test_it_starts_from_the_state_that_said_the_last_token() -> None:
    model = target()
    states = beside(model).states
    text = [0, 1, 2, 3, 4, 5]
    with torch.no_grad():
        cache = model(torch.tensor([text]), use_cache=True).past_key_values
        whole = model.model(torch.tensor([text])).last_hidden_state[0]
        cache.crop(-2)
        model(torch.tensor([[4, 5]]), past_key_values=cache, use_cache=True)
    for length in (6, 7):  # the token after 4, or after 5
        state = states.before(length)
        assert torch.allclose(state, whole[length - 2], atol=1e-5)
    for length in (5, 8):  # not of this pass
        assert states.before(length) is None
    assert DraftHead(beside(model), VOCABULARY, None).draft(text[:5], 3).tokens == ()


def test_another_threads_passes_are_not_its_own() -> None:
    """A model that has a head may draft for a larger one too, in that one's thread."""
    model = target()
    states = beside(model).states
    model(torch.tensor([[1, 2, 3]]))
    seen = states.states.clone()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: states.before(4)).result() is None
        pool.submit(model, torch.tensor([[4, 5, 6, 7]])).result()
    assert torch.equal(states.states, seen)


def test_greedy_text_is_the_plain_one_however_bad_the_head_is() -> None:
    model = target()
    drafted = 0
    for prompt in ([0, 1, 2], [7], [3, 3, 3, 3]):
        decoding = speculating([DraftHead(beside(model), VOCABULARY, None)], Tokens())
        assert generate(model, prompt, decoding) == generate(model, prompt)
        drafted += decoding.statistics().drafted
    assert drafted > 0


def test_no_token_is_drafted_that_nobody_wants() -> None:
    model, head = target(), beside(target())
    model(torch.tensor([[0, 1, 2]]))
    wanted = iter([True, True, False])
    proposal = DraftHead(head, VOCABULARY, None, lambda: next(wanted)).draft([0, 1, 2, 3], 5)
    assert len(proposal.tokens) == 2


def test_a_model_without_a_body_is_refused() -> None:
    with pytest.raises(ArtefactError, match="has no body of its own"):
        LastStates(target().model)
