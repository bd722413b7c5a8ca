"""Which Whisper model an entry of `models:` names: cheap, nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynflow.errors import ArtefactError, MissingModel
from dynflow.models.cores import physical_cores
from dynflow.models.settings import ModelSettings

CONFIG = "config.json"
_SETTINGS_OF_CHAT = ("temperature", "top_p", "max_tokens", "stop", "seed")


@dataclass(frozen=True)
class Source:
    """What a Whisper model is loaded from, and how: a local folder, or a hub id with its revision."""

    name: str
    folder: Path | None
    revision: str
    dtype: str
    threads: int

    @property
    def key(self) -> Hashable:
        """What tells one loaded model from another."""
        place: Hashable = (self.name, self.revision) if self.folder is None else self.folder.resolve()
        return ("whisper", place, self.dtype, self.threads)


def source_of(settings: ModelSettings | None, base: Path | None) -> Source:
    """Where an entry's model comes from; a relative folder counts from `base`. Cheap: nothing is loaded.

    Raises ArtefactError or MissingModel where it can be no Whisper model; a hub id is taken at its word.
    """
    if settings is None:
        raise ArtefactError("there is no such entry of `models:`")
    if settings.provider != "transformers":
        raise ArtefactError(f"its provider is {settings.provider}; Whisper models are of `provider: transformers`")
    for option, *_ in settings.references():
        raise ArtefactError(f"its `{option}` is a reference; write it out: a model is loaded as it stands")
    for option in _SETTINGS_OF_CHAT:
        if getattr(settings, option) is not None:
            raise ArtefactError(f"`{option}` is for models that chat: leave it out, it transcribes greedily")
    if settings.model.startswith("embedded/"):
        raise ArtefactError("dynflow brings no Whisper model: give a hub id such as openai/whisper-small, or a folder")
    folder: Path | None = (base or Path()) / Path(settings.model).expanduser()
    assert folder is not None
    if folder.exists():
        _whisper_or_not(folder)
    elif settings.model.startswith((".", "/", "~")):
        raise MissingModel(f"there is no folder {folder}: give one that `save_pretrained` wrote, or a hub id")
    else:
        folder = None
    return Source(
        settings.model,
        folder,
        settings.revision or "main",
        settings.dtype or "float32",
        settings.threads or physical_cores(),
    )


def _whisper_or_not(folder: Path) -> None:
    """Raises MissingModel or ArtefactError where a folder holds no Whisper model."""
    if not (folder / CONFIG).is_file():
        raise MissingModel(f"{folder} holds no model: it has no {CONFIG}")
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{folder / CONFIG} is damaged ({error!r}): restore it") from error
    only_whisper(kind)


def only_whisper(kind: Any) -> None:
    """Raises ArtefactError for a model of another type."""
    if kind != "whisper":
        raise ArtefactError(f"it is a model of type {kind}; transcribed is by Whisper, such as openai/whisper-small")
