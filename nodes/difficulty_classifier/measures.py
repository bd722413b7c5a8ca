"""How good a difficulty score is: measures on recorded outcomes, and curves that make it a probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynflow.learning.crossfitting import fit_logistic

Array = NDArray[np.floating[Any]]
FOLDS = 5
ISOTONIC_FROM = 1_000
_BIN = 50
_KNOTS = 100


def average_gap_recovered(score: Array, weak: Array, strong: Array) -> float:
    """APGR: the share of the quality gap that is won back, averaged over all shares of strong calls; random is 0.5.

    RouteLLM, arXiv 2406.18665 §4, with the integral over every threshold instead of ten of them.
    """
    gain = (strong - weak)[np.argsort(-score, kind="stable")]
    if not gain.sum():
        return float("nan")
    recovered = np.concatenate([[0.0], np.cumsum(gain)]) / gain.sum()
    return float(((recovered[1:] + recovered[:-1]) / 2).mean())


def area_under_curve(score: Array, positive: NDArray[np.bool_]) -> float:
    """ROC AUC: how often a positive row has a higher score than a negative one, ties counting half."""
    count = int(positive.sum())
    if not 0 < count < len(positive):
        return float("nan")
    return float((ranks(score)[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's rank correlation; NaN where one side is constant."""
    first, second = ranks(one), ranks(other)
    if not first.std() or not second.std():
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def ranks(values: Array) -> Array:
    """Ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Array = (last - (counts - 1) / 2)[inverse]
    return mean


def fit_calibration(raw: Array, quality: Array) -> Array:
    """Knots [2, c] of a rising curve from raw predictions [n] to P(good), for `numpy.interp`.

    With 1,000 rows or more isotonic regression (Zadrozny & Elkan 2002) on means of fifty rows, which no outlier makes
    certain of anything; with fewer Platt's logistic.
    """
    if len(raw) < ISOTONIC_FROM:
        places = np.linspace(raw.min(), raw.max(), _KNOTS)
        slope, offset = fit_logistic(raw, quality)
        return np.stack([places, 1 / (1 + np.exp(-(max(slope, 0.0) * places + offset)))])
    order = np.argsort(raw, kind="stable")
    bins = np.array_split(order, min(len(raw) // _BIN, _KNOTS))
    return np.stack([[raw[rows].mean() for rows in bins], rising([quality[rows].mean() for rows in bins])])


def rising(values: Sequence[float]) -> Array:
    """The nearest sequence that never falls, by pooling adjacent violators (Ayer et al. 1955)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pool = (float(value), 1)
        while pools and pools[-1][0] > pool[0]:
            mean, count = pools.pop()
            pool = ((mean * count + pool[0] * pool[1]) / (count + pool[1]), count + pool[1])
        pools.append(pool)
    return np.repeat([mean for mean, _ in pools], [count for _, count in pools])
