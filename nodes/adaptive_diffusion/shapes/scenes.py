"""Pictures of shapes: what one may look like under a caption, and how it is drawn, 32 by 32 in RGB.

Everything is a function of its seed. Shapes keep apart, and their colours are the only saturated ones, so that
`oracle` can read a picture back.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dynflow.nodes.adaptive_diffusion.shapes.captions import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    Caption,
    Group,
    Part,
    draw_caption,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

SIDE = 32
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.14, 0.14),
    "orange": (0.95, 0.54, 0.10),
    "yellow": (0.93, 0.88, 0.15),
    "green": (0.16, 0.68, 0.22),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.16, 0.28, 0.88),
    "purple": (0.62, 0.18, 0.78),
}
"""Linear RGB is not meant: these are the numbers that a PNG holds, from 0 to 1."""
RADII = {"small": (3.1, 3.7), "large": (4.9, 5.6)}
APART = 3.0
"""The least distance, in pixels, between centres along a relation's axis."""
_REACH = {"circle": 1.0, "square": 1.25, "triangle": 1.25, "cross": 1.07, "ring": 1.0}
"""From the centre to the farthest point, in radii."""
_GAP = 1.3
_MARGIN = 0.4  # pixels between a shape and the frame
_FROM_BORDER = 0.7  # pixels between a centre and the border of a third
_CELLS = tuple(
    (SIDE / 3 * cell + _FROM_BORDER * (cell > 0), SIDE / 3 * (cell + 1) - _FROM_BORDER * (cell < 2))
    for cell in range(3)
)
"""The thirds of a side, without what is too near a border between two."""
_TRIES = 20
_RESTARTS = 2000
_FEW_RESTARTS = 20


@dataclass(frozen=True)
class Shape:
    """One object: centre and radius in pixels from the top left corner, `rgb` from 0 to 1."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """A picture as it is meant. `light` is the background's RGB in its middle, `slope` its change a pixel."""

    shapes: tuple[Shape, ...]
    background: str
    light: tuple[float, float, float]
    slope: tuple[float, float]


class NoRoom(ValueError):
    """No arrangement of the shapes that a caption asks for was found."""


def place_of(x: float, y: float) -> tuple[str, str]:
    """The row ("top", "middle", "bottom") and the column ("left", "middle", "right") of a point in pixels."""
    third = SIDE / 3
    return ("top", "middle", "bottom")[_third(y / third)], ("left", "middle", "right")[_third(x / third)]


def _third(value: float) -> int:
    return min(2, max(0, int(value)))


def fits_place(place: str, x: float, y: float) -> bool:
    """Whether a point lies where `place` of a caption says: a side is a whole row or column, a corner one cell."""
    row, column = place_of(x, y)
    if place == "centre":
        return (row, column) == ("middle", "middle")
    return all(word in (row, column) for word in place.split())


def related(relation: str, x: float, y: float, other_x: float, other_y: float, *, apart: float = APART) -> bool:
    """Whether the first point is `relation` ("above" …) the other, by at least `apart` pixels."""
    gained = {
        "above": other_y - y,
        "below": y - other_y,
        "to the left of": other_x - x,
        "to the right of": x - other_x,
    }
    return gained[relation] >= apart


def draw_scene(caption: Caption, rng: random.Random, *, restarts: int = _RESTARTS) -> Scene:
    """One of the pictures that the caption allows, by lot. Raises NoRoom where its shapes do not fit the frame."""
    for _ in range(restarts):
        placed = _arrange(caption, rng)
        if placed is not None:
            background = caption.background or rng.choice(BACKGROUNDS)
            grey = rng.uniform(0.05, 0.24) if background == "dark" else rng.uniform(0.76, 0.92)
            light = tuple(grey + rng.uniform(-0.02, 0.02) for _ in range(3))
            angle, steepness = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.003)
            slope = (math.cos(angle) * steepness, math.sin(angle) * steepness)
            return Scene(tuple(placed), background, (light[0], light[1], light[2]), slope)
    raise NoRoom(f"found no room for {caption.text()}")


def _arrange(caption: Caption, rng: random.Random) -> list[Shape] | None:
    """All shapes in the order of the groups, or None when one found no room beside the others."""
    spare = 4 - sum(group.least for group in caption.groups)
    owned: list[tuple[int, Group]] = []
    for index, group in enumerate(caption.groups):
        more = rng.randint(0, spare) if group.count is None else 0
        spare -= more
        owned += [(index, group)] * (group.least + more)
    placed: list[tuple[int, Shape]] = []
    for index, group in owned:
        for _ in range(_TRIES):
            shape = _draw_shape(group, rng)
            if _has_room(shape, index, placed, caption.relation):
                placed.append((index, shape))
                break
        else:
            return None
    return [shape for _, shape in placed]


