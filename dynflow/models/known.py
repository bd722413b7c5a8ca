"""What is known of a model before it is called: its price and what it can take."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from dynflow.models.embedded import MODELS
from dynflow.models.settings import Capabilities, ModelSettings, Price, Rates, Tier

_LOCAL = frozenset({"llama_cpp", "transformers", "ollama", "encoder", "diffusers"})
_LENGTH = re.compile(r"input_cost_per_token(_above_(\d+)k_tokens)")
R = TypeVar("R", bound=Rates)
_PRICE_LIST = "model_prices_and_context_window_backup.json"


@dataclass(frozen=True)
class Known:
    """`price` None: unknown, so a money limit cannot be kept. A capability None: unknown, so it closes no edge."""

    price: Price | None
    capabilities: Capabilities


def known(settings: ModelSettings) -> Known:
    """Price and capabilities: what the settings say, else the embedded model's, else litellm's bundled price list.

    Local models cost nothing unless the settings give a price. What a given price lacks of `input` and `output` is the
    listed one's; where none is listed it is unknown, but for a model that is paid for by the second, or local, whose
    tokens may both go without. litellm is not imported: its list is read as a file.
    """
    named = settings.provider == "litellm" and isinstance(settings.model, str)  # not yet, where it is a reference
    entry = _listed(settings.model) if named else {}
    price = _price(entry)
    if settings.price is not None:
        price = _completed(settings.price, price, settings.provider in _LOCAL)
    elif settings.provider in _LOCAL:
        price = Price()
    if settings.model in MODELS:
        found = MODELS[settings.model].capabilities
    elif settings.provider == "llama_cpp":
        found = Capabilities(images=False, audio=False)  # text only: no projector is loaded
    elif settings.provider in ("transformers", "encoder", "diffusers"):
        found = Capabilities(tools=False, images=False, audio=False)
    else:
        found = _capabilities(entry)
    return Known(price, found.model_copy(update=settings.capabilities.model_dump(exclude_none=True)))


def _completed(given: Price, listed: Price | None, local: bool) -> Price | None:
    """A given price with both sides, also of its tiers, or None where nothing says what one of them is."""
    free = local or given.second > 0
    base = _both_sides(given, listed, free)
    tiers: list[Tier] = given.tiers
    if base is not given and not tiers and listed is not None:  # what is listed costs more in long prompts, too
        sides = given.model_dump(include={"input", "output", "cached", "cache_write"}, exclude_unset=True)
        tiers = [each.model_copy(update=sides) for each in listed.tiers]
    whole = [_both_sides(tier, listed and listed.at(tier.above + 1), free) for tier in tiers]
    told = [tier for tier in whole if tier is not None]
    return None if base is None or len(told) < len(whole) else base.model_copy(update={"tiers": told})


def _both_sides(given: R, listed: Rates | None, free: bool) -> R | None:
    missing = {"input", "output"} - given.model_fields_set
    if missing and listed is not None:
        return given.model_copy(update={side: getattr(listed, side) for side in missing})
    return given if not missing or (free and len(missing) == 2) else None


def _price(entry: Mapping[str, Any]) -> Price | None:
    """A listed price. None if either side is not listed, for a missing number must not count as free; nor is a price
    known whose provider asks a fee for each request or its searches beside that for tokens."""
    if entry.get("input_cost_per_request") or entry.get("litellm_provider") == "perplexity":
        return None
    if entry.get("tiered_pricing"):
        listed = [(int(tier.get("range", (0,))[0]), _rates(tier)) for tier in entry["tiered_pricing"]]
    else:
        longer_than = [found for name in entry if (found := _LENGTH.fullmatch(name))]
        listed = [(0, _rates(entry)), *((int(each[2]) * 1000, _rates(entry, each[1])) for each in longer_than)]
    told = [(above, rates) for above, rates in listed if rates is not None]
    if len(told) < len(listed):
        return None
    (_, base), *longer = told
    return Price(**base, tiers=[Tier(**rates, above=above) for above, rates in longer])


def _rates(entry: Mapping[str, Any], suffix: str = "") -> dict[str, float] | None:
    """USD per million tokens, of prompts of the length that the suffix names; None if prompt or answer is not listed.

    Reasoning that costs more than other output is taken for the price of all output.
    """

    def listed(name: str) -> float | None:
        value = entry.get(f"{name}{suffix}", entry.get(name))
        return None if value is None else round(value * 1e6, 9)

    found = {
        "input": listed("input_cost_per_token"),
        "output": listed("output_cost_per_token"),
        "cached": listed("cache_read_input_token_cost"),
        "cache_write": listed("cache_creation_input_token_cost"),
    }
    if found["input"] is None or found["output"] is None:
        return None
    found["output"] = max(found["output"], listed("output_cost_per_reasoning_token") or 0.0)
    return {name: rate for name, rate in found.items() if rate is not None}


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
