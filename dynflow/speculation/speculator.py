"""What a loaded transformers model keeps between the requests that it speculates for (needs torch)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from dynflow.speculation.acceptance import Acceptance
from dynflow.speculation.asked import Asked
from dynflow.speculation.controller import Controller
from dynflow.speculation.costs import Costs, DraftingCosts
from dynflow.speculation.decoding import SpeculativeDecoding, Writer
from dynflow.speculation.drafters import Drafter, FirstLookup, NgramCache, PromptLookup
from dynflow.speculation.early_exit import first_layers, foreseen
from dynflow.speculation.exit_depth import Depth, best, depth_fault, depths
from dynflow.speculation.suffix_automaton import SuffixAutomaton

_MOST = 16  # tokens of a draft, unless asked otherwise
_SIZES = (1, 2, 3, 5, 9, 17, 33)  # tokens of the passes that are timed at first
_ROUNDS, _PATIENCE = 3, 2.0  # how often; seconds after which a large model's are enough
_WINDOW = 400  # tries that tell of a flow
_FLOWS = 64  # remembered; those not asked for longest are forgotten first


@dataclass(frozen=True)
class _Flow:
    """What the requests of one flow taught."""

    acceptance: Acceptance = field(default_factory=lambda: Acceptance(_WINDOW))
    drafting: DraftingCosts = field(default_factory=DraftingCosts)
    ngrams: NgramCache = field(default_factory=NgramCache)


class Speculator:
    """Costs of passes, acceptance so far and n-grams of past answers; makes each request's decoding."""

    def __init__(self, model: Any, costs: Costs | None = None) -> None:
        """`costs`: known already; else they are measured when they are first needed."""
        self._model, self._costs = model, costs
        self._flows: OrderedDict[str, _Flow] = OrderedDict()
        self._exit: Any = None  # the first layers, or why they cannot draft

    def measure(self) -> Costs:
        """Time passes of several sizes, once; the least of some rounds counts, for what disturbs only slows."""
        if self._costs is None:
            self._costs = Costs(_timed(self._model, _SIZES))
        return self._costs

    def first_layers(self, write: Callable[[], Sequence[tuple[Tensor, int]]]) -> Any:
        """The model's own first layers, for drafts by early exit; how many is measured once, and kept.

        `write` gives texts, (1, length), and where what the model wrote itself begins in each. Raises ValueError, with
        the reason, where they agree too little with the whole model to pay.
        """
        if self._exit is None:
            try:
                self._exit = self._chosen_layers(write)
            except ValueError as error:
                self._exit = str(error)
        if isinstance(self._exit, str):
            raise ValueError(self._exit)
        return self._exit

    def _chosen_layers(self, write: Callable[[], Sequence[tuple[Tensor, int]]]) -> Any:
        total = self._model.config.num_hidden_layers
        layers = {count: first_layers(self._model, count) for count in depths(total)}
        costs, texts = self.measure(), write()
        tried = [
            Depth(
                count,
                sum(foreseen(fewer, text, begin) for text, begin in texts),
                sum(text.shape[1] - begin for text, begin in texts),
                _timed(fewer, (1,))[1],
            )
            for count, fewer in layers.items()
        ]
        if (fault := depth_fault(tried, total, costs)) is not None:
            raise ValueError(fault)
        return layers[best(tried, costs).layers]

    def decoding(
        self,
        asked: Asked,
        writer: Writer,
        wanted: Callable[[], bool],
        further: Sequence[Drafter] = (),
    ) -> SpeculativeDecoding:
        """The decoding of one request. `further`: drafters besides the lookups, for this request alone."""
        flow = self._flow(asked.flow)
        drafters: list[Drafter] = []
        if asked.allows("prompt_lookup"):
            automaton = SuffixAutomaton()
            drafters += [PromptLookup(automaton), FirstLookup(automaton)]
        if asked.allows("ngram_cache"):
            drafters.append(flow.ngrams)
        drafters += [drafter for drafter in further if asked.allows(drafter.option)]
        controller = Controller(self.measure(), flow.acceptance, asked.most or _MOST, flow.drafting)
        return SpeculativeDecoding(drafters, controller, writer, wanted)

    def learn(self, asked: Asked, answer: list[int]) -> None:
        """Take up an answer, where later ones may be drafted from it."""
        if asked.allows("ngram_cache"):
            self._flow(asked.flow).ngrams.learn(answer)

    def _flow(self, name: str) -> _Flow:
        kept = self._flows.setdefault(name, _Flow())
        self._flows.move_to_end(name)
        if len(self._flows) > _FLOWS:
            self._flows.popitem(last=False)
        return kept


def _timed(model: Any, sizes: Sequence[int]) -> dict[int, float]:
    """Seconds of a pass by its number of tokens."""
    measured = dict.fromkeys(sizes, float("inf"))
    cache = DynamicCache(config=model.config)
    started = time.perf_counter()
    with torch.no_grad():
        for round in range(_ROUNDS + 1):
            if round > 1 and time.perf_counter() - started > _PATIENCE:
                break
            for size in sizes:
                ids = torch.zeros((1, size), dtype=torch.long, device=model.device)
                began = time.perf_counter()
                model(input_ids=ids, past_key_values=cache, use_cache=True)
                if round:  # the first one warms up
                    measured[size] = min(measured[size], time.perf_counter() - began)
                cache.crop(-size)
    return measured
