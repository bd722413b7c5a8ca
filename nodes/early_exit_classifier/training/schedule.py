"""Learning a schedule: the criterion `scheduled`, from what exits said of rows that they were not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dynflow.nodes.early_exit_classifier.criteria.criterion import probabilities
from dynflow.nodes.early_exit_classifier.criteria.learnt import Learnt, Lesson
from dynflow.nodes.early_exit_classifier.criteria.scheduled import features, log_odds

_PRICES = np.geomspace(1.0, 1e-4, 60)
"""Chances of being right that a layer is worth, from where all leave at once to where hardly any does."""
_BUDGETS = 33
_RIDGE = 1.0
_STEPS = 25
_HALVINGS = 40
_DIGITS = 6

Floats = NDArray[np.float64]


def learn(lesson: Lesson) -> Learnt:
    """Fit the log-odds of each exit's being right, then the least of them to leave with there, by budget.

    EENet (arXiv 2301.07099, section 3) learns both by gradient. Here the first are logistic regressions, and each price
    of a layer gives the best thresholds by backward induction; a budget lies where the rows' mean cost comes to it.
    """
    logits, layers = lesson.fresh.logits, lesson.layers
    right = logits.argmax(-1) == lesson.fresh.truth[:, None]
    table = np.array([_features(row) for row in logits.astype(np.float64).tolist()])  # [rows, exits, features]
    weights = [_logistic(table[:, place], right[:, place]).round(_DIGITS).tolist() for place in range(len(layers))]
    odds = np.array([[log_odds(*each) for each in zip(weights, row, strict=True)] for row in table.tolist()])
    costs = np.array(layers, dtype=np.float64)
    path = _path(odds, costs)
    budgets = np.linspace(costs[0], costs[-1], _BUDGETS)
    least = np.array([_within(budget, path, odds, costs) for budget in budgets]).T.round(_DIGITS)
    return Learnt(
        {
            "layers": list(layers[:-1]),
            "weights": weights[:-1],
            "budgets": budgets.round(_DIGITS).tolist(),
            "least": least.tolist(),
        }
    )


def _features(row: Sequence[Sequence[float]]) -> list[list[float]]:
    history = [probabilities(values) for values in row]
    return [features(history[: place + 1]) for place in range(len(history))]


def _logistic(given: Floats, right: NDArray[np.bool_]) -> Floats:
    """Weights of a logistic regression, the constant's last, by Newton's steps with a little shrinking."""
    design = np.column_stack([given, np.ones(len(given))])
    shrunk = _RIDGE * np.eye(design.shape[1])
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        shares = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (right - shares) - shrunk @ weights
        curvature = (design * (shares * (1 - shares))[:, None]).T @ design + shrunk
        weights = weights + np.linalg.solve(curvature, slope)
    return weights


def _path(odds: Floats, costs: Floats) -> Floats:
    """Thresholds [steps, exits but the last] that only rise: from where all leave at once to where none leaves."""
    lowest, highest = odds[:, :-1].min() - 1, odds[:, :-1].max() + 1
    worths = 1 / (1 + np.exp(-odds))
    steps = [_best(odds, worths - price * costs, highest) for price in _PRICES]
    ends = (np.full(len(costs) - 1, end) for end in (lowest, highest))
    return np.maximum.accumulate(np.array([next(ends), *steps, next(ends)]), axis=0)


def _best(odds: Floats, worths: Floats, highest: float) -> Floats:
    """The thresholds that make the mean worth [rows, exits] highest, each given those after it."""
    later = worths[:, -1]  # of each row, by the exit that it leaves by
    found = np.full(odds.shape[1] - 1, highest)
    for place in range(odds.shape[1] - 2, -1, -1):
        order = np.argsort(-odds[:, place], kind="stable")
        gain = np.concatenate([[0.0], np.cumsum((worths[:, place] - later)[order])])
        if count := int(gain.argmax()):  # so many of the surest rows leave here
            found[place] = odds[order[count - 1], place]
        later = np.where(odds[:, place] >= found[place], worths[:, place], later)
    return found


def _within(budget: float, path: Floats, odds: Floats, costs: Floats) -> Floats:
    """The thresholds on the way along `path` whose mean cost is the budget, as nearly as the rows allow."""
    low, high = 0.0, float(len(path) - 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _mean_cost(_at(middle, path), odds, costs) <= budget:
            low = middle
        else:
            high = middle
    return _at(low, path)


def _mean_cost(least: Floats, odds: Floats, costs: Floats) -> float:
    leaves = np.column_stack([odds[:, :-1] >= least, np.ones(len(odds), dtype=bool)])
    return float(costs[leaves.argmax(1)].mean())


def _at(place: float, path: Floats) -> Floats:
    step = min(int(place), len(path) - 2)
    there: Floats = path[step] + (place - step) * (path[step + 1] - path[step])
    return there
