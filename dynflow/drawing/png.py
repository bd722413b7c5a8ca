"""A graph as PNG, painted by Pillow: its wheel holds all it needs, a font too."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dynflow.drawing.picture import Curve, Point, Rectangle, Text, Triangle, to_picture
from dynflow.drawing.sketch import sketch
from dynflow.errors import InputError, MissingDependency

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from dynflow.graph import CheckedGraph

_SCALE = 4  # painted large, then made smaller: smooth edges
_OUTPUT_SCALE = 2
_MOST_PIXELS = 200_000_000
_DASH, _BREAK = 5.0, 4.0


def png(graph: CheckedGraph) -> bytes:
    """The file's bytes. Raises `MissingDependency` without Pillow, `InputError` for a graph too large to paint."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingDependency("Pillow, which paints PNG files,", 'pip install "dynflow[draw]"') from error
    picture = to_picture(sketch(graph))
    width, height = math.ceil(picture.width), math.ceil(picture.height)
    if width * height * _SCALE**2 > _MOST_PIXELS:
        raise InputError(f"the drawing would have {width} by {height} points, too many for a PNG: take svg")
    image = Image.new("RGB", (width * _SCALE, height * _SCALE), "white")
    canvas = ImageDraw.Draw(image)
    for shape in picture.shapes:
        _paint(canvas, shape)
    smaller = image.resize((width * _OUTPUT_SCALE, height * _OUTPUT_SCALE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    smaller.save(file, "PNG", optimize=True)
    return file.getvalue()


def _paint(canvas: ImageDraw, shape: Rectangle | Text | Curve | Triangle) -> None:
    match shape:
        case Rectangle():
            half_width, half_height = shape.width / 2, shape.height / 2
            corners = (shape.x - half_width, shape.y - half_height, shape.x + half_width, shape.y + half_height)
            box = [corner * _SCALE for corner in corners]
            canvas.rounded_rectangle(box, shape.radius * _SCALE, shape.fill, shape.stroke, _SCALE)
        case Text():
            place = (shape.x * _SCALE, shape.y * _SCALE)
            weight = _SCALE * 0.12 if shape.bold else 0
            canvas.text(place, shape.text, shape.colour, _font(shape.size), anchor="mm", stroke_width=weight)
        case Curve():
            points = [point for piece in shape.pieces for point in _flattened(piece)]
            for line in _dashes(points) if shape.dashed else [points]:
                canvas.line([(x * _SCALE, y * _SCALE) for x, y in line], shape.colour, round(1.4 * _SCALE), "curve")
        case Triangle():
            canvas.polygon([(x * _SCALE, y * _SCALE) for x, y in shape.points], shape.colour)


def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size * _SCALE)


def _flattened(piece: tuple[Point, ...], steps: int = 24) -> list[Point]:
    """Points along a straight line or a cubic Bézier."""
    if len(piece) == 2:
        return list(piece)
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = piece
    found = []
    for step in range(steps + 1):
        t = step / steps
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
        found.append((a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy))
    return found


def _dashes(points: list[Point]) -> list[list[Point]]:
    """The line cut into dashes."""
    dashes: list[list[Point]] = []
    drawing, left = True, _DASH
    current = [points[0]]
    for begin, end in pairwise(points):
        length, done = math.dist(begin, end), 0.0
        while length - done > left:
            done += left
            share = done / length
            at = (begin[0] + (end[0] - begin[0]) * share, begin[1] + (end[1] - begin[1]) * share)
            if drawing:
                dashes.append([*current, at])
            current, drawing = [at], not drawing
            left = _DASH if drawing else _BREAK
        left -= length - done
        current.append(end)
    return [*dashes, current] if drawing and len(current) > 1 else dashes
