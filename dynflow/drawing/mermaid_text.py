"""A graph as Mermaid text, which GitHub and many editors draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.drawing.sketch import Box, sketch

if TYPE_CHECKING:
    from dynflow.graph import CheckedGraph

_STYLES = (
    "classDef signal fill:#fff4dc,stroke:#c78a1b,color:#222",
    "classDef answer fill:#dfeafc,stroke:#3b6fc4,color:#222",
    "classDef terminal fill:#444,stroke:#444,color:#fff",
)
# Quotes end a label, `#` begins an entity, and the others would be read as HTML or Markdown.
_ESCAPES = {ord(sign): f"#{ord(sign)};" for sign in '#"<>&`*|{}[]\\'}


def mermaid(graph: CheckedGraph) -> str:
    """The text. Ids get a prefix: `end`, `graph`, `style` and others mean something to Mermaid."""
    drawn = sketch(graph)
    lines = ["flowchart TD"]
    lines += [f"    {_box(box)}:::{box.kind}" for box in drawn.boxes]
    for arrow in drawn.arrows:
        line = "-.->" if arrow.failure else "-->"
        label = f'|"{_escaped(arrow.label)}"|' if arrow.label else ""
        lines.append(f"    n_{arrow.source} {line}{label} n_{arrow.target}")
    return "\n".join([*lines, *(f"    {style}" for style in _STYLES)])


def _box(box: Box) -> str:
    if box.kind == "terminal":
        return f'n_{box.id}(["{box.id}"])'
    text = "<br/>".join(_escaped(line) for line in (box.id, *box.lines))
    return f'n_{box.id}["{text}"]'


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
