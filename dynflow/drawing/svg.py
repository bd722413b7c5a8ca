"""A graph as SVG text."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dynflow.drawing.picture import Curve, Point, Rectangle, Text, Triangle, to_picture
from dynflow.drawing.sketch import sketch

if TYPE_CHECKING:
    from dynflow.graph import CheckedGraph

_FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"


def svg(graph: CheckedGraph) -> str:
    """One self-contained file: no scripts, no fonts, no links."""
    picture = to_picture(sketch(graph))
    size = f'width="{picture.width:.0f}" height="{picture.height:.0f}"'
    view = f'viewBox="0 0 {picture.width:.0f} {picture.height:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} font-family="{_FONT}" role="img">',
        f"  <title>{escape(picture.title)}</title>",
        '  <rect width="100%" height="100%" fill="#ffffff"/>',
        *(f"  {_element(shape)}" for shape in picture.shapes),
        "</svg>",
    ]
    return "\n".join(lines)


def _element(shape: Rectangle | Text | Curve | Triangle) -> str:
    match shape:
        case Rectangle():
            left, top = shape.x - shape.width / 2, shape.y - shape.height / 2
            place = f'x="{left:.1f}" y="{top:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"'
            return f'<rect {place} rx="{shape.radius:.1f}" fill="{shape.fill}" stroke="{shape.stroke}"/>'
        case Text():
            place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" dy="0.35em" text-anchor="middle"'
            weight = ' font-weight="600"' if shape.bold else ""
            return f'<text {place} font-size="{shape.size:g}" fill="{shape.colour}"{weight}>{escape(shape.text)}</text>'
        case Curve():
            path = " ".join(_command(index, piece) for index, piece in enumerate(shape.pieces))
            dashes = ' stroke-dasharray="5 4"' if shape.dashed else ""
            return f'<path d="{path}" fill="none" stroke="{shape.colour}" stroke-width="1.4"{dashes}/>'
        case Triangle():
            points = " ".join(_point(point) for point in shape.points)
            return f'<polygon points="{points}" fill="{shape.colour}"/>'


def _command(index: int, piece: tuple[Point, ...]) -> str:
    start = f"M {_point(piece[0])} " if index == 0 else ""
    return f"{start}{'L' if len(piece) == 2 else 'C'} {' '.join(_point(point) for point in piece[1:])}"


def _point(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"
