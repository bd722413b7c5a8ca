"""Sampling with drafts is exact in distribution: chi-square on the first, second and fifth token.

The target is a Markov chain over twelve tokens, so that the exact distribution of every token is known, and each test
has a negative control: the same draws with a rule that is nearly right, which the same test must refuse.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from scipy.stats import chisquare

from dynflow.speculation.draft_model import DraftModel
from dynflow.speculation.drafters import Drafter, PromptLookup, Proposal
from dynflow.speculation.early_exit import EarlyExit, first_layers
from dynflow.speculation.token_text import TokenText
from dynflow.speculation.translated_draft import TranslatedDraft
from dynflow.speculation.verification import verify
from tests.speculation.tiny import VOCABULARY, generate, speculating, tiny_llama
from tests.speculation.tiny_tokenizers import runs_of_letters

SOAK = bool(os.environ.get("DYNFLOW_SOAK"))
DRAWS = 20_000 if SOAK else 3_000
PLACES = (0, 1, 4)  # first, second and fifth token
START = 3
Verify = Callable[..., Sequence[int]]


class Chain:
    """Logits of the next token after each token, and their softmax."""

    def __init__(self, seed: int, liked: float = 0.0) -> None:
        self.logits = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        self.logits[:, 5] += liked
        self.next = self.logits.softmax(dim=-1)

    def expected(self, place: int) -> Any:
        """Exact distribution of the token at a place of a text after START."""
        distribution = torch.eye(VOCABULARY, dtype=torch.float64)[START]
        for _ in range(place + 1):
            distribution = distribution @ self.next.double()
        return (distribution / distribution.sum()).numpy()


TARGET, DRAFT = Chain(0), Chain(1, liked=2.0)


def looked_up(text: list[int]) -> Proposal:
    """Three tokens that nobody drew, as a lookup gives them."""
    return Proposal([5, 7, 5])


def drawn(text: list[int]) -> Proposal:
    """Two tokens drawn from another chain."""
    first = int(torch.multinomial(DRAFT.next[text[-1]], 1))
    second = int(torch.multinomial(DRAFT.next[first], 1))
    return Proposal([first, second], distributions=DRAFT.next[[text[-1], first]])


@cache
def _pair() -> tuple[Any, Any, Any]:
    """Tokenizers of a target and of a draft model whose tokens are runs of the target's, and that model."""
    other = runs_of_letters("fh", "bc", "fhf", "dd", "lf", "aa")
    return runs_of_letters(), other, tiny_llama(2, hidden=8, vocab_size=len(other))


def translating(prompt: Sequence[int]) -> TranslatedDraft:
    """Drafts across tokenizers."""
    target, other, small = _pair()
    theirs = TokenText(other, other.encode(target.decode(prompt)))
    return TranslatedDraft(DraftModel(small, len(other), None, lambda: True), TokenText(target, prompt), theirs)


def translated(text: list[int]) -> Proposal:
    """What that model says after a token, which nobody drew."""
    return _translated(text[-1])


@cache
def _translated(token: int) -> Proposal:
    return translating([START]).draft([START, token], 3)


def careless(logits: Any, ids: Any, proposal: Proposal, processors: Any, sample: bool) -> list[int]:
    """Redraws from the target itself after a rejection, in place of what remains of it without the draft."""
    written: list[int] = []
    for index, token in enumerate(proposal.tokens):
        target = logits[index].softmax(dim=-1)
        certain = 1.0 if proposal.distributions is None else float(proposal.distributions[index, token])
        taken = float(torch.rand(())) * certain < float(target[token])
        written.append(token if taken else int(torch.multinomial(target, 1)))
        if not taken:
            return written
    return [*written, int(torch.multinomial(logits[-1].softmax(dim=-1), 1))]


def p_values(drafter: Callable[[list[int]], Proposal], rule: Verify, draws: int) -> list[float]:
    """Of the chi-square test at each place."""
    counts = torch.zeros(len(PLACES), VOCABULARY)
    ids = torch.tensor([[START]])
    for _ in range(draws):
        text = [START]
        while len(text) <= PLACES[-1] + 1:
            proposal = drafter(text)
            text += rule(TARGET.logits[[text[-1], *proposal.tokens]], ids, proposal, [], True)
        for row, place in enumerate(PLACES):
            counts[row, text[place + 1]] += 1
    return [
        float(chisquare(counts[row].numpy(), TARGET.expected(place) * draws).pvalue) for row, place in enumerate(PLACES)
    ]


@pytest.mark.parametrize("drafter", [looked_up, drawn, translated])
def test_the_distribution_is_the_targets(drafter: Callable[[list[int]], Proposal]) -> None:
    torch.manual_seed(11)
    assert min(p_values(drafter, verify, DRAWS)) > 1e-6


@pytest.mark.parametrize("drafter", [looked_up, drawn, translated])
def test_a_rule_that_is_nearly_right_is_found_out(drafter: Callable[[list[int]], Proposal]) -> None:
    torch.manual_seed(12)
    assert max(p_values(drafter, careless, DRAWS)) < 1e-9


def test_distributions_that_differ_by_rounding_alone() -> None:
    """Nothing may remain of the target without the draft: then the target's own is drawn from."""
    target = TARGET.next[0]
    proposal = Proposal([4], distributions=target[None] * 1.5)
    logits = target.log().repeat(2, 1)
    for _ in range(50):
        assert len(verify(logits, torch.tensor([[START]]), proposal, [], True)) in (1, 2)


@pytest.mark.parametrize("drafter", ["lookup", "model", "translated", "early_exit"])
def test_through_the_whole_loop(drafter: str) -> None:
    """With a random Llama; the exact distributions by going through all 12^4 texts."""
    layers = 2 if drafter == "early_exit" else 1
    model, small, prompt = tiny_llama(layers=layers), tiny_llama(1, hidden=8), [1, 2, 3, 1, 2]
    draws = DRAWS if SOAK else 100
    counts = torch.zeros(len(PLACES), VOCABULARY)
    torch.manual_seed(13)
    first = first_layers(model, 1) if layers > 1 else None
    drafting: dict[str, Callable[[], Drafter]] = {
        "lookup": PromptLookup,
        "model": lambda: DraftModel(small, VOCABULARY, 1.0, lambda: True),
        "translated": lambda: translating(prompt),
        "early_exit": lambda: EarlyExit(first, 1.0, lambda: True),
    }
    for _ in range(draws):
        used = drafting[drafter]()
        answer = generate(
            model, prompt, speculating([used], longest=3), do_sample=True, top_k=0, max_new_tokens=5, eos_token_id=None
        )
        for row, place in enumerate(PLACES):
            counts[row, answer[place]] += 1
    for row, place in enumerate(PLACES):
        expected = _expected(model, prompt, place)
        assert chisquare(counts[row].numpy(), expected * draws).pvalue > 1e-6


def _expected(model: Any, prompt: list[int], place: int) -> Any:
    """Exact distribution of the answer's token at a place."""
    texts, weights = torch.tensor([prompt]), torch.ones(1, dtype=torch.float64)
    for step in range(place + 1):
        with torch.no_grad():
            following = model(input_ids=texts).logits[:, -1].double().softmax(dim=-1)
        if step == place:
            distribution = weights @ following
            return (distribution / distribution.sum()).numpy()
        tokens = torch.arange(VOCABULARY).repeat(len(texts))[:, None]
        texts = torch.cat([texts.repeat_interleave(VOCABULARY, dim=0), tokens], dim=1)
        weights = (weights[:, None] * following).flatten()
    raise AssertionError
