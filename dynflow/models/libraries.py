"""Libraries that come with an extra: imported late, and named where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from dynflow.errors import MissingDependency

_SHOWN = 300  # characters of a library's reason


def library(name: str, extra: str) -> ModuleType:
    """The module of this name. Raises MissingDependency, with the extra of dynflow that brings it."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a package without its native library
        raise MissingDependency(name, f'pip install "dynflow[{extra}]"') from error


def in_short(error: Exception) -> str:
    """What a library says of a failure, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
