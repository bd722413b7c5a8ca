"""Features kept chunk by chunk, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

Progress = Callable[[int, int, str], None]
"""Called with how many are done, of how many, of what."""
_CHUNK = 256


def kept_rows(
    items: Sequence[T],
    make: Callable[[Sequence[T]], NDArray[Any]],
    folder: Path,
    depends: Sequence[str],
    progress: Progress,
    label: str,
) -> NDArray[Any]:
    """`make(items)`, one row for each item, 256 items at a time; finished chunks are found again in `folder`.

    A chunk is kept under a hash of its items, which are plain values, and of `depends`: whatever else decides its rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    for start in range(0, len(items), _CHUNK):
        progress(start, len(items), label)
        chunk = items[start : start + _CHUNK]
        path = folder / f"{hashlib.sha256(json.dumps([*depends, list(chunk)]).encode()).hexdigest()}.npy"
        if not path.is_file():
            unfinished = path.with_suffix(f".{os.getpid()}.npy")
            np.save(unfinished, np.asarray(make(chunk)), allow_pickle=False)
            os.replace(unfinished, path)
        chunks.append(np.load(path, allow_pickle=False))
    progress(len(items), len(items), label)
    return np.concatenate(chunks)


def code_digest(*modules: Any) -> str:
    """Changes with the source of any of these modules, and so unkeeps what they made."""
    return hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest()
