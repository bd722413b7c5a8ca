"""How routers are judged: RouteLLM's figures and the exact ones, with intervals, and paired differences.

A trial is one split: scores of the rows that no head of it was trained on. The figures (`curves.measures`) are means
over the trials. Intervals are percentiles of a bootstrap that draws both anew, trials and groups of near-duplicate
rows, each with replacement: they cover the luck of the training labels and that of the test rows. All routers are
judged on the same draws, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynflow.calibration.curves import MEASURES, score_curve, score_measures

Array = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]

REPLICATES = 200
CONFIDENCE = 0.95
SHARES = np.linspace(0, 1, 51)


@dataclass(frozen=True)
class Trial:
    """Scores [len(rows)] by router, of the rows that were judged; higher means: the strong model."""

    rows: Rows
    scores: Mapping[str, Array]


@dataclass(frozen=True)
class Figures:
    """Each figure with its interval, `{"value", "low", "high"}`, by router; and the gain over a reference router."""

    routers: Mapping[str, Mapping[str, Mapping[str, float]]]
    gains: Mapping[str, Mapping[str, Mapping[str, float]]]
    curves: Mapping[str, Sequence[float]]
    """Part of the gap recovered at each of `SHARES`, by router: the mean over the trials."""


def judged(
    trials: Sequence[Trial],
    quality: Array,
    groups: NDArray[Any],
    reference: str,
    *,
    usd: Mapping[str, Array] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Figures:
    """The figures of every router that all trials have, on rows with `quality` [n, 2] and `groups` [n].

    `usd` [n, 2] by router: what a row costs when it is not sent to the strong model and when it is; adds `usd_cpt50`
    and `usd_cpt80`, the mean cost of a request at these points of the binned curve.
    """
    drawn, weights = _draws(groups, len(trials), replicates, seed)
    names = [name for name in trials[0].scores if all(name in trial.scores for trial in trials)]
    points: dict[str, Array] = {}
    resampled: dict[str, Array] = {}
    keys = (*MEASURES, *(("usd_cpt50", "usd_cpt80") if usd else ()))
    for name in names:
        values, redrawn = [], []
        for trial in trials:
            score, (weak, strong) = trial.scores[name], quality[trial.rows].T
            figure = score_measures(score, weak, strong)
            again = score_measures(score, weak, strong, weights[:, trial.rows])
            if usd:
                cost = usd[name][trial.rows]
                figure = np.append(figure, _cost(score, cost, figure, np.ones(len(score))))
                redone = zip(again, weights[:, trial.rows], strict=True)
                again = np.column_stack([again, [_cost(score, cost, each, weight) for each, weight in redone]])
            values.append(figure)
            redrawn.append(again)
        points[name] = np.mean(values, axis=0)
        resampled[name] = np.einsum("bt,tbk->bk", drawn, np.array(redrawn))
    return Figures(
        {name: _intervals(keys, points[name], resampled[name]) for name in names},
        {
            name: _intervals(keys, points[name] - points[reference], resampled[name] - resampled[reference])
            for name in names
            if name != reference
        },
        {name: np.mean([_recovered(trial, name, quality) for trial in trials], axis=0).tolist() for name in names},
    )


def _draws(groups: NDArray[Any], trials: int, replicates: int, seed: int) -> tuple[Array, Array]:
    """The weight of each trial [b, trials], summing to 1, and how often each row counts [b, n]."""
    rng = np.random.default_rng(seed)
    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1
    taken = rng.multinomial(trials, np.full(trials, 1 / trials), replicates) / trials
    weights = np.array([np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(replicates)])
    return taken, weights[:, place].astype(np.float32)


def _recovered(trial: Trial, name: str, quality: Array) -> Array:
    """The part of the gap that is recovered at each of `SHARES`."""
    weak, strong = quality[trial.rows].T
    curve = score_curve(trial.scores[name], weak, strong)
    return (np.interp(SHARES, curve.share, curve.quality) - weak.mean()) / (strong.mean() - weak.mean())


def _cost(score: Array, usd: Array, figure: Array, weight: Array) -> Array:
    """Mean USD of a request where the shares CPT(50 %) and CPT(80 %) of `figure` are sent to the strong model."""
    order = np.argsort(-score, kind="stable")
    total = weight.sum()
    share = np.append(0.0, np.cumsum(weight[order])) / total
    least = weight @ usd[:, 0] / total
    spent = least + np.append(0.0, np.cumsum((weight * (usd[:, 1] - usd[:, 0]))[order])) / total
    return np.interp(figure[[MEASURES.index("cpt50"), MEASURES.index("cpt80")]], share, spent)


def _intervals(keys: Sequence[str], value: Array, drawn: Array) -> dict[str, dict[str, float]]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    return {
        key: {"value": float(value[place]), "low": float(low[place]), "high": float(high[place])}
        for place, key in enumerate(keys)
    }
