"""The split that keeps a row together with every row that contains it."""

import random

import pytest

from dynflow.errors import InputError
from dynflow.learning.containment import clusters, split_by_containment


def contains(row: str, part: str) -> bool:
    return f" {' '.join(part.casefold().split())} " in f" {' '.join(row.casefold().split())} "


def treebank(sentences: int, seed: int = 0) -> list[str]:
    """Sentences of common words, and pieces of them, in no order."""
    draw = random.Random(seed)
    rows = []
    for _ in range(sentences):
        words = [f"w{int(draw.expovariate(0.02))}" for _ in range(draw.randint(4, 20))]
        rows.append(" ".join(words))
        for _ in range(4):
            start = draw.randrange(len(words))
            rows.append(" ".join(words[start : start + draw.randint(1, 8)]))
    draw.shuffle(rows)
    return rows


def test_no_row_contains_one_of_the_other_side() -> None:
    rows = treebank(120)
    split = split_by_containment(rows, 150)
    assert sorted([*split.train, *split.held_out, *split.set_aside]) == list(range(len(rows)))
    assert 150 <= len(split.held_out) < 300
    for train in split.train:
        for held_out in split.held_out:
            assert not contains(rows[train], rows[held_out])
            assert not contains(rows[held_out], rows[train])


def test_only_short_rows_that_are_on_both_sides_are_set_aside() -> None:
    rows = treebank(120)
    split = split_by_containment(rows, 150)
    assert split.set_aside
    for index in split.set_aside:
        assert len(rows[index].split()) < 3
        sides = (split.train, split.held_out)
        assert all(any(contains(rows[other], rows[index]) for other in side) for side in sides) or any(
            contains(rows[other], rows[index]) for other in split.set_aside if other != index
        )


def test_case_and_white_space_do_not_tell_rows_apart() -> None:
    rows = ["A fine  little film", "it is a fine little FILM indeed", "nothing like the others here"]
    for seed in range(6):
        split = split_by_containment(rows, 1, seed)
        assert {0, 1} <= set(split.train) or {0, 1} <= set(split.held_out)


def test_equal_rows_stay_together_and_ties_reach_through_others() -> None:
    rows = ["one two three", "one two three four five", "three four five", "three four five", "six seven eight nine"]
    for seed in range(6):
        split = split_by_containment(rows, 1, seed)
        assert set(split.train) in ({0, 1, 2, 3}, {4})


def test_rows_that_only_begin_alike_are_not_tied() -> None:
    rows = ["it is a film about love", "it is a film about war"]
    split = split_by_containment(rows, 1)
    assert (len(split.train), len(split.held_out)) == (1, 1)


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    rows = treebank(60)
    assert split_by_containment(rows, 60, 1) == split_by_containment(rows, 60, 1)
    assert split_by_containment(rows, 60, 1) != split_by_containment(rows, 60, 2)


@pytest.mark.parametrize("held_out", [0, 3, 100])
def test_impossible_numbers_are_refused(held_out: int) -> None:
    with pytest.raises(InputError, match="cannot be held out"):
        split_by_containment(["a b c", "d e f", "g h i", "j"], held_out)


def test_rows_that_are_all_tied_cannot_be_split() -> None:
    with pytest.raises(InputError, match="contain one another"):
        split_by_containment(["a b c", "a b c d", "x a b c d y"], 1)


def test_clusters_are_the_ties_between_rows() -> None:
    texts = [
        "a long fine film",
        "quite a long fine film indeed",
        "fine film indeed",
        "Quite  a long",
        "no such thing here",
    ]
    first, *rest, other = clusters(texts)
    assert rest == [first] * 3
    assert other != first
    one, two = clusters(["fine film", "a fine film"])
    assert one != two  # a row of two words ties nothing
