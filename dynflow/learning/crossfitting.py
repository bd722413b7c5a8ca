"""Folds that do not leak, predictions from heads that did not see the row, and probabilities that hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np
from networkx.utils import UnionFind
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

_SHINGLE = 12  # texts that share this many words in a row are kept together


class Learner(Protocol):
    """What can be fitted to qualities, and then predicts them."""

    def fit_features(self, features: Array, quality: Array) -> None:
        """Learn from `features` [n, d] and the quality of each route, 0…1, [n, k]."""

    def predict_features(self, features: Array) -> Array:
        """Raw predicted quality of each route, [n, k]."""


def near_duplicates(texts: Sequence[str], template: int | None = None) -> NDArray[np.int64]:
    """A group number per text, that of its first: texts that share twelve words in a row, directly or through others,
    are one group.

    Words in a row that more than `template` texts share are a template, such as the instruction that all questions of
    a topic begin with: they make no duplicates.
    """
    found: dict[tuple[str, ...], set[int]] = {}
    for index, text in enumerate(texts):
        words = re.findall(r"\w+", text.casefold())
        for start in range(max(len(words) - _SHINGLE, 0) + 1):
            found.setdefault(tuple(words[start : start + _SHINGLE]), set()).add(index)
    groups = UnionFind(range(len(texts)))
    for sharing in found.values():
        if template is None or len(sharing) <= template:
            groups.union(*sharing)
    first: dict[int, int] = {}
    return np.array([first.setdefault(groups[index], index) for index in range(len(texts))], dtype=np.int64)


def folds_of(groups: Sequence[Hashable] | NDArray[Any], count: int, seed: int = 0) -> NDArray[np.int64]:
    """A fold 0…count-1 per row: groups stay whole, folds are about equally large, a seed always gives the same."""
    numbers: dict[Hashable, int] = {}
    place = np.array([numbers.setdefault(group, len(numbers)) for group in np.asarray(groups).tolist()], dtype=np.int64)
    sizes = np.bincount(place)
    order = np.random.default_rng(seed).permutation(len(sizes))
    load = np.zeros(count)
    fold = np.zeros(len(sizes), dtype=np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold[group] = np.argmin(load)
        load[fold[group]] += sizes[group]
    return fold[place]


def cross_fit(make: Callable[[], Learner], features: Array, quality: Array, folds: NDArray[np.int64]) -> Array:
    """Each row's raw predicted qualities, [n, k], from a learner that did not see its fold."""
    predicted = np.zeros(quality.shape)
    for fold in np.unique(folds):
        test = folds == fold
        learner = make()
        learner.fit_features(features[~test], quality[~test])
        predicted[test] = learner.predict_features(features[test])
    return predicted


def fit_logistic(raw: Array, quality: Array) -> Array:
    """Slope and offset that make `raw` [n] a probability of `quality` [n] in 0…1 (Platt 1999), by Newton's method."""
    design = np.column_stack([raw, np.ones(len(raw))]).astype(np.float64)
    weights = np.zeros(2)
    for _ in range(50):
        probability = 1 / (1 + np.exp(-design @ weights))
        curvature = design.T @ (design * (probability * (1 - probability))[:, None]) + 1e-3 * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (quality - probability) - 1e-3 * weights)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return weights
