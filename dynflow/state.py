"""The folder for what dynflow keeps between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "DYNFLOW_STATE"


def state_folder() -> Path:
    """`$DYNFLOW_STATE`, else `dynflow` in the platform's folder for a user's state. It need not exist yet.

    That is `$XDG_STATE_HOME` (`~/.local/state`) on Linux, `~/Library/Application Support` on macOS, `%LOCALAPPDATA%` on
    Windows. Raises `RuntimeError` where the user has no home.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given).absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base).absolute() / "dynflow"
