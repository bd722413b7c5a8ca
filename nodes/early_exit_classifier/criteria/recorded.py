"""Criteria on recorded trajectories: what every threshold would have done, without running the encoder again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, shares_at


def scores(criterion: Criterion, logits: ArrayLike, layers: Sequence[int]) -> NDArray[np.float64]:
    """The criterion's score of each row at each exit, [rows, exits], from logits [rows, exits, labels].

    A score that falls with certainty has its sign turned, so that a row always leaves where the score reaches
    `leaving_threshold(criterion)`: what `calibration.trajectories.Trajectories` takes.
    """
    sign = -1.0 if criterion.falling else 1.0
    table = []
    for row in np.asarray(logits, dtype=np.float64).tolist():
        history: list[list[float]] = []
        found = []
        for layer, values in zip(layers, row, strict=True):
            if not criterion.reads(layer) and layer != layers[-1]:
                found.append(-np.inf)
                continue
            history.append(shares_at(layer, values))
            found.append(sign * criterion.score(history, layer))
        table.append(found)
    return np.array(table, dtype=np.float64).reshape(len(table), len(layers))


def leaving_threshold(criterion: Criterion) -> float:
    """The threshold in the sense of `scores`."""
    return -criterion.threshold if criterion.falling else criterion.threshold


def exits(criterion: Criterion, logits: ArrayLike, layers: Sequence[int]) -> NDArray[np.intp]:
    """The place, among `layers`, of the exit by which each row leaves, [rows]."""
    reached = scores(criterion, logits, layers) >= leaving_threshold(criterion)
    if reached.size:
        reached[:, -1] = True
    left: NDArray[np.intp] = reached.argmax(1)
    return left


def answers(criterion: Criterion, logits: ArrayLike, layers: Sequence[int], left: Any) -> NDArray[np.intp]:
    """The place of the label with which each row leaves by exit `left` [rows]: [rows]."""
    labels, _ = answers_by_exit(criterion, logits, layers)
    found: NDArray[np.intp] = labels[np.arange(len(labels)), np.asarray(left, dtype=np.intp)]
    return found


def answers_by_exit(
    criterion: Criterion, logits: ArrayLike, layers: Sequence[int]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The place of the label with which each row would leave by each exit, and its probability: [rows, exits]."""
    found = np.zeros(np.asarray(logits).shape[:2], dtype=np.intp)
    confidence = np.zeros(found.shape)
    for row, values in enumerate(np.asarray(logits, dtype=np.float64).tolist()):
        history: list[list[float]] = []
        for place, layer in enumerate(layers):
            if criterion.reads(layer) or layer == layers[-1]:
                history.append(shares_at(layer, values[place]))
                label, shares = criterion.answer(history)
                found[row, place], confidence[row, place] = label, shares[label]
    return found, confidence
