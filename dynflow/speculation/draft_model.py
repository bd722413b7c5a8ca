"""A small model that drafts for a large one with the same tokenizer (needs torch and transformers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from dynflow.speculation.drafters import Proposal
from dynflow.speculation.verification import draw


class DraftModel:
    """Writes drafts with its own key-value cache, greedily or drawn at a temperature. One per request.

    `vocabulary`: how many logits the target has; the draft model's are cut, or filled up with impossible tokens.
    `wanted` is asked before each pass: where it says no, the draft ends there.
    """

    name = option = "draft_model"
    free = False

    def __init__(self, model: Any, vocabulary: int, temperature: float | None, wanted: Callable[[], bool]) -> None:
        """`temperature` None: greedy."""
        self._model, self._vocabulary, self._temperature, self._wanted = model, vocabulary, temperature, wanted
        self._cache = DynamicCache(config=model.config)
        self._read: list[int] = []  # what the cache holds
        self._certain = 0  # tokens at its beginning that the text is known to have

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        same = self._certain
        while same < min(len(self._read), len(tokens) - 1) and self._read[same] == tokens[same]:
            same += 1
        if len(self._read) > same:
            self._cache.crop(same - len(self._read))
            del self._read[same:]
        self._certain = same
        drafted: list[int] = []
        drawn_from: list[torch.Tensor] = []
        new = list(tokens[same:])
        with torch.no_grad():
            while len(drafted) < limit and self._wanted():
                ids = torch.tensor([new], device=self._model.device)
                logits = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True).logits
                self._read += new
                last = self._fitted(logits[0, -1].float())
                if self._temperature is None:
                    new = [int(last.argmax())]
                else:
                    drawn_from.append((last / self._temperature).softmax(dim=-1))
                    new = [draw(drawn_from[-1][None])]
                drafted += new
        return Proposal(drafted, distributions=torch.stack(drawn_from) if drawn_from else None)

    def _fitted(self, logits: torch.Tensor) -> torch.Tensor:
        missing = self._vocabulary - len(logits)
        return torch.nn.functional.pad(logits[: self._vocabulary], (0, max(missing, 0)), value=-torch.inf)


def cache_fault(model: Any) -> str | None:
    """Why drafts cannot be taken back from this model's cache, if so: only plain key-value caches can be cropped."""
    from transformers.cache_utils import DynamicLayer

    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
    if (kind := model.generation_config.cache_implementation) not in (None, "dynamic", "dynamic_full"):
        return f"its generation settings ask for a cache that cannot be cropped (cache_implementation: {kind})"
    if getattr(model, "_is_stateful", False):
        return "it keeps a state that cannot be taken back (state space or recurrent layers)"
    kinds = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers} - {DynamicLayer.__name__}
    return f"its cache has layers that cannot be cropped ({', '.join(sorted(kinds))})" if kinds else None


def pair_fault(target: Any, draft: Any, target_tokenizer: Any, draft_tokenizer: Any) -> str | None:
    """Why `draft` cannot draft for `target`, if so."""
    if (fault := cache_fault(draft)) is not None:
        return fault
    sizes = draft.num_parameters(), target.num_parameters()
    if sizes[0] >= sizes[1]:
        return f"it is no smaller than the target ({sizes[0]:,} weights against {sizes[1]:,})"
    if target_tokenizer.get_vocab() != draft_tokenizer.get_vocab():
        return "its tokenizer is not the target's: drafting across tokenizers is not supported"
    return None
