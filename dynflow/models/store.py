"""Makes the chat model that an entry of `models:` describes; the provider's library loads only when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dynflow.errors import InputError
from dynflow.models.settings import ModelSettings

if TYPE_CHECKING:
    from dynflow.models.base import ProviderChat

_PROVIDERS: Mapping[str, tuple[str, str]] = {
    "llama_cpp": ("dynflow.models.llama_cpp", "LlamaCppChat"),
    "transformers": ("dynflow.models.transformers", "TransformersChat"),
    "litellm": ("dynflow.models.litellm", "LiteLLMChat"),
    "ollama": ("dynflow.models.ollama", "OllamaChat"),
}


def create(settings: ModelSettings, name: str, base: Path | None = None) -> ProviderChat:
    """The chat model of one entry. Cheap: nothing is loaded, and no optional package is needed yet.

    `name` is the entry's name, which traces show; a relative `model:` path counts from `base`.
    Raises InputError for a provider whose models do not chat.
    """
    if settings.provider not in _PROVIDERS:
        raise InputError(
            f"model {name}: provider {settings.provider} makes no chat model; use one of: {', '.join(_PROVIDERS)}"
        )
    module, cls = _PROVIDERS[settings.provider]
    model: ProviderChat = getattr(importlib.import_module(module), cls)(settings=settings, name=name, base=base)
    return model
