"""`load` and `loads`: a graph file or text as a Flow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynflow.compile import read_graph_file
from dynflow.errors import GraphError
from dynflow.flow import Flow
from dynflow.language.reader import decode


def load(
    path: str | os.PathLike[str],
    *,
    runnables: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
) -> Flow:
    """A graph file as a flow.

    `runnables` holds what `runnable` nodes name; `models` holds LangChain chat models that take the place of entries
    of `models:` (`node/model` for those of a sub-graph). Nothing is loaded yet: that happens at the first request, or
    in `warm_up`. Raises `GraphError` with every fault of the file.
    """
    file = Path(path)
    source = decode(read_graph_file(file), str(path))
    if source.problems:
        raise GraphError(source.problems)
    return Flow(graph=source.text, path=str(path), runnables=dict(runnables or {}), models=dict(models or {}))


def loads(
    text: str,
    *,
    base: str | os.PathLike[str] | None = None,
    runnables: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
) -> Flow:
    """A graph's text as a flow; `base` is the folder that its sub-graphs and relative paths count from."""
    folder = None if base is None else str(base)
    return Flow(graph=text, base=folder, runnables=dict(runnables or {}), models=dict(models or {}))
