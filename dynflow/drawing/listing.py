"""A graph as plain ASCII text: each node, and under it its ways on, in the order in which they are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.drawing.sketch import Arrow, sketch

if TYPE_CHECKING:
    from dynflow.graph import CheckedGraph


def listing(graph: CheckedGraph) -> str:
    """The text. Nodes stand in topological order, so that every arrow leads down."""
    drawn = sketch(graph)
    blocks = [drawn.title]
    for box in drawn.boxes:
        if box.id == "end":
            continue
        head = f"{box.id}  [{'; '.join((box.kind, *box.lines))}]" if box.lines else box.id
        leaving = [arrow for arrow in drawn.arrows if arrow.source == box.id]
        blocks.append("\n".join([head, *_ways(leaving)]))
    return "\n\n".join([*blocks, "end"])


def _ways(arrows: list[Arrow]) -> list[str]:
    width = max((len(arrow.label) + 2 for arrow in arrows if arrow.label), default=0)
    lines = []
    for arrow in arrows:
        label = f" {arrow.label} ".ljust(width, "-") if arrow.label else ""
        lines.append(f"  {'`' if arrow is arrows[-1] else '|'}--{label}{'--' if label else ''}> {arrow.target}")
    return lines
