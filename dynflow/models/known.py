"""What is known of a model before it is called: its price and what it can take."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dynflow.models.embedded import MODELS
from dynflow.models.settings import Capabilities, ModelSettings, Price

_LOCAL = frozenset({"llama_cpp", "transformers", "ollama", "encoder", "diffusers"})
_PRICE_LIST = "model_prices_and_context_window_backup.json"


@dataclass(frozen=True)
class Known:
    """`price` None: unknown, so a money limit cannot be kept. A capability None: unknown, so it closes no edge."""

    price: Price | None
    capabilities: Capabilities


def known(settings: ModelSettings) -> Known:
    """Price and capabilities: what the settings say, else the embedded model's, else litellm's bundled price list.

    Local models cost nothing unless the settings give a price. litellm is not imported: its list is read as a file.
    """
    entry = _listed(settings.model) if settings.provider == "litellm" else {}
    price = settings.price or (Price() if settings.provider in _LOCAL else _price(entry))
    if settings.model in MODELS:
        found = MODELS[settings.model].capabilities
    elif settings.provider == "llama_cpp":
        found = Capabilities(images=False, audio=False)  # text only: no projector is loaded
    elif settings.provider == "transformers":
        found = Capabilities(tools=False, images=False, audio=False)
    else:
        found = _capabilities(entry)
    return Known(price, found.model_copy(update=settings.capabilities.model_dump(exclude_none=True)))


def _price(entry: Mapping[str, Any]) -> Price | None:
    """A listed price; None if either side is not listed, for a missing number must not count as free."""
    prompt, completion = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if prompt is None or completion is None:
        return None
    cached = entry.get("cache_read_input_token_cost")
    return Price(input=prompt * 1e6, output=completion * 1e6, cached=None if cached is None else cached * 1e6)


def _capabilities(entry: Mapping[str, Any]) -> Capabilities:
    """Of a listed model, what the list does not mention is lacking: the list writes only what is there."""
    if not entry:
        return Capabilities()
    return Capabilities(
        tools=bool(entry.get("supports_function_calling")),
        images=bool(entry.get("supports_vision")),
        audio=bool(entry.get("supports_audio_input")),
        context=_positive(entry.get("max_input_tokens")) or _positive(entry.get("max_tokens")),
    )


def _positive(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value > 0 else None


def _listed(model: str) -> Mapping[str, Any]:
    """A model's entry: by its full name, else by the name after `provider/` if the entry is that provider's."""
    prices = _prices()
    if model in prices:
        return prices[model]
    provider, _, name = model.partition("/")
    entry = prices.get(name, {})
    return entry if entry.get("litellm_provider") == provider else {}


@cache
def _prices() -> Mapping[str, Mapping[str, Any]]:
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    try:
        read: dict[str, dict[str, Any]] = json.loads((Path(spec.origin).parent / _PRICE_LIST).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return read
