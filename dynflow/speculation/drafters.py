"""Drafters that cost next to nothing: they look up what followed the same tokens before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dynflow.speculation.suffix_automaton import SuffixAutomaton


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tokens that may come next."""

    tokens: Sequence[int] = ()
    evidence: int = 1
    """How much speaks for the first token: for a lookup the tokens that match; each further token has one more."""
    distributions: Any = None
    """Tensor (tokens, vocabulary) of the probabilities they were drawn from; None: nothing was drawn."""


class Drafter(Protocol):
    """Proposes tokens. Options and statistics call it by its `option`, the controller knows it by its `name`; one that
    is `free` is asked at every step."""

    name: str
    option: str
    free: bool

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        """At most `limit` tokens that may follow. Within one request `tokens` only grows."""


class PromptLookup:
    """What followed the longest, most recent match of the text's end in prompt and answer.

    One per request, of its automaton, which `FirstLookup` can share.
    """

    name = option = "prompt_lookup"
    free = True

    def __init__(self, automaton: SuffixAutomaton | None = None) -> None:
        self._automaton = automaton or SuffixAutomaton()

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        self._automaton.read(tokens)
        return Proposal(self._automaton.continuation(self._automaton.match_end, limit), self._automaton.match_length)


class FirstLookup(PromptLookup):
    """What followed the same match's first occurrence: of a fence of code, say, the one that opens it."""

    name = "first_lookup"

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        self._automaton.read(tokens)
        return Proposal(self._automaton.continuation(self._automaton.first_end, limit), self._automaton.match_length)


class NgramCache:
    """What followed the same few tokens in past answers: of the longest of its contexts that was met, the last.

    Holds at most `size` contexts; those not met for longest go first. Shared by the requests of one engine.
    """

    name = option = "ngram_cache"
    free = True
    contexts = (4, 3, 2)
    """Tokens of context, longest first."""

    def __init__(self, size: int = 65_536) -> None:
        self._size = size
        self._next: OrderedDict[tuple[int, ...], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._next)

    def learn(self, tokens: Sequence[int]) -> None:
        """Take up an answer."""
        for context in self.contexts:
            for end in range(context, len(tokens)):
                key = tuple(tokens[end - context : end])
                self._next[key] = tokens[end]
                self._next.move_to_end(key)
        while len(self._next) > self._size:
            self._next.popitem(last=False)

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        recent = list(tokens[-self.contexts[0] :])
        drafted: list[int] = []
        evidence = 0
        while len(drafted) < limit:
            context = next((size for size in self.contexts if tuple(recent[-size:]) in self._next), 0)
            if len(recent) < context or not context:
                break
            evidence = evidence or context
            drafted.append(self._next[tuple(recent[-context:])])
            recent = [*recent, drafted[-1]][-self.contexts[0] :]
        return Proposal(drafted, evidence)
