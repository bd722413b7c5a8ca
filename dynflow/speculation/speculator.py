"""What a loaded transformers model keeps between the requests that it speculates for (needs torch)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from dynflow.speculation.acceptance import Acceptance
from dynflow.speculation.asked import Asked
from dynflow.speculation.controller import Controller
from dynflow.speculation.costs import Costs
from dynflow.speculation.decoding import SpeculativeDecoding, Writer
from dynflow.speculation.draft_model import DraftModel
from dynflow.speculation.drafters import Drafter, FirstLookup, NgramCache, PromptLookup
from dynflow.speculation.suffix_automaton import SuffixAutomaton

_MOST = 16  # tokens of a draft, unless asked otherwise
_SIZES = (1, 2, 3, 5, 9, 17, 33)  # tokens of the passes that are timed at first
_ROUNDS, _PATIENCE = 3, 2.0  # how often; seconds after which a large model's are enough
_WINDOW = 400  # tries that tell of a flow
_FLOWS = 64  # remembered; those not asked for longest are forgotten first


class Speculator:
    """Costs of passes, acceptance so far and n-grams of past answers; makes each request's decoding."""

    def __init__(self, model: Any, costs: Costs | None = None) -> None:
        """`costs`: known already; else they are measured when they are first needed."""
        self._model, self._costs = model, costs
        self._flows: OrderedDict[str, tuple[Acceptance, NgramCache]] = OrderedDict()

    def measure(self) -> Costs:
        """Time passes of several sizes, once; the least of some rounds counts, for what disturbs only slows."""
        if self._costs is None:
            measured = dict.fromkeys(_SIZES, float("inf"))
            cache = DynamicCache(config=self._model.config)
            with torch.no_grad():
                started = time.perf_counter()
                for round in range(_ROUNDS + 1):
                    if round > 1 and time.perf_counter() - started > _PATIENCE:
                        break
                    for size in _SIZES:
                        ids = torch.zeros((1, size), dtype=torch.long, device=self._model.device)
                        began = time.perf_counter()
                        self._model(input_ids=ids, past_key_values=cache, use_cache=True)
                        if round:  # the first one warms up
                            measured[size] = min(measured[size], time.perf_counter() - began)
                        cache.crop(-size)
            self._costs = Costs(measured)
        return self._costs

    def decoding(
        self,
        asked: Asked,
        writer: Writer,
        wanted: Callable[[], bool],
        draft: Any = None,
        temperature: float | None = None,
    ) -> SpeculativeDecoding:
        """The decoding of one request. `draft`: a model that may draft, at a `temperature`, or (None) its likeliest."""
        acceptance, ngrams = self._flow(asked.flow)
        drafters: list[Drafter] = []
        if asked.allows("prompt_lookup"):
            automaton = SuffixAutomaton()
            drafters += [PromptLookup(automaton), FirstLookup(automaton)]
        if asked.allows("ngram_cache"):
            drafters.append(ngrams)
        if draft is not None and asked.allows("draft_model"):
            drafters.append(DraftModel(draft, self._model.config.vocab_size, temperature, wanted))
        controller = Controller(self.measure(), acceptance, asked.most or _MOST)
        return SpeculativeDecoding(drafters, controller, writer, wanted)

    def learn(self, asked: Asked, answer: list[int]) -> None:
        """Take up an answer, where later ones may be drafted from it."""
        if asked.allows("ngram_cache"):
            self._flow(asked.flow)[1].learn(answer)

    def _flow(self, name: str) -> tuple[Acceptance, NgramCache]:
        kept = self._flows.setdefault(name, (Acceptance(_WINDOW), NgramCache()))
        self._flows.move_to_end(name)
        if len(self._flows) > _FLOWS:
            self._flows.popitem(last=False)
        return kept
