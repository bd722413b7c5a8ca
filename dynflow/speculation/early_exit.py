"""Self-speculation: a model's own first layers draft for all of them (needs torch and transformers).

Elhoushi et al., "LayerSkip", arXiv 2404.16710, §4.3. The norm and output layer after them are the model's own; so is
the cache, which has the first layers' keys and values of the text already, and of a draft while it is being written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import ModuleList
from transformers import DynamicCache

from dynflow.speculation.draft_model import write_on
from dynflow.speculation.drafters import Proposal


class EarlyExit:
    """Drafts by the first layers, greedily or drawn at a temperature. One per request; `share` comes before a draft."""

    name = option = "early_exit"
    free = False

    def __init__(self, layers: Any, temperature: float | None, wanted: Callable[[], bool]) -> None:
        """`layers`: of `first_layers`. `temperature` None: greedy. `wanted` is asked before each pass."""
        self._layers, self._temperature, self._wanted = layers, temperature, wanted
        self._whole: Any = None

    def share(self, cache: Any) -> None:
        """Draft from this cache of the whole model's, which holds the text but for its last token."""
        self._whole = cache

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        cache = DynamicCache()
        cache.layers = layers = self._whole.layers[: self._layers.config.num_hidden_layers]
        known = cache.get_seq_length()
        try:
            return write_on(self._layers, cache, tokens[known:], limit, self._temperature, self._wanted)
        finally:
            for layer in layers:  # a pass that failed may have reached some of them only
                if (new := layer.get_seq_length() - known) > 0:
                    layer.crop(-new)


def first_layers(model: Any, count: int) -> Any:
    """The causal language model that `model` would be with its first `count` layers only; all weights are shared.

    For decoders whose layers are the one list of so many modules in their body, as Llama's, Mistral's, Qwen's, GPT-2's
    and GPT-NeoX's are. Raises ValueError for others, and for a count that leaves no layer out.
    """
    body, total = model.base_model, getattr(model.config, "num_hidden_layers", 0)
    if not 0 < count < total:
        raise ValueError(f"{count} of {total} layers are no early exit")
    config = copy.deepcopy(model.config)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:count]
    config.num_hidden_layers = count
    with torch.device("meta"):
        fewer = type(model)(config)
    lists = [name for name, part in body.named_children() if isinstance(part, ModuleList) and len(part) == total]
    if body is model or len(lists) != 1:
        raise ValueError(f"the layers of a {type(model).__name__} cannot be told from its other parts")
    for name, part in model.named_children():
        if part is not body:
            setattr(fewer, name, part)
    for name, part in body.named_children():
        setattr(fewer.base_model, name, part[:count] if name in lists else part)
    if any(tensor.is_meta for tensor in (*fewer.parameters(), *fewer.buffers())):
        raise ValueError(f"a {type(model).__name__} has weights outside its layers, norms and embeddings")
    return fewer.eval()


def foreseen(layers: Any, text: torch.Tensor, begin: int) -> int:
    """How many tokens of a text (1, length) the likeliest ones of `layers` are, from the token `begin` on."""
    with torch.no_grad():
        likeliest = layers(input_ids=text).logits[0, begin - 1 : -1].argmax(dim=-1)
    return int((likeliest == text[0, begin:]).sum())
