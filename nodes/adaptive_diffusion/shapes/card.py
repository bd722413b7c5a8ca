"""The model card of the shapes' model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_card(folder: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """`README.md` in the folder; `log` holds what training saw: step, loss, alignment, seconds."""
