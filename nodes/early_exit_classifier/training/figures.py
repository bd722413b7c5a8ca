"""Figures of a trained model on rows that it was not trained on: each exit, and each criterion's curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dynflow.nodes.early_exit_classifier.criteria import CRITERIA, LearntCriterion
from dynflow.nodes.early_exit_classifier.criteria.recorded import answers_by_exit, scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from dynflow.learning.kept import Progress
    from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion
    from dynflow.nodes.early_exit_classifier.model import EarlyExitModel

KEPT = (0.995, 0.99, 0.98, 0.97)
"""Shares of the whole model's accuracy at which the saving is told."""
FEW_ROWS = 200
"""Fewer make an accuracy uncertain by 7 points and more: half of a 95 % interval, at an accuracy of one half."""
_THRESHOLDS = 200
_AT_ONCE = 256


@dataclass(frozen=True)
class Point:
    """What one threshold gives: mean layers run and accuracy 0…1."""

    threshold: float
    layers: float
    accuracy: float


@dataclass(frozen=True)
class Figures:
    """`rows` judged; `layers` after which there are exits, `accuracy` 0…1 of each; `curves` by criterion, without those
    that let no row leave early; `alone`: accuracy of the encoder trained without exits, where there was one."""

    rows: int
    layers: tuple[int, ...]
    accuracy: tuple[float, ...]
    curves: dict[str, list[Point]]
    alone: float | None = None

    @property
    def full(self) -> float:
        """Accuracy of the last exit, or of the encoder alone where that is better: a weak last exit is no measure."""
        return max(self.accuracy[-1], self.alone or 0.0)

    def cheapest(self, criterion: str, kept: float) -> Point | None:
        """The point of fewest layers that keeps this share of the full accuracy; None if there is none."""
        good = [point for point in self.curves.get(criterion, []) if point.accuracy >= kept * self.full]
        return min(good, key=lambda point: (point.layers, -point.accuracy), default=None)


def recorded(
    model: EarlyExitModel, texts: Sequence[str], progress: Progress, *, criterion: str | None = None
) -> NDArray[np.float32]:
    """Logits of every exit on every text, [rows, exits, labels], as the criterion of this name reads them."""
    found = []
    for at in range(0, len(texts), _AT_ONCE):
        progress(at, len(texts), "judging")
        found.append(model.trajectories(texts[at : at + _AT_ONCE], criterion=criterion))
    progress(len(texts), len(texts), "judging")
    return np.concatenate(found)


def judge(
    logits: NDArray[np.float32], labels: Sequence[int], layers: Sequence[int], alone: ArrayLike | None = None
) -> Figures:
    """The figures of recorded logits [rows, exits, labels]; `alone` are those of the encoder alone, [rows, labels]."""
    truth = np.asarray(labels)
    right = logits.argmax(-1) == truth[:, None]
    curves = {
        name: curve(kind(0.0), logits, truth, layers)
        for name, kind in CRITERIA.items()
        if not issubclass(kind, LearntCriterion)
    }
    return Figures(
        rows=len(truth),
        layers=tuple(layers),
        accuracy=tuple(float(share) for share in right.mean(0)),
        curves={name: points for name, points in curves.items() if points},
        alone=None if alone is None else float((np.asarray(alone).argmax(-1) == truth).mean()),
    )


def curve(
    criterion: Criterion, logits: NDArray[np.float32], truth: NDArray[np.intp], layers: Sequence[int]
) -> list[Point]:
    """Points of this criterion, whatever its threshold, from running all layers to the least, without those that change
    nothing."""
    depths = np.asarray(layers)
    if criterion.name == "static":  # the exits themselves; its threshold says which scores there are
        right = (logits.argmax(-1) == truth[:, None]).mean(0)
        return [Point(float(at), float(at), float(share)) for at, share in zip(depths, right, strict=True)][::-1]
    if len(depths) == 1:  # nobody can leave early
        return []
    table = scores(criterion, logits, layers)
    right = answers_by_exit(criterion, logits, layers)[0] == truth[:, None]
    rows = np.arange(len(truth))
    sign = -1.0 if criterion.falling else 1.0
    points: list[Point] = []
    for level in np.unique(np.quantile(table[:, :-1], np.linspace(0, 1, _THRESHOLDS)))[::-1]:
        if not 0 <= sign * level <= criterion.most:  # what no threshold asks for, as a score where exits disagree
            continue
        leaves = table >= level
        leaves[:, -1] = True
        left = leaves.argmax(1)
        point = Point(float(sign * level), float(depths[left].mean()), float(right[rows, left].mean()))
        if not points or point.layers != points[-1].layers:
            points.append(point)
    return points
