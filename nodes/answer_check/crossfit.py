"""Folds that do not leak, and probabilities that hold: what a head is trained and measured with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dynflow.nodes.answer_check.estimator import SurfaceEstimator

Array = NDArray[np.floating[Any]]
FOLDS = 10
_SHINGLE = 12  # questions that share this many words in a row are kept together


def near_duplicates(texts: Sequence[str]) -> NDArray[np.int64]:
    """A group number per text: texts that share twelve words in a row, directly or through others, are one group."""
    from networkx.utils import UnionFind

    groups = UnionFind(range(len(texts)))
    first: dict[tuple[str, ...], int] = {}
    for index, text in enumerate(texts):
        words = re.findall(r"\w+", text.casefold())
        for start in range(max(len(words) - _SHINGLE, 0) + 1):
            groups.union(index, first.setdefault(tuple(words[start : start + _SHINGLE]), index))
    return np.array([groups[index] for index in range(len(texts))], dtype=np.int64)


def folds_of(groups: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """A fold 0…9 per row; groups stay whole."""
    names, place = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    return np.asarray(drawn[place], dtype=np.int64)


def cross_fit(make: Callable[[], SurfaceEstimator], features: Array, quality: Array, folds: NDArray[np.int64]) -> Array:
    """Each row's raw predicted qualities, [n, 2], from an estimator that did not see its fold."""
    predicted = np.zeros(quality.shape)
    for fold in np.unique(folds):
        test = folds == fold
        estimator = make()
        estimator.fit_features(features[~test], quality[~test])
        predicted[test] = estimator.predict_features(features[test])
    return predicted


def platt(raw: Array, quality: Array) -> Array:
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


def calibration_error(probability: Array, quality: Array, bins: int = 10) -> float:
    """Expected calibration error: mean distance of probability and quality over bins of equal size (Naeini 2015)."""
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    gaps = [abs(probability[part].mean() - quality[part].mean()) * len(part) for part in parts if len(part)]
    return float(sum(gaps) / len(probability))
