"""Captions of shapes: their grammar both ways, how they are drawn by lot, and which part of the work may see which.

    caption    = group | group relation group | group {", " group} " and " group, then [" on a dark background"]
    group      = [count] [size] [colour] shape [place]

What a caption leaves open, a picture may fill as it likes: "two shapes" asks for less than "two small red circles on
the left", and that is what makes prompts of unlike difficulty.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "predictor", "contract", "test"]

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = ("small", "large")
PLACES = ("top", "bottom", "left", "right", "top left", "top right", "bottom left", "bottom right", "centre")
RELATIONS = ("above", "below", "to the left of", "to the right of")
BACKGROUNDS = ("dark", "light")
MAX_OBJECTS = 4

_COUNTS = ("one", "two", "three", "four")
_WORDINGS: dict[str, tuple[str, ...]] = {
    "large": ("large", "big"),
    "small": ("small", "little"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "to the left of": ("to the left of", "left of"),
    "to the right of": ("to the right of", "right of"),
    "in the centre": ("in the centre", "in the middle", "in the center"),
}
"""The ways to say a word; the first is the canonical one."""
_REWORDED = 0.15
"""How often `Caption.text` says a word in another way when it may."""
_PLURALS = {"cross": "crosses"}
_SHARES: dict[Part, int] = {"train": 70, "predictor": 10, "contract": 10, "test": 10}  # per cent
_SHOWN = 200  # characters of what is outside the world


class OutsideWorld(ValueError):
    """A prompt asks for something that the shapes' world has not; the message says what, and what there is."""


@dataclass(frozen=True)
class Group:
    """One or more like objects. None: left open; an open `count` ("some") is two to four."""

    count: int | None = 1
    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    place: str | None = None

    @property
    def least(self) -> int:
        """The fewest objects that it can be."""
        return self.count or 2

    def text(self, wording: random.Random | None = None) -> str:
        """In words, such as "two small red circles on the left"."""
        noun = self.shape or "shape"
        if self.count != 1:
            noun = _PLURALS.get(noun, f"{noun}s")
        words = [_say(self.size, wording) if self.size else "", self.colour or "", noun]
        described = " ".join(word for word in words if word)
        article = "an" if described[0] in "aeiou" else "a"
        first = article if self.count == 1 else "some" if self.count is None else _COUNTS[self.count - 1]
        return f"{first} {described}" + (f" {_say(_placed(self.place), wording)}" if self.place else "")


@dataclass(frozen=True)
class Caption:
    """What a picture must show. `relation` holds between every object of the first group and every one of the second.

    Hashable; equal captions have equal `text()`.
    """

    groups: tuple[Group, ...]
    relation: str | None = None
    background: str | None = None

    def text(self, wording: random.Random | None = None) -> str:
        """In words that `parse` reads: the canonical ones, or with `wording` sometimes others."""
        texts = [group.text(wording) for group in self.groups]
        if self.relation:
            said = f" {_say(self.relation, wording)} ".join(texts)
        else:
            said = " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
        return said + (f" on a {self.background} background" if self.background else "")

    @property
    def least(self) -> int:
        """The fewest objects that it asks for."""
        return sum(group.least for group in self.groups)

    @property
    def specificity(self) -> float:
        """The share of the objects' colours, shapes, sizes and places that is given, from 0 to 1."""
        given = sum(
            group.least * sum(value is not None for value in (group.colour, group.shape, group.size, group.place))
            for group in self.groups
        )
        return given / (4 * self.least)

    @property
    def part(self) -> Part:
        """The one part of the work that may see it, by its hash: all wordings of one caption are in one part."""
        drawn = int.from_bytes(hashlib.sha256(self.text().encode()).digest()[:8], "big") % 100
        for part, share in _SHARES.items():
            if drawn < share:
                return part
            drawn -= share
        raise AssertionError("the shares do not sum to 100")


def bare(prompt: str) -> str:
    """A prompt without the words that ask for a picture: "Draw a red circle" is "a red circle"."""
    return _ASKING.sub("", prompt.strip())


def parse(text: str) -> Caption:
    """The caption that a prompt is, whatever asks for it. Raises OutsideWorld for any other text."""
    left = re.sub(r"\s+", " ", bare(text).lower()).rstrip(".")
    background = None
    if found := _BACKGROUND.search(left):
        background, left = found["background"], left[: found.start()]
    relation, parts = None, _JOIN.split(left)
    for said, canonical in _RELATIONS.items():
        sides = left.split(f" {said} ")
        if relation is None and len(sides) == 2:
            relation, parts = canonical, sides
    groups = tuple(_group(part) for part in parts)
    caption = Caption(groups, relation, background)
    if caption.least > MAX_OBJECTS:
        raise OutsideWorld(f"{caption.least} objects are more than the {MAX_OBJECTS} that a picture of shapes holds")
    return caption


