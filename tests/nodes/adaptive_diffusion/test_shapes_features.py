"""The shipped classifier's features tell sets of pictures apart as an eye would."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from dynflow.nodes.adaptive_diffusion.shapes.features import features_of, targets
from dynflow.nodes.adaptive_diffusion.shapes.metrics import frechet
from dynflow.nodes.adaptive_diffusion.shapes.scenes import Scene, Shape, draw_captions, draw_images

NUMBER = 160


def pictures(seed: int):
    return draw_images(draw_captions(NUMBER, "test", seed), range(seed * NUMBER, (seed + 1) * NUMBER))


def test_the_worse_pictures_are_the_farther_they_are_from_fresh_ones() -> None:
    fresh, other = pictures(1), pictures(2)
    rng = np.random.default_rng(0)
    sets = [
        other,
        np.clip(other + rng.normal(0, 0.1, other.shape), 0, 1),
        np.clip(other + rng.normal(0, 0.3, other.shape), 0, 1),
        rng.random(other.shape),
    ]
    reference = features_of(fresh)
    assert reference.shape == (NUMBER, 64)
    distances = [frechet(features_of(images), reference) for images in sets]
    assert distances == sorted(distances)
    assert distances[0] < 0.5 * distances[2]


def test_missing_objects_are_seen() -> None:
    fresh, other = pictures(1), pictures(2)
    emptied = np.broadcast_to(other[:, :1, :1], other.shape)
    reference = features_of(fresh)
    assert frechet(features_of(other), reference) < 0.5 * frechet(features_of(emptied), reference)


def test_what_it_learns_is_what_the_picture_holds() -> None:
    circle = Shape("circle", "red", "small", x=3.0, y=30.0, radius=3.2, rgb=(0.9, 0.1, 0.1))
    held = targets(Scene((circle,), "light", (0.8, 0.8, 0.8), (0.0, 0.0)))
    assert held.sum() == 5  # a shape, a colour, a size, a cell, and the light ground
    assert held[-1] == 1
    assert held[5 + 7 + 2 + 12] == 1  # the lower left of four by four cells
