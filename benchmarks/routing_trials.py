"""The splits that routers are judged on. An entry is trained and judged anew on each; it never sees test labels."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from routing_data import Array, Progress, Rows, divided, folds, labelled
from routing_protocol import Trial

SEEDS = 10
PARTS = 10

Entry = Callable[[Rows, Rows, NDArray[Any]], Array]
"""Scores of the second rows from the labels of the first; the third says which of the first stay together [train]."""
Entries = Mapping[str, Entry]


def fixed(scores: Array) -> Entry:
    """An entry that learns nothing."""
    return lambda _, test, __: scores[test]


def labelled_trials(
    entries: Entries,
    groups: Any,
    labels: int,
    progress: Progress,
    what: str,
    *,
    seeds: int = SEEDS,
    alone: bool = False,
) -> list[Trial]:
    """For each seed: train on `labels` rows, judge all others. `alone`: in this process, for entries that use torch."""
    return _trials(entries, groups, lambda seed: [labelled(groups, labels, seed)], progress, what, seeds, alone)


def crossed_trials(entries: Entries, groups: Any, progress: Progress, what: str) -> list[Trial]:
    """For each seed: every row is judged by heads trained on the other nine tenths."""
    return _trials(entries, groups, lambda seed: folds(groups, PARTS, seed), progress, what)


def topic_trials(
    entries: Entries, topics: Sequence[str], labels: int | None, progress: Progress, what: str
) -> list[Trial]:
    """For each seed: the topics are divided into ten parts, each judged by heads that never saw its topics.

    `labels`: how many rows of the other parts train a head; None: all of them.
    """

    def parts(seed: int) -> Iterable[tuple[Rows, Rows]]:
        rng = np.random.default_rng(seed)
        for train, test in divided(topics, PARTS, seed):
            yield (train if labels is None else rng.choice(train, labels, replace=False)), test

    return _trials(entries, np.asarray(topics), parts, progress, what)


def _trials(
    entries: Entries,
    groups: NDArray[Any],
    parts: Callable[[int], Iterable[tuple[Rows, Rows]]],
    progress: Progress,
    what: str,
    seeds: int = SEEDS,
    alone: bool = False,
) -> list[Trial]:
    def trial(seed: int) -> Trial:
        judged: list[Rows] = []
        scores: dict[str, list[Array]] = {name: [] for name in entries}
        for train, test in parts(seed):
            judged.append(test)
            for name, entry in entries.items():
                scores[name].append(np.asarray(entry(train, test, groups[train]), dtype=np.float64))
        return Trial(np.concatenate(judged), {name: np.concatenate(each) for name, each in scores.items()})

    return side_by_side(trial, seeds, progress, what, 1 if alone else os.cpu_count() or 1)


T = TypeVar("T")
_work: Callable[[int], Any] | None = None  # what forked workers are to do: a closure cannot be sent to them


def side_by_side(work: Callable[[int], T], times: int, progress: Progress, what: str, processes: int) -> list[T]:
    """`work(0)`, `work(1)`, … in so many processes, where the platform can fork."""
    global _work
    found: list[T] = []
    progress(0, times, what)
    if processes > 1 and "fork" in multiprocessing.get_all_start_methods():
        _work = work
        with multiprocessing.get_context("fork").Pool(min(processes, times)) as pool:
            for result in pool.imap(_one, range(times)):
                found.append(result)
                progress(len(found), times, what)
        return found
    for number in range(times):
        found.append(work(number))
        progress(len(found), times, what)
    return found


def _one(number: int) -> Any:
    assert _work is not None
    return _work(number)
