"""A split that does not leak where rows are pieces of other rows: a row and every row that contains it stay together.

Rows of treebanks and of chunked documents are like that: a random split would put the phrase in the training rows and
the sentence that holds it among those held out.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from networkx.utils import UnionFind

from dynflow.errors import InputError

_FEWEST_WORDS = 3
"""Of a row that ties those which contain it: shorter ones are everywhere, and would tie nearly all rows together."""
Words = tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Indices of rows, ascending; every row is in one of the three."""

    train: list[int]
    held_out: list[int]
    set_aside: list[int]
    """Rows of one or two words that rows on both sides contain: to be neither learnt from nor judged on."""


def split_by_containment(texts: Sequence[str], held_out: int, seed: int = 0) -> Split:
    """Hold out at least `held_out` rows, so that no row of one side contains, or is contained in, one of the other.

    A row contains another if that one's words stand in it in a row; case and white space do not count. Rows tied to one
    another, directly or through others, are a cluster; clusters are drawn at random. The same texts and seed give the
    same split. Raises InputError if there are not enough rows.
    """
    rows = [tuple(text.casefold().split()) for text in texts]
    clusters, within = _clusters(rows)
    sizes = Counter(cluster for cluster in clusters if cluster is not None)
    if held_out < 1 or held_out >= sum(sizes.values()):
        raise InputError(
            f"{held_out:,} rows cannot be held out of {len(rows):,}: at least one must stay on either side, and the "
            f"{len(rows) - sum(sizes.values()):,} rows of fewer than {_FEWEST_WORDS} words do not count"
        )
    drawn: set[int] = set()
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    count = 0
    for cluster in order:
        if count >= held_out:
            break
        drawn.add(cluster)
        count += sizes[cluster]
    if count == sum(sizes.values()):
        raise InputError(f"{held_out:,} rows cannot be held out: the rows contain one another too much")
    sides = {index: {cluster in drawn} for index, cluster in enumerate(clusters) if cluster is not None}
    for index in sorted(within, key=lambda index: -len(rows[index])):  # a row of two words before those within it
        sides[index] = set().union(*(sides[container] for container in within[index])) or {False}
    return Split(
        train=[index for index in range(len(rows)) if sides[index] == {False}],
        held_out=[index for index in range(len(rows)) if sides[index] == {True}],
        set_aside=[index for index in range(len(rows)) if len(sides[index]) == 2],
    )


def clusters(texts: Sequence[str]) -> list[int]:
    """The cluster of each row, as a number: what to draw whole where rows are drawn. A row of one or two words is one
    of its own."""
    return [
        index if cluster is None else cluster
        for index, cluster in enumerate(_clusters([tuple(text.casefold().split()) for text in texts])[0])
    ]


def _clusters(rows: Sequence[Words]) -> tuple[list[int | None], dict[int, set[int]]]:
    """Per row its cluster, None for a short row; and for each short row, the rows longer than it that contain it."""
    places: dict[Words, list[int]] = defaultdict(list)
    for index, words in enumerate(rows):
        places[words].append(index)
    lengths: dict[Words, set[int]] = defaultdict(set)  # by a row's first words, so that few spans are looked up
    for words in places:
        lengths[words[:_FEWEST_WORDS]].add(len(words))
    ties = UnionFind(range(len(rows)))
    within: dict[int, set[int]] = {index: set() for index, words in enumerate(rows) if len(words) < _FEWEST_WORDS}
    for words, same in places.items():
        ties.union(*same)
        for span in _spans(words, lengths):
            for index in places.get(span, ()):
                if index not in within:
                    ties.union(same[0], index)
                elif len(span) < len(words):
                    within[index].update(same)
    number: dict[int, int] = {}
    clusters = [None if index in within else number.setdefault(ties[index], index) for index in range(len(rows))]
    return clusters, within


def _spans(words: Words, lengths: dict[Words, set[int]]) -> Iterator[Words]:
    """The parts of `words` that may be whole rows: those that begin as one, and are as long."""
    for start in range(len(words)):
        anchor = words[start : start + _FEWEST_WORDS]
        for short in range(1, len(anchor)):
            if short in lengths.get(anchor[:short], ()):
                yield anchor[:short]
        for length in lengths.get(anchor, ()):
            if start + length <= len(words):
                yield words[start : start + length]
