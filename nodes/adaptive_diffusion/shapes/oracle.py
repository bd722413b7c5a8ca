"""Reads shapes back from pixels, and says whether a picture shows what its caption asks for.

No network: shapes are what is saturated, apart from each other; each is compared with every kind at every radius. On
clean pictures it is exact (a test draws some); a smudge that is like no shape is `None` and meets no demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from dynflow.nodes.adaptive_diffusion.shapes.captions import SHAPES, Caption, Group
from dynflow.nodes.adaptive_diffusion.shapes.scenes import (
    APART,
    PALETTE,
    RADII,
    SIDE,
    coverage,
    fits_place,
    related,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SATURATED = 0.22
"""Largest minus smallest of a pixel's red, green and blue, from which on it belongs to a shape: half of what the
palest shape has, and well above any background."""
LEAST_PIXELS = 6
"""Fewer are a speck and no object; the smallest shape has twice as many."""
LIKENESS = 0.7
"""The least share that a blot and a shape's outline must have in common (soft intersection over union)."""
MIDDLE_RADIUS = (RADII["small"][1] + RADII["large"][0]) / 2
_RADII = np.arange(2.4, 6.6, 0.2, dtype=np.float32)
_APART = APART - 0.5  # a hair less than scenes keep, for what the pixels blur


@dataclass(frozen=True)
class Seen:
    """One object as the pixels show it: centre and radius in pixels; `shape` None: like none; `likeness` to 1."""

    shape: str | None
    colour: str
    size: str
    x: float
    y: float
    radius: float
    likeness: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    objects: tuple[Seen, ...]
    background: str


def read(image: NDArray[np.floating]) -> Reading:
    """What a picture, [32, 32, 3] from 0 to 1, shows."""
    saturation = image.max(-1) - image.min(-1)
    labels = _connected(saturation > SATURATED)
    objects = []
    for label in np.unique(labels[labels > 0]):
        blot = labels == label
        if blot.sum() >= LEAST_PIXELS:
            objects.append(_recognise(image, saturation, blot, labels))
    bare = image[saturation <= SATURATED]
    return Reading(tuple(objects), "light" if bare.size and bare.mean() > 0.5 else "dark")


def shows(image: NDArray[np.floating], caption: Caption) -> bool:
    """Whether a picture shows all that its caption asks for, and no object besides."""
    return meets(read(image), caption)


def meets(reading: Reading, caption: Caption) -> bool:
    """`shows`, for a picture that was read."""
    if caption.background not in (None, reading.background):
        return False
    return any(
        all(_is(seen, group) for group, several in zip(caption.groups, parted, strict=True) for seen in several)
        and (caption.relation is None or _stand(caption.relation, parted[0], parted[1]))
        for parted in _parted(reading.objects, caption.groups)
    )


def alignment(images: NDArray[np.floating], captions: Sequence[Caption]) -> NDArray[np.bool_]:
    """Which of the pictures [pictures, 32, 32, 3] show what their captions ask for: bool [pictures]."""
    return np.array([shows(image, caption) for image, caption in zip(images, captions, strict=True)], dtype=bool)


def _is(seen: Seen, group: Group) -> bool:
    return (
        seen.shape is not None
        and group.shape in (None, seen.shape)
        and group.colour in (None, seen.colour)
        and group.size in (None, seen.size)
        and (group.place is None or fits_place(group.place, seen.x, seen.y))
    )


def _stand(relation: str, first: Sequence[Seen], second: Sequence[Seen]) -> bool:
    return all(related(relation, a.x, a.y, b.x, b.y, apart=_APART) for a in first for b in second)


def _parted(objects: tuple[Seen, ...], groups: tuple[Group, ...]) -> list[list[tuple[Seen, ...]]]:
    """Every way to hand all objects out among the groups as their counts say; none where the counts do not fit."""
    if len(objects) > 4 or len(objects) < sum(group.least for group in groups):
        return []
    spare = len(objects) - sum(group.least for group in groups)
    open_groups = [index for index, group in enumerate(groups) if group.count is None]
    if spare and not open_groups:
        return []
    ways = []
    for extra in {tuple(0 for _ in groups)} if not spare else _spread(spare, open_groups, len(groups)):
        counts = [group.least + more for group, more in zip(groups, extra, strict=True)]
        ends = np.cumsum(counts)
        ways += [
            [order[end - count : end] for count, end in zip(counts, ends, strict=True)]
            for order in permutations(objects)
        ]
    return ways


def _spread(spare: int, open_groups: list[int], groups: int) -> set[tuple[int, ...]]:
    """The ways to share `spare` objects out among the groups whose count is open."""
    ways = {tuple(0 for _ in range(groups))}
    for _ in range(spare):
        ways = {tuple(n + (index == at) for index, n in enumerate(way)) for way in ways for at in open_groups}
    return ways


def _connected(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Labels [32, 32] of the parts that hang together over edges; 0 outside the mask."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = labels.copy()
        spread[1:] = np.maximum(spread[1:], labels[:-1])
        spread[:-1] = np.maximum(spread[:-1], labels[1:])
        spread[:, 1:] = np.maximum(spread[:, 1:], labels[:, :-1])
        spread[:, :-1] = np.maximum(spread[:, :-1], labels[:, 1:])
        spread = np.where(mask, spread, 0)
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def _recognise(
    image: NDArray[np.floating], saturation: NDArray[np.floating], blot: NDArray[np.bool_], labels: NDArray[np.int64]
) -> Seen:
    """The kind, radius, colour and place that fit a blot best. Its soft edge counts by how saturated it is."""
    full = np.quantile(saturation[blot], 0.8)
    near = _grown(blot) & ((labels == 0) | blot)
    soft = np.where(near, np.clip(saturation / full, 0, 1), 0)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    x, y = float((soft * columns).sum() / soft.sum()), float((soft * rows).sum() / soft.sum())
    inside = saturation >= 0.85 * full
    colour = _colour(image[blot & inside].mean(0))
    across, down = (columns - x).astype(np.float32)[..., None], (rows - y).astype(np.float32)[..., None]
    best = max(
        (
            (float(likeness), kind, float(radius))
            for kind in SHAPES
            for likeness, radius in zip(_likeness(soft, coverage(kind, across, down, _RADII)), _RADII, strict=True)
        ),
    )
    likeness, kind, radius = best
    size = "small" if radius < MIDDLE_RADIUS else "large"
    return Seen(kind if likeness >= LIKENESS else None, colour, size, x, y, radius, likeness)


def _likeness(soft: NDArray[np.floating], outlines: NDArray[np.float32]) -> NDArray[np.floating]:
    """Soft intersection over union of a blot [32, 32] with each of the outlines [32, 32, outlines]."""
    both = np.minimum(soft[..., None], outlines).sum((0, 1))
    either = np.maximum(soft[..., None], outlines).sum((0, 1))
    return np.asarray(both / either)


def _grown(blot: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The blot and the pixels around it."""
    padded = np.pad(blot, 1)
    return np.asarray(
        np.any([padded[1 + y : 1 + y + SIDE, 1 + x : 1 + x + SIDE] for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0)
    )


def _colour(rgb: NDArray[np.floating]) -> str:
    """The palette's nearest, whatever the brightness: colours are compared at equal length."""
    return min(PALETTE, key=lambda name: float(np.square(_direction(rgb) - _direction(np.array(PALETTE[name]))).sum()))


def _direction(rgb: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(rgb / max(float(np.linalg.norm(rgb)), 1e-9))
