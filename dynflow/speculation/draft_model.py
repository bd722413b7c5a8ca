"""A small model that drafts for a large one (needs torch and transformers)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Any

import torch
from transformers import DynamicCache

from dynflow.speculation.drafters import Proposal
from dynflow.speculation.token_text import translation_fault
from dynflow.speculation.verification import draw


class DraftModel:
    """Writes drafts with its own key-value cache, greedily or drawn at a temperature. One per request.

    `vocabulary`: how many logits the target has; the draft model's are cut, or filled up with impossible tokens.
    `wanted` is asked before each pass: where it says no, the draft ends there, as it does after a token of `ends`, and
    where the model's positions end.
    """

    name = option = "draft_model"
    free = False

    def __init__(
        self,
        model: Any,
        vocabulary: int,
        temperature: float | None,
        wanted: Callable[[], bool],
        ends: Collection[int] = (),
    ) -> None:
        """`temperature` None: greedy."""
        self._model, self._vocabulary, self._temperature, self._wanted = model, vocabulary, temperature, wanted
        self._ends, self._positions = ends, getattr(model.config, "max_position_embeddings", None) or inf
        self._cache = DynamicCache(config=model.config)
        self._read: list[int] = []  # what the cache holds
        self._certain = 0  # tokens at its beginning that the text is known to have

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        known = min(len(self._read), len(tokens) - 1)  # the last one is read again: what follows it is asked for
        same = min(self._certain, known)
        while same < known and self._read[same] == tokens[same]:
            same += 1
        if len(self._read) > same:
            self._cache.crop(same - len(self._read))
            del self._read[same:]
        self._certain = same
        proposal = write_on(
            self._model,
            self._cache,
            tokens[same:],
            min(limit, self._positions - len(tokens)),
            self._temperature,
            self._wanted,
            self._vocabulary,
            self._ends,
        )
        if proposal.tokens:
            self._read += [*tokens[same:], *proposal.tokens[:-1]]
        return proposal

    def forget(self, certain: int) -> None:
        """The text will not go on as it did: only so many of its first tokens are certain to stay."""
        self._certain = min(self._certain, certain)


def write_on(
    model: Any,
    cache: Any,
    new: Sequence[int],
    limit: float,
    temperature: float | None,
    wanted: Callable[[], bool],
    vocabulary: int | None = None,
    ends: Collection[int] = (),
) -> Proposal:
    """At most `limit` tokens that a model writes after `new`, which follow what is in its cache.

    Greedily, or drawn at a temperature: then from as many logits as `vocabulary` says, cut or filled up with impossible
    tokens. The last token is not in the cache afterwards. `wanted` is asked before each pass.
    """
    drafted: list[int] = []
    drawn_from: list[torch.Tensor] = []
    unread = list(new)
    with torch.no_grad():
        while len(drafted) < limit and wanted():
            ids = torch.tensor([unread], device=model.device)
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1].float()
            missing = 0 if vocabulary is None else vocabulary - len(logits)
            fitted = torch.nn.functional.pad(logits[:vocabulary], (0, max(missing, 0)), value=-torch.inf)
            if temperature is None:
                unread = [int(fitted.argmax())]
            else:
                drawn_from.append((fitted / temperature).softmax(dim=-1))
                unread = [draw(drawn_from[-1][None])]
            drafted += unread
            if unread[0] in ends:
                break
    return Proposal(drafted, distributions=torch.stack(drawn_from) if drawn_from else None)


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
    """Why `draft` cannot draft for `target`, if so. A tokenizer other than the target's needs a TranslatedDraft."""
    if (fault := cache_fault(draft)) is not None:
        return fault
    sizes = draft.num_parameters(), target.num_parameters()
    if sizes[0] >= sizes[1]:
        return f"it is no smaller than the target ({sizes[0]:,} weights against {sizes[1]:,})"
    return (
        None if same_tokens(target_tokenizer, draft_tokenizer) else translation_fault(target_tokenizer, draft_tokenizer)
    )


def same_tokens(tokenizer: Any, other: Any) -> bool:
    """Whether two tokenizers mean the same by each number."""
    return bool(tokenizer.get_vocab() == other.get_vocab())