def draw_caption(rng: random.Random) -> Caption:
    """A caption by lot, from "a shape" to four objects with everything given."""
    counts = rng.choice(((1,), (1,), (2,), (2,), (3,), (4,), (None,), (1, 1), (1, 1), (1, 2), (2, 1), (2, 2), (1, 3),
                         (3, 1), (1, None), (1, 1, 1), (1, 1, 2), (1, 1, 1, 1)))  # fmt: skip
    relation = rng.choice(RELATIONS) if len(counts) == 2 and rng.random() < 0.5 else None
    given = rng.choice((0.2, 0.5, 0.8))
    groups = tuple(_draw_group(rng, count, given, placed=relation is None) for count in counts)
    return Caption(groups, relation, rng.choice(BACKGROUNDS) if rng.random() < given / 3 else None)


def _draw_group(rng: random.Random, count: int | None, given: float, *, placed: bool) -> Group:
    def maybe(values: tuple[str, ...], share: float = 1.0) -> str | None:
        return rng.choice(values) if rng.random() < given * share else None

    places = PLACES if count == 1 else PLACES[:4]
    colour, shape = maybe(COLOURS, 1.2), maybe(SHAPES, 1.2)
    return Group(count, maybe(SIZES, 0.7), colour, shape, maybe(places, 0.7) if placed else None)


def _say(phrase: str, wording: random.Random | None) -> str:
    if wording is None or phrase not in _WORDINGS or wording.random() >= _REWORDED:
        return phrase
    return wording.choice(_WORDINGS[phrase][1:])


def _placed(place: str) -> str:
    if place in ("left", "right"):
        return f"on the {place}"
    return f"at the {place}" if place in ("top", "bottom") else f"in the {place}"


def _either(words: tuple[str, ...]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


def _canonical(said: str) -> str:
    return next((phrase for phrase, wordings in _WORDINGS.items() if said in wordings), said)


_NUMBERS: dict[str, int | None] = {"a": 1, "an": 1, "some": None, "several": None}
_NUMBERS |= {said: number + 1 for number, word in enumerate(_COUNTS) for said in (word, str(number + 1))}
_SINGULARS = {plural: noun for noun in (*SHAPES, "shape") for plural in (_PLURALS.get(noun, f"{noun}s"), noun)}
_PLACES = {said: place for place in PLACES for said in _WORDINGS.get(_placed(place), (_placed(place),))}
_SIZES = tuple(said for size in SIZES for said in _WORDINGS[size])
_RELATIONS = {said: relation for relation in RELATIONS for said in _WORDINGS[relation]}
_ASKING = re.compile(
    r"^(?:please )?(?:draw|paint|show|make)(?: me)? |^(?:an? )?(?:picture|image|drawing) (?:of|with) ", re.IGNORECASE
)
_JOIN = re.compile(r", and | and |, ")
_BACKGROUND = re.compile(rf" on a (?P<background>{_either(BACKGROUNDS)}) background$")
_GROUP = re.compile(
    rf"(?P<count>{_either(tuple(_NUMBERS))}) (?:(?P<size>{_either(_SIZES)}) )?"
    rf"(?:(?P<colour>{_either(COLOURS)}) )?(?P<noun>{_either(tuple(_SINGULARS))})"
    rf"(?: (?P<place>{_either(tuple(_PLACES))}))?"
)
_WORDS = frozenset(
    word
    for said in (*_NUMBERS, *_SIZES, *COLOURS, *_SINGULARS, *_PLACES, *_RELATIONS, *BACKGROUNDS, "background", "and")
    for word in said.split()
)


def _group(text: str) -> Group:
    found = _GROUP.fullmatch(text)
    if found is None:
        unknown = sorted({word for word in re.findall(r"[\w-]+", text) if word not in _WORDS})
        named = ", ".join(map(repr, unknown)) if unknown else repr(text)
        named = named if len(named) <= _SHOWN else f"{named[:_SHOWN]}…"
        what = f"the model does not know {named}" if unknown else f"{named} is no group of shapes"
        raise OutsideWorld(
            f"{what}: it draws one to four of {', '.join(SHAPES)}, in {', '.join(COLOURS)}, small or large, at a "
            f'place, such as "two red circles above a blue square"'
        )
    noun = _SINGULARS[found["noun"]]
    size = _canonical(found["size"]) if found["size"] else None
    place = _PLACES[found["place"]] if found["place"] else None
    return Group(_NUMBERS[found["count"]], size, found["colour"], None if noun == "shape" else noun, place)
