"""A graph as shapes with places and colours, which `svg.py` and `png.py` paint alike."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dynflow.drawing.layers import Cell, Layout, lay_out
from dynflow.drawing.sketch import Box, Sketch

MARGIN = 20.0
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE = 15.0, 12.0, 11.0
INK, QUIET, EDGE, FAILURE = "#222222", "#666666", "#777777", "#b3432b"
_FILLS = {"signal": ("#fff4dc", "#c78a1b"), "answer": ("#dfeafc", "#3b6fc4"), "terminal": ("#444444", "#444444")}
_LABEL_WIDTH = 30  # characters
_LABEL_LINES = 6
_ARROW = 7.0
_WIDE = 0.58  # of its size: how wide a character of a sans-serif font is at most, on average

Point = tuple[float, float]


@dataclass(frozen=True)
class Rectangle:
    """Centre and size; `radius` rounds its corners."""

    x: float
    y: float
    width: float
    height: float
    radius: float
    fill: str
    stroke: str


@dataclass(frozen=True)
class Text:
    """One line of text, centred on its place."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    bold: bool = False


@dataclass(frozen=True)
class Curve:
    """Pieces that join: two points are a straight line, four a cubic Bézier."""

    pieces: tuple[tuple[Point, ...], ...]
    colour: str
    dashed: bool


@dataclass(frozen=True)
class Triangle:
    """An arrow's head."""

    points: tuple[Point, Point, Point]
    colour: str


@dataclass(frozen=True)
class Picture:
    """Shapes in the order in which they are painted, on white."""

    title: str
    width: float
    height: float
    shapes: tuple[Rectangle | Text | Curve | Triangle, ...]


def to_picture(drawn: Sketch) -> Picture:
    """Lay the graph out from top to bottom; arrows first, so that labels stand on them."""
    labels = [_wrapped(arrow.label) for arrow in drawn.arrows]
    layout = lay_out(
        {box.id: _box_size(box) for box in drawn.boxes},
        [(arrow.source, arrow.target) for arrow in drawn.arrows],
        [(max(map(len, lines), default=0) * LABEL_SIZE * _WIDE, len(lines) * LABEL_SIZE * 1.35) for lines in labels],
    )
    for cell in {id(cell): cell for chain in layout.chains for cell in chain}.values():
        cell.x += MARGIN
        cell.y += MARGIN
    shapes: list[Rectangle | Text | Curve | Triangle] = []
    leaving, entering = _ports(layout, "out"), _ports(layout, "in")
    for index, (arrow, chain) in enumerate(zip(drawn.arrows, layout.chains, strict=True)):
        colour = FAILURE if arrow.failure else EDGE
        shapes += _arrow(chain, leaving[index], entering[index], colour, dashed=arrow.failure)
    for arrow, cell, lines in zip(drawn.arrows, layout.label_cells, labels, strict=True):
        shapes += _label(cell, lines, FAILURE if arrow.failure else QUIET)
    for box in drawn.boxes:
        shapes += _box(box, layout.boxes[box.id])
    return Picture(drawn.title, layout.width + 2 * MARGIN, layout.height + 2 * MARGIN, tuple(shapes))


def _wrapped(label: str) -> list[str]:
    lines = textwrap.wrap(label, _LABEL_WIDTH)
    return lines if len(lines) <= _LABEL_LINES else [*lines[: _LABEL_LINES - 1], "…"]


def _box_size(box: Box) -> Point:
    texts = [len(box.id) * TITLE_SIZE, *(len(line) * TEXT_SIZE for line in box.lines)]
    return max(texts) * _WIDE + 28, TITLE_SIZE * 1.4 + len(box.lines) * TEXT_SIZE * 1.4 + (8 if not box.lines else 14)


def _box(box: Box, cell: Cell) -> list[Rectangle | Text]:
    fill, stroke = _FILLS[box.kind]
    radius = cell.height / 2 if box.kind == "terminal" else 7.0
    y = cell.y - (len(box.lines) * TEXT_SIZE * 1.4) / 2
    title = Text(cell.x, y, box.id, TITLE_SIZE, "#ffffff" if box.kind == "terminal" else INK, bold=True)
    y += (TITLE_SIZE + TEXT_SIZE) * 0.7
    lines = [Text(cell.x, y + row * TEXT_SIZE * 1.4, line, TEXT_SIZE, QUIET) for row, line in enumerate(box.lines)]
    return [Rectangle(cell.x, cell.y, cell.width, cell.height, radius, fill, stroke), title, *lines]


def _label(cell: Cell, lines: list[str], colour: str) -> list[Rectangle | Text]:
    if not lines:
        return []
    step = LABEL_SIZE * 1.35
    top = cell.y - step * (len(lines) - 1) / 2
    ground = Rectangle(cell.x, cell.y, cell.width + 6, cell.height + 2, 3.0, "#ffffff", "#ffffff")
    return [ground, *(Text(cell.x, top + row * step, line, LABEL_SIZE, colour) for row, line in enumerate(lines))]


def _ports(layout: Layout, side: Literal["in", "out"]) -> list[float]:
    """For each edge the x at which it meets its box: side by side, in the order of what they come from or lead to."""
    met: dict[int, list[int]] = {}
    own, other = (0, 1) if side == "out" else (-1, -2)
    for index, chain in enumerate(layout.chains):
        met.setdefault(id(chain[own]), []).append(index)
    places = [0.0] * len(layout.chains)
    for indices in met.values():
        indices.sort(key=lambda index: layout.chains[index][other].x)
        box = layout.chains[indices[0]][own]
        step = min(24.0, 0.7 * box.width / len(indices))
        for place, index in enumerate(indices):
            places[index] = box.x + (place - (len(indices) - 1) / 2) * step
    return places


def _arrow(chain: Sequence[Cell], begin: float, end: float, colour: str, *, dashed: bool) -> list[Curve | Triangle]:
    """Straight down through the ranks between, bent in the gaps."""
    source, target = chain[0], chain[-1]
    at: Point = (begin, source.y + source.height / 2)
    tip: Point = (end, target.y - target.height / 2)
    pieces: list[tuple[Point, ...]] = []
    for cell in chain[1:-1]:
        half = cell.room / 2
        pieces += [_bend(at, (cell.x, cell.y - half)), ((cell.x, cell.y - half), (cell.x, cell.y + half))]
        at = (cell.x, cell.y + half)
    pieces.append(_bend(at, (tip[0], tip[1] - _ARROW)))
    head = (tip, (tip[0] - _ARROW / 2, tip[1] - _ARROW), (tip[0] + _ARROW / 2, tip[1] - _ARROW))
    return [Curve(tuple(piece for piece in pieces if piece[0] != piece[-1]), colour, dashed), Triangle(head, colour)]


def _bend(a: Point, b: Point) -> tuple[Point, ...]:
    middle = (a[1] + b[1]) / 2
    return (a, (a[0], middle), (b[0], middle), b)
