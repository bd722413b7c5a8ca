"""Where the graphs inside a graph lie."""

from __future__ import annotations

from pathlib import Path

from dynflow.errors import GraphError
from dynflow.language.source import Source

MAX_LEVELS = 16


def locate_subgraph(uses: str, file: Path | None, base: Path | None, chain: tuple[Path, ...]) -> Path:
    """The path of a sub-graph: relative to its file, below the top file's folder, not among its callers (`chain`).

    Raises `GraphError`.
    """
    if file is None and base is None:
        raise _refused(file, f"a graph given as text has no folder: load it with base=… to use {uses!r}")
    folder = file.parent if file is not None else base
    assert folder is not None
    try:
        path = (folder / uses).resolve()
    except (OSError, ValueError) as error:
        raise _refused(file, f"{uses!r} is no path ({error}): write a relative one with /") from None
    if not path.is_relative_to((base or folder).resolve()):
        raise _refused(file, f"{uses!r} lies outside the top graph's folder: move it below that, or copy it there")
    if path in chain or (file is not None and path == file.resolve()):
        around = " → ".join(item.name for item in (*chain, path))
        raise _refused(file, f"{uses!r} uses itself ({around}): a graph cannot hold itself; name another")
    if len(chain) >= MAX_LEVELS:
        raise _refused(file, f"graphs lie more than {MAX_LEVELS} levels inside each other; name fewer")
    return path


def _refused(file: Path | None, text: str) -> GraphError:
    source = Source("", str(file or "<string>"))
    source.report("subgraph", text)
    return GraphError(source.problems)
