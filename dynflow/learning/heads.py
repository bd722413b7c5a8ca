"""A trained head on disk: a folder with its numbers, what they are with their checksum, and its model card."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynflow.errors import ArtefactError, MissingDependency

DESCRIPTION = "head.json"
TENSORS = "head.safetensors"
_TOLD = {"format": int, "kind": str, "features": str, "sha256": str}


@dataclass(frozen=True)
class HeadType:
    """Heads of one node type: where those that dynflow brings lie, and how others come to be."""

    node: str
    shipped: Path
    names: Sequence[str]
    """Folders in `shipped`."""
    command: str
    """What trains one."""
    told: Mapping[str, type]
    """What its `head.json` says beside what any does, by type."""
    others: Sequence[str] = ()
    """Names that stand for no head, and that the node takes too."""

    def find(self, name_or_path: str) -> tuple[Path, dict[str, Any]]:
        """A head's folder, and what its `head.json` says; cheap. Raises ArtefactError where there is none of this node
        type, or it is damaged."""
        folder = self.shipped / name_or_path if name_or_path in self.names else Path(name_or_path).expanduser()
        path = folder / DESCRIPTION
        made = f"a folder that `{self.command}` has made"
        if not path.is_file():
            known = [*self.names, *self.others]
            near = difflib.get_close_matches(name_or_path, known, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            text = f"{self.node} has no estimator {name_or_path!r}{meant}: use {' or '.join(known)}, or {made}"
            raise ArtefactError(text)
        try:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            node = facts.get("node", self.node)
            wrong = [name for name, kind in {**_TOLD, **self.told}.items() if not isinstance(facts.get(name), kind)]
        except (OSError, ValueError, AttributeError) as error:
            raise damaged(path, repr(error)) from error
        if node != self.node:
            raise ArtefactError(f"{folder} is a head of {node}, not of {self.node}: name {made}")
        if wrong:
            raise damaged(path, f"it says nothing usable of {', '.join(wrong)}")
        return folder, facts


def damaged(path: Path, why: object) -> ArtefactError:
    """The error of a file that cannot be what was written."""
    return ArtefactError(f"{path} is damaged ({why}): restore it, or train again")


def outdated(folder: Path) -> ArtefactError:
    """The error of a head that another version of dynflow made, in another format or from other features."""
    return ArtefactError(f"{folder} was made by another version of dynflow: train it again")


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
            raise damaged(path, "head.json has another SHA-256")
        tensors: dict[str, Any] = load(data)
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error
    return tensors
