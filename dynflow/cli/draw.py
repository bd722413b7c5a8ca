"""`dynflow draw`: a graph as text or picture, made on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynflow.cli.arguments import graph_argument
from dynflow.cli.terminal import write_whole

if TYPE_CHECKING:
    from dynflow.graph import CheckedGraph

_SUFFIXES = {".mmd": "mermaid", ".md": "mermaid", ".txt": "ascii", ".svg": "svg", ".png": "png"}


@click.command("draw")
@graph_argument
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["mermaid", "ascii", "svg", "png"]),
    help="Default: by the file's suffix, else mermaid.",
)
def command(graph: str, output: Path | None, form: str | None) -> None:
    """Draw a graph, with the conditions on its edges.

    Nodes show their types and models, answers whether they stream live. Dashed edges are taken after a failure.
    Everything is made on this machine; only PNG needs a package, Pillow.

    \b
    Examples:
      dynflow draw graph.yaml --format ascii
      dynflow draw graph.yaml -o graph.svg
      dynflow draw graph.yaml >> README.md
    """
    from dynflow.compile import compile_text, read_graph_file

    chosen = form or (_SUFFIXES.get(output.suffix.lower()) if output else "mermaid")
    if chosen is None:
        raise click.UsageError(f"{output} does not say which format to draw: give --format")
    if chosen == "png" and output is None and sys.stdout.isatty():
        raise click.UsageError("a terminal cannot show a PNG: give a file with -o")
    path = Path(graph)
    checked = compile_text(read_graph_file(path), graph, path=path)
    content = _drawn(chosen, checked)
    if output is not None:
        write_whole(output, content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _drawn(form: str, graph: CheckedGraph) -> bytes:
    from dynflow.drawing import listing, mermaid, png, svg

    if form == "png":
        return png(graph)
    text = {"mermaid": mermaid, "ascii": listing, "svg": svg}[form]
    return f"{text(graph)}\n".encode()
