"""A named graph shape: its host's parts, inputs, and what must come of them in every call style."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One request: what goes in, and the path and answer, or the error, that come of it."""

    input: Any
    path: str
    """Nodes after `start`, with blanks between; where the flow raises, as far as it came."""
    value: Any = None
    """The answer's text, or the answer itself where it is no message."""
    degraded: bool = False
    error: type[Exception] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """A graph's text, its sub-graphs, its host's parts, and requests that take different paths."""

    name: str
    text: str
    cases: tuple[Case, ...]
    runnables: Callable[[], dict[str, Any]] = dict
    models: Callable[[], dict[str, Any]] = dict
    files: Mapping[str, str] = field(default_factory=dict)


SHAPES: list[Shape] = []


def shape(name: str, text: str, *cases: Case, **parts: Any) -> None:
    """Add a shape to the table."""
    SHAPES.append(Shape(name, f"version: 1\n{text}", cases, **parts))
