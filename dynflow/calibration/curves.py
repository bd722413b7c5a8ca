"""Quality against the share of strong calls, and how good a curve is: PGR, APGR and CPT as RouteLLM defines them.

Ong et al. 2024, "RouteLLM: Learning to Route LLMs with Preference Data" (arXiv 2406.18665), §4. With w and s the mean
qualities of always taking the weak and always the strong path, the performance gap recovered by a router is
PGR = (quality - w) / (s - w); CPT(x) is the least share of strong calls that recovers x of the gap; APGR is the mean of
PGR over the share of strong calls. RouteLLM takes these from eleven thresholds that cut the scores into ten bins of
equal size; the exact figures use every threshold. Requests of equal score are taken in random order: what that gives in
expectation is the straight line between the points before and after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]

BINS = 10
LEVELS = {"cpt50": 0.5, "cpt80": 0.8}
MEASURES = ("apgr", "cpt50", "cpt80", "apgr_exact", "cpt50_exact", "cpt80_exact")
"""What `measures` gives, in this order. CPT are shares, 0…1."""
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval; NaN where there is nothing to measure."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Plain values, null for what is not known."""
        return {name: None if np.isnan(value) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Curve:
    """Points of a curve, by ascending share of strong calls."""

    share: Array
    quality: Array
    usd: Array | None = None


def score_curve(scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, weights: ArrayLike | None = None) -> Curve:
    """The curve of taking the strong path where the score is highest, for every threshold.

    `scores`, `weak`, `strong` [n]: what routes, and the qualities of both paths; `weights` [..., n]: how often each row
    counts (a bootstrap's). Points [..., k] for k - 1 different scores.
    """
    score = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    low = np.asarray(weak, dtype=np.float64)[order]
    gain = np.asarray(strong, dtype=np.float64)[order] - low
    weight = np.ones(len(order)) if weights is None else np.asarray(weights, dtype=np.float64)[..., order]
    total = weight.sum(-1, keepdims=True)
    share = np.cumsum(weight, -1)[..., ends] / total
    quality = (weight @ low)[..., None] / total + np.cumsum(weight * gain, -1)[..., ends] / total
    first = (weight @ low)[..., None] / total
    return Curve(
        np.concatenate([np.zeros_like(first), share], -1),
        np.concatenate([first, quality], -1),
    )


def swept_curve(share: ArrayLike, quality: ArrayLike, weak: float, strong: float) -> tuple[Array, Array]:
    """Points of settings that were tried, in order, between those of always the weak and always the strong path.

    Settings that make equally many strong calls count as one of their mean quality.
    """
    ends = np.concatenate([[0.0], np.asarray(share, dtype=np.float64), [1.0]])
    levels = np.concatenate([[weak], np.asarray(quality, dtype=np.float64), [strong]])
    inner = (ends[1:-1] > 0) & (ends[1:-1] < 1)  # at the ends the paths themselves are known
    kept = np.concatenate([[True], inner, [True]])
    points, place, counts = np.unique(ends[kept], return_inverse=True, return_counts=True)
    return points, np.bincount(place, levels[kept]) / counts


def measures(share: ArrayLike, quality: ArrayLike, weak: float, strong: float, rows: int) -> Array:
    """The figures named by `MEASURES`, of a curve with ascending shares 0…1; `rows` is how many requests it is of.

    NaN where the strong path is no better than the weak one.
    """
    x, y = np.asarray(share, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if not strong > weak:
        return np.full(len(MEASURES), np.nan)
    gap = (y - weak) / (strong - weak)
    # RouteLLM's thresholds are the scores' quantiles (pandas.qcut): so many requests reach each of them.
    counts = rows - np.ceil((rows - 1) * np.arange(BINS + 1) / BINS - 1e-9)
    counts[-1] = 0
    bins = np.sort(counts) / rows
    binned = np.interp(bins, x, gap)
    figures = []
    for points, levels in ((bins, binned), (x, gap)):
        figures.append(float(np.trapezoid(levels, points)))
        figures += [_reaches(points, levels, level) for level in LEVELS.values()]
    return np.array(figures)


def _reaches(x: Array, y: Array, level: float) -> float:
    """The least x at which the line through the points is at `level`."""
    at = int(np.argmax(y >= level - 1e-9))
    if at == 0 or y[at] < level - 1e-9:
        return float(x[at]) if y[at] >= level - 1e-9 else float("nan")
    return float(x[at - 1] + (level - y[at - 1]) / (y[at] - y[at - 1]) * (x[at] - x[at - 1]))


def resamples(rows: int, times: int, seed: int) -> Array:
    """How often each row counts in each resample: [times, rows], drawn with replacement."""
    rng = np.random.default_rng(seed)
    found = np.empty((times, rows), dtype=np.float32)
    for counts in found:  # one by one: together they would take several times the memory
        counts[:] = np.bincount(rng.integers(0, rows, rows), minlength=rows)
    return found


def score_measures(scores: ArrayLike, weak: ArrayLike, strong: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """`measures` of a score's curve; with `weights` [b, n] one row of figures for each of them."""
    low, high = np.asarray(weak, dtype=np.float64), np.asarray(strong, dtype=np.float64)
    if weights is None:
        curve = score_curve(scores, low, high)
        return measures(curve.share, curve.quality, float(low.mean()), float(high.mean()), len(low))
    weight = np.asarray(weights, dtype=np.float64)
    figures = []
    for start in range(0, len(weight), _CHUNK):
        part = weight[start : start + _CHUNK]
        curve = score_curve(scores, low, high, part)
        ends = zip(part @ low / part.sum(-1), part @ high / part.sum(-1), strict=True)
        for share, quality, (w, s) in zip(curve.share, curve.quality, ends, strict=True):
            figures.append(measures(share, quality, w, s, len(low)))
    return np.array(figures)


def swept_measures(
    called: ArrayLike, quality: ArrayLike, weak: ArrayLike, strong: ArrayLike, weights: ArrayLike | None = None
) -> Array:
    """`measures` of settings that were tried: `called` and `quality` [settings, n] say where the strong path was called
    and how good the answers were. With `weights` [b, n] one row of figures for each of them."""
    calls, levels = np.asarray(called, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    low, high = np.asarray(weak, dtype=np.float64), np.asarray(strong, dtype=np.float64)
    n = len(low)
    whole = np.ones((1, n)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = whole.sum(-1, keepdims=True)
    shares, means = whole @ calls.T / total, whole @ levels.T / total
    weaks, strongs = whole @ low / total[:, 0], whole @ high / total[:, 0]
    figures = []
    for row in range(len(whole)):
        w, s = float(weaks[row]), float(strongs[row])
        figures.append(measures(*swept_curve(shares[row], means[row], w, s), w, s, n))
    return figures[0] if weights is None else np.array(figures)


def with_intervals(
    value: Array, drawn: Array, names: tuple[str, ...] = MEASURES, confidence: float = 0.95
) -> dict[str, Interval]:
    """Figures [k] with the percentile intervals of their resamples [b, k]."""
    tail = (1 - confidence) / 2
    known = [column[~np.isnan(column)] for column in np.asarray(drawn).T]
    edges = [np.quantile(column, [tail, 1 - tail]) if len(column) else (np.nan, np.nan) for column in known]
    return {
        name: Interval(float(each), float(low), float(high))
        for name, each, (low, high) in zip(names, np.asarray(value), edges, strict=True)
    }


def mean_interval(values: ArrayLike, weights: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of values [n] with the percentile interval of its resamples; `weights` as of `resamples`."""
    array, weight = np.asarray(values, dtype=np.float64), np.asarray(weights)
    drawn = weight @ array / weight.sum(-1)
    return with_intervals(np.array([array.mean()]), drawn[:, None], ("mean",), confidence)["mean"]


Baseline = Callable[[Array, Array, Array], Array]
"""A score [n] from prompt lengths, weak and strong qualities."""
BASELINES: Mapping[str, Baseline] = {
    "random": lambda length, weak, strong: np.zeros(len(weak)),
    "prompt_length": lambda length, weak, strong: length,
    "oracle": lambda length, weak, strong: strong - weak,
}
"""What a router must beat, and what none can: scores whose curves stand beside a graph's. Always the weak and always
the strong path are the ends of every curve."""
