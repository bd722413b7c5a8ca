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
from dynflow.trace_file import TraceFile


def load(
    path: str | os.PathLike[str],
    *,
    runnables: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    trace: TraceFile | str | os.PathLike[str] | None = None,
) -> Flow:
    """A graph file as a flow.

    `runnables` holds what `runnable` nodes name; `models` holds LangChain chat models that take the place of entries
    of `models:` (`node/model` for those of a sub-graph). `trace` is a file that takes a record of each request, one
    JSON line each, without content; `TraceFile(path, content=True)` takes requests and answers too. Nothing is loaded
    yet: that happens at the first request, or in `warm_up`. Raises `GraphError` with every fault of the file.
    """
    file = Path(path)
    source = decode(read_graph_file(file), str(path))
    if source.problems:
        raise GraphError(source.problems)
    host = {"runnables": dict(runnables or {}), "models": dict(models or {}), "trace": trace}
    return Flow(graph=source.text, path=str(path), **host)


def loads(
    text: str,
    *,
    base: str | os.PathLike[str] | None = None,
    runnables: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    trace: TraceFile | str | os.PathLike[str] | None = None,
) -> Flow:
    """A graph's text as a flow; `base` is the folder that its sub-graphs and relative paths count from."""
    folder = None if base is None else str(base)
    host = {"runnables": dict(runnables or {}), "models": dict(models or {}), "trace": trace}
    return Flow(graph=text, base=folder, **host)
