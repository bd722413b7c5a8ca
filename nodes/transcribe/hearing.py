"""A Whisper decoder that hears one window of sound, in the form of a causal language model (needs torch).

So all of `dynflow.speculation`, which drafts for such models and verifies with them, serves for Whisper as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from transformers import DynamicCache, EncoderDecoderCache


class Listener:
    """Called as a causal language model is. The sound is encoded once, at the first call; so are the keys and values
    of cross attention. The cache that a caller brings is that of self attention, and may be cropped."""

    def __init__(self, model: Any, encode: Callable[[], Any]) -> None:
        """`encode` gives the encoder's output for the window."""
        self._model, self._encode = model, encode
        self._cross = DynamicCache()
        self.config, self.device, self.dtype = model.config, model.device, model.dtype

    @cached_property
    def _encoded(self) -> Any:
        return self._encode()

    def hear(self) -> None:
        """Encode the sound now, if it was not yet."""
        self._encoded  # noqa: B018

    def attend(self, input_ids: Any) -> None:
        """Make the keys and values of cross attention now, in a pass over a token or more, (1, tokens)."""
        self(input_ids=input_ids, past_key_values=DynamicCache(), use_cache=True)

    def __call__(self, input_ids: Any, past_key_values: Any, **options: Any) -> Any:
        """The model's output for some more tokens, (1, tokens)."""
        cache = EncoderDecoderCache(past_key_values, self._cross)
        return self._model(decoder_input_ids=input_ids, encoder_outputs=self._encoded, past_key_values=cache, **options)


def pair_fault(target: Any, draft: Any, target_tokenizer: Any, draft_tokenizer: Any) -> str | None:
    """Why the Whisper `draft` cannot draft for the Whisper `target`, if so."""
    sizes = draft.num_parameters(), target.num_parameters()
    if sizes[0] >= sizes[1]:
        return f"it is no smaller than the target ({sizes[0]:,} weights against {sizes[1]:,})"
    if target_tokenizer.get_vocab() != draft_tokenizer.get_vocab():
        return "its tokenizer is not the target's: English-only models draft for such, and v3's for v3's"
    for name, what in (("num_mel_bins", "mel bands"), ("max_source_positions", "positions of sound")):
        theirs, ours = getattr(draft.config, name), getattr(target.config, name)
        if theirs != ours:
            return f"it hears {theirs} {what}, and the target {ours}"
    if draft.config.max_target_positions < target.config.max_target_positions:
        return (
            f"it reads {draft.config.max_target_positions} tokens, and the target {target.config.max_target_positions}"
        )
    return None


def same_encoder(target: Any, draft: Any) -> bool:
    """Whether two models hear alike, as a distilled one and its teacher do: then one of their encoders is enough."""
    ours, theirs = target.get_encoder().state_dict(), draft.get_encoder().state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape and bool((ours[name] == theirs[name]).all()) for name in ours
    )
