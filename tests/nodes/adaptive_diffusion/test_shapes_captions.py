"""Captions of shapes: what is said is what is read, each is in one part, and what is outside is told plainly."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from dynflow.nodes.adaptive_diffusion.shapes.captions import Caption, Group, OutsideWorld, draw_caption, parse

DRAWN = [draw_caption(random.Random(seed)) for seed in range(2000)]


def test_every_wording_of_a_caption_is_read_as_that_caption() -> None:
    for seed, caption in enumerate(DRAWN):
        assert parse(caption.text()) == caption
        assert parse(caption.text(random.Random(seed))) == caption


def test_wordings_differ() -> None:
    assert any(caption.text() != caption.text(random.Random(seed)) for seed, caption in enumerate(DRAWN))


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        (
            "two red circles above a blue square",
            Caption((Group(2, colour="red", shape="circle"), Group(1, colour="blue", shape="square")), "above"),
        ),
        ("A big ring.", Caption((Group(1, size="large", shape="ring"),))),
        ("Draw me a big ring.", Caption((Group(1, size="large", shape="ring"),))),
        ("a picture of 3 crosses at the top", Caption((Group(3, shape="cross", place="top"),))),
        ("3 crosses  at the top", Caption((Group(3, shape="cross", place="top"),))),
        ("some shapes on a light background", Caption((Group(None),), background="light")),
        (
            "an orange triangle in the middle, a shape and two rings",
            Caption((Group(1, colour="orange", shape="triangle", place="centre"), Group(), Group(2, shape="ring"))),
        ),
        ("a ring left of a cross", Caption((Group(1, shape="ring"), Group(1, shape="cross")), "to the left of")),
    ],
)
def test_prompts_that_people_write(prompt: str, caption: Caption) -> None:
    assert parse(prompt) == caption


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a cat on a mat", "'cat', 'mat'"),
        ("five circles", "'five'"),
        ("three circles and two squares", "5 objects"),
        ("a red ring a blue", "no group of shapes"),
        ("a ring above a cross above a square", "no group of shapes"),
        ("", "no group of shapes"),
        ("a red\x00 circle", "no group of shapes"),
    ],
)
def test_a_prompt_outside_the_world_is_told_what_there_is(prompt: str, told: str) -> None:
    with pytest.raises(OutsideWorld, match=r"4 that a picture|it draws one to four of circle") as raised:
        parse(prompt)
    assert told in str(raised.value)


def test_a_long_prompt_is_not_repeated_whole() -> None:
    for prompt in ("red circle " * 2_500, " ".join(f"cat{number}" for number in range(5_000))):
        with pytest.raises(OutsideWorld) as raised:
            parse(prompt)
        assert len(str(raised.value)) < 500


def test_a_caption_is_in_one_part_and_every_part_has_some() -> None:
    parts = Counter(caption.part for caption in set(DRAWN))
    assert parts.keys() == {"train", "predictor", "contract", "test"}
    assert min(parts.values()) > 0.05 * sum(parts.values())
    assert parse("a red circle").part == parse("A red circle.").part == "train"  # pinned: a move would leak


def test_specificity_goes_from_nothing_to_everything_given() -> None:
    assert parse("two shapes").specificity == 0
    assert parse("a small red ring in the centre").specificity == 1
    assert {round(caption.specificity, 1) for caption in DRAWN} >= {0.0, 0.2, 0.5, 0.8, 1.0}
