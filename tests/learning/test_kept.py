"""A run that was killed goes on from the rows that it had made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynflow.learning.kept import kept_rows


def test_rows_are_kept_chunk_by_chunk(tmp_path: Path) -> None:
    asked: list[int] = []
    told: list[tuple[int, int, str]] = []

    def make(chunk: Sequence[int]) -> np.ndarray:
        asked.append(len(chunk))
        return np.array(chunk)[:, None]

    def rows(depends: str) -> list[int]:
        kept = kept_rows(items, make, tmp_path, [depends], lambda *so_far: told.append(so_far), "label")
        return list(kept[:, 0])

    items = list(range(300))
    assert rows("a") == items
    assert told == [(0, 300, "label"), (256, 300, "label"), (300, 300, "label")]
    assert rows("a") == items
    assert asked == [256, 44]
    rows("b")
    assert asked == [256, 44, 256, 44]
    items = [*range(256), 7]
    rows("b")
    assert asked[4:] == [1]
