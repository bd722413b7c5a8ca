"""Where a training is, on disk, so that a killed one goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

_SECONDS = 120.0
"""Between two checkpoints."""


class Checkpoint:
    """The state of one piece of work in a folder. `digest` tells it from others, whose state is not taken up."""

    def __init__(self, folder: Path, digest: str, name: str = "checkpoint") -> None:
        self._path = folder / f"{name}.pt"
        self._digest = digest
        self._kept = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The state that was kept last; None if there is none of this training."""
        try:
            state = torch.load(self._path, weights_only=True)  # runs no code that the file may hold
        except Exception:  # absent, cut short or another program's: the work starts anew
            return None
        return state if isinstance(state, dict) and state.get("digest") == self._digest else None

    def is_due(self) -> bool:
        """Whether the last one is old enough for another."""
        return time.monotonic() - self._kept >= _SECONDS

    def keep(self, state: dict[str, Any]) -> None:
        """Write the state, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(f".{os.getpid()}")
        torch.save({**state, "digest": self._digest}, unfinished)
        os.replace(unfinished, self._path)
        self._kept = time.monotonic()
