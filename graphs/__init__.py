"""Ready graphs, one idea each: `dynflow.load(dynflow.graphs.path("quickstart"))`."""

from __future__ import annotations

from pathlib import Path


def path(name: str) -> Path:
    """The file of a shipped graph, by its name without `.yaml`. Raises `FileNotFoundError` that lists them."""
    folder = Path(__file__).parent
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(item.stem for item in folder.glob("*.yaml")))
        raise FileNotFoundError(f"there is no graph {name!r}; there are: {known}")
    return file
