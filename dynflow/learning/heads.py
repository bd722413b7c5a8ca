"""A trained head on disk: a folder with its numbers, what they are with their checksum, and its model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynflow.errors import ArtefactError, MissingDependency

DESCRIPTION = "head.json"
TENSORS = "head.safetensors"


def write_head(folder: Path, tensors: Mapping[str, Any], facts: Mapping[str, Any], card: str) -> None:
    """Write `head.safetensors`, `head.json` (`facts`, and under `sha256` the checksum) and `README.md` (the card).

    The same content gives the same bytes.
    """
    from safetensors.numpy import save

    data = save(dict(tensors))
    told = {**facts, "sha256": hashlib.sha256(data).hexdigest()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TENSORS).write_bytes(data)
    (folder / DESCRIPTION).write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def located(name_or_path: str, folder: Path | None) -> str:
    """A shipped head's name as it is; a relative path counted from the graph's folder."""
    local = "/" in name_or_path and folder is not None and not Path(name_or_path).is_absolute()
    return str(folder / name_or_path) if folder is not None and local else name_or_path


def read_tensors(folder: Path, digest: str) -> dict[str, Any]:
    """The numbers by name, whose checksum is `digest`. Raises ArtefactError or MissingDependency."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load
    except ImportError as error:
        raise MissingDependency(error.name or "safetensors", 'pip install "dynflow[quickstart]"') from error
    path = folder / TENSORS
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtefactError(f"{path} is damaged (head.json has another SHA-256): restore it, or train again")
        tensors: dict[str, Any] = load(data)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): restore it, or train again") from error
    return tensors
