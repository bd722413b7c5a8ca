"""The folder that a training writes its artefact into."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dynflow.errors import InputError


def try_out(out: Path) -> None:
    """Raises InputError where nothing can be written into this folder: before hours are spent, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error}): give another folder with --out") from error