def _draw_shape(group: Group, rng: random.Random) -> Shape:
    kind, colour = group.shape or rng.choice(SHAPES), group.colour or rng.choice(COLOURS)
    size = group.size or rng.choice(SIZES)
    radius = rng.uniform(*RADII[size])
    edge = _REACH[kind] * radius + _MARGIN
    x, y = (_coordinate(group.place, words, edge, rng) for words in (("left", "right"), ("top", "bottom")))
    base = PALETTE[colour]
    bright = rng.uniform(0.9, 1.06)
    rgb = tuple(min(1.0, max(0.0, part * bright + rng.uniform(-0.03, 0.03))) for part in base)
    return Shape(kind, colour, size, x, y, radius, (rgb[0], rgb[1], rgb[2]))


def _coordinate(place: str | None, words: tuple[str, str], edge: float, rng: random.Random) -> float:
    """A coordinate off the frame and off the borders of the thirds, in the third that `place` says, if any."""
    cells = [0, 1, 2]
    if place == "centre":
        cells = [1]
    elif place:
        cells = [cell for word, cell in zip(words, (0, 2), strict=True) if word in place.split()] or cells
    free = [(max(_CELLS[cell][0], edge), min(_CELLS[cell][1], SIDE - edge)) for cell in cells]
    drawn = rng.uniform(0, sum(high - low for low, high in free))
    for low, high in free:
        if drawn <= high - low:
            break
        drawn -= high - low
    return min(low + drawn, high)


def _has_room(shape: Shape, index: int, placed: list[tuple[int, Shape]], relation: str | None) -> bool:
    for other_index, other in placed:
        reach = _REACH[shape.shape] * shape.radius + _REACH[other.shape] * other.radius
        if math.hypot(shape.x - other.x, shape.y - other.y) < reach + _GAP:
            return False
        if (
            relation
            and other_index != index
            and not related(relation, other.x, other.y, shape.x, shape.y, apart=APART + 1)
        ):
            return False
    return True


def distance(kind: str, x: Floats, y: Floats, radius: Floats | float) -> Floats:
    """Signed distance to a shape's edge in pixels, negative inside; `x` and `y` count from its centre, y downwards."""
    if kind == "circle":
        return np.hypot(x, y) - radius
    if kind == "ring":
        away = np.hypot(x, y)
        return np.maximum(away - radius, 0.5 * radius - away)
    if kind == "square":
        return _box(x, y, 0.88 * radius, 0.88 * radius)
    if kind == "cross":
        return np.minimum(_box(x, y, radius, 0.36 * radius), _box(x, y, 0.36 * radius, radius))
    inner = 0.625 * radius  # of an upright triangle with equal sides whose corners are 1.25 radii away
    return np.maximum(y - inner, np.abs(x) * (math.sqrt(3) / 2) - y * 0.5 - inner)


def _box(x: Floats, y: Floats, half_width: Floats | float, half_height: Floats | float) -> Floats:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def coverage(kind: str, x: Floats, y: Floats, radius: Floats | float) -> Floats:
    """How much of each pixel the shape covers, 0 to 1; arguments as for `distance`."""
    covered: Floats = np.clip(0.5 - distance(kind, x, y, radius), 0.0, 1.0)
    return covered


_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + np.float32(0.5)


def render(scene: Scene) -> Floats:
    """The picture: float32 of shape [32, 32, 3], from 0 to 1."""
    slope = scene.slope[0] * (_COLUMNS - SIDE / 2) + scene.slope[1] * (_ROWS - SIDE / 2)
    image: Floats = np.asarray(scene.light, np.float32) + slope[..., None]
    for shape in scene.shapes:
        covered = coverage(shape.shape, _COLUMNS - np.float32(shape.x), _ROWS - np.float32(shape.y), shape.radius)
        image += covered[..., None] * (np.asarray(shape.rgb, np.float32) - image)
    return image.clip(0.0, 1.0)


def draw_captions(number: int, part: Part, seed: int) -> list[Caption]:
    """Captions of one part by lot, with those that come twice; what leaves its shapes hardly any room is left out."""
    rng, found = random.Random(seed), list[Caption]()
    while len(found) < number:
        caption = draw_caption(rng)
        if caption.part == part and _fits(caption, rng):
            found.append(caption)
    return found


def _fits(caption: Caption, rng: random.Random) -> bool:
    try:
        draw_scene(caption, rng, restarts=_FEW_RESTARTS)
    except NoRoom:
        return False
    return True


def draw_images(captions: Sequence[Caption], seeds: Iterable[int]) -> Floats:
    """A picture for each caption, by its own seed: float32 [captions, 32, 32, 3]. Raises NoRoom as `draw_scene`."""
    return np.stack(
        [render(draw_scene(caption, random.Random(seed))) for caption, seed in zip(captions, seeds, strict=True)]
    )
