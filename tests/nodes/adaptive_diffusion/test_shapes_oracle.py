"""The oracle reads clean pictures without a mistake, and says no to what a caption does not allow."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dynflow.nodes.adaptive_diffusion.shapes.captions import parse
from dynflow.nodes.adaptive_diffusion.shapes.oracle import alignment, read, shows
from dynflow.nodes.adaptive_diffusion.shapes.scenes import (
    NoRoom,
    draw_captions,
    draw_images,
    draw_scene,
    fits_place,
    render,
)
from tests.effort import EFFORT

CAPTIONS = draw_captions(100 * EFFORT, "test", seed=1)


def test_every_object_of_a_clean_picture_is_read_as_it_was_drawn() -> None:
    for seed, caption in enumerate(CAPTIONS):
        scene = draw_scene(caption, random.Random(seed))
        reading = read(render(scene))
        assert reading.background == scene.background
        assert len(reading.objects) == len(scene.shapes)
        for drawn in scene.shapes:
            seen = min(reading.objects, key=lambda each: abs(each.x - drawn.x) + abs(each.y - drawn.y))
            assert (seen.shape, seen.colour, seen.size) == (drawn.shape, drawn.colour, drawn.size)
            assert abs(seen.x - drawn.x) + abs(seen.y - drawn.y) < 0.5
            assert abs(seen.radius - drawn.radius) < 0.4


def test_a_clean_picture_shows_its_caption() -> None:
    assert alignment(draw_images(CAPTIONS, range(len(CAPTIONS))), CAPTIONS).all()


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ("two red circles", "a red circle"),
        ("a red circle", "two red circles"),
        ("a red circle and a blue square", "a blue circle and a red square"),
        ("a small ring", "a large ring"),
        ("a cross at the top", "a cross at the bottom"),
        ("a red circle above a blue square", "a red circle below a blue square"),
        ("a ring on a dark background", "a ring on a light background"),
        ("a ring", "some rings"),
        ("three green crosses", "two green crosses and a ring"),
    ],
)
def test_a_picture_of_something_else_does_not(shown: str, asked: str) -> None:
    images = draw_images([parse(shown)] * 5, range(5))
    assert not any(shows(image, parse(asked)) for image in images)


def test_what_a_caption_leaves_open_may_be_anything() -> None:
    image = draw_images([parse("a small red ring at the top and two large blue squares")], [3])[0]
    for looser in ("three shapes", "some shapes", "a ring and two shapes", "some squares and a red shape"):
        assert shows(image, parse(looser)), looser


def test_noise_and_a_smudge_show_nothing_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    assert not shows(rng.random((32, 32, 3)), parse("a shape"))
    smudge = np.full((32, 32, 3), 0.1)
    smudge[10:12, 4:28] = (0.9, 0.1, 0.1)  # a line
    assert [each.shape for each in read(smudge).objects] == [None]
    assert not shows(smudge, parse("a shape"))


def test_a_blurred_and_noisy_picture_is_still_read() -> None:
    """Generated pictures are never quite clean."""
    images = draw_images(CAPTIONS[:60], range(60))
    blurred = sum(np.roll(images, (y, x), (1, 2)) for y in (0, 1) for x in (0, 1)) / 4
    noisy = np.clip(blurred + np.random.default_rng(0).normal(0, 0.02, blurred.shape), 0, 1)
    assert alignment(noisy, CAPTIONS[:60]).mean() > 0.85


def test_pictures_are_a_function_of_caption_and_seed() -> None:
    several = draw_images(CAPTIONS[:3], [5, 6, 7])
    assert several.shape == (3, 32, 32, 3)
    assert several.dtype == np.float32
    assert 0 <= several.min() <= several.max() <= 1
    np.testing.assert_array_equal(several[1], draw_images(CAPTIONS[1:2], [6])[0])
    assert not np.array_equal(several[1], draw_images(CAPTIONS[1:2], [8])[0])


def test_places_are_where_their_words_say() -> None:
    assert fits_place("top left", 3, 3)
    assert fits_place("top", 16, 3)
    assert not fits_place("top left", 16, 3)
    assert fits_place("centre", 16, 16)
    assert not fits_place("centre", 16, 28)


def test_what_cannot_fit_is_said() -> None:
    with pytest.raises(NoRoom, match="four large squares on the left"):
        draw_scene(parse("four large squares on the left"), random.Random(0), restarts=3)
