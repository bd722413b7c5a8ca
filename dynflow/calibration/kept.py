"""What signals gave, kept between runs: embedding thousands of prompts takes minutes, reading the result an instant.

Kept are ports alone (numbers, labels), under a hash of all that they depend on; no text of a request is. The file lies
in the folder for dynflow's state and may be deleted at any time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynflow.state import state_folder

_AT_ONCE = 500


class KeptOutputs:
    """Ports of signals by the hash of what they depend on. Where the file cannot be used, nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: default in the state folder."""
        self._database: sqlite3.Connection | None = None
        try:
            path = path or state_folder() / "signals.sqlite"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=10, isolation_level=None)
            self._database.execute("CREATE TABLE IF NOT EXISTS outputs (key TEXT PRIMARY KEY, ports TEXT NOT NULL)")
        except (OSError, RuntimeError, sqlite3.Error):
            self._database = None

    def get(self, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The ports that are kept under any of these keys."""
        found: dict[str, Mapping[str, Any]] = {}
        if self._database is None:
            return found
        try:
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = self._database.execute(f"SELECT key, ports FROM outputs WHERE key IN ({marks})", part)
                found.update((key, json.loads(ports)) for key, ports in rows)
        except (ValueError, sqlite3.Error):
            return {}
        return found

    def put(self, outputs: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep ports under their keys; those that hold anything but numbers, flags and short labels are not kept."""
        if self._database is None:
            return
        rows = [(key, json.dumps(ports, allow_nan=False)) for key, ports in outputs if all(map(_plain, ports.values()))]
        try:
            self._database.execute("BEGIN")  # one for all: each waits for the disk
            self._database.executemany("INSERT OR REPLACE INTO outputs VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.Error:
            self._database = None

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()
            self._database = None


def _plain(value: Any) -> bool:
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= 40)
