"""`voting`: each exit has a vote, and a row leaves where they agree enough for their number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History, favourite


class Voting(Criterion):
    """Leave where the votes for one label, over the square root of all votes so far, reach the threshold.

    Voting over internal classifiers is from arXiv 2105.13792; the square root lies between counting votes, where only
    their number matters, and shares, where one vote is as good as ten. The label is that with most votes, of
    several the one that the last exit finds likelier; the probabilities are the mean over the exits that gave it.
    """

    name: ClassVar[str] = "voting"
    summary: ClassVar[str] = "votes for one label over the square root of all votes, at least: sqrt(n) where n agree"

    def highest(self, labels: int, layers: Sequence[int]) -> float:
        return math.sqrt(len(layers))

    def score(self, history: History, layer: int) -> float:
        return max(_votes(history).values()) / math.sqrt(len(history))

    def answer(self, history: History) -> tuple[int, Sequence[float]]:
        votes, last = _votes(history), history[-1]
        label = max(votes, key=lambda place: (votes[place], last[place]))
        agreed = [shares for shares in history if favourite(shares) == label]
        return label, [sum(column) / len(agreed) for column in zip(*agreed, strict=True)]


def _votes(history: History) -> Counter[int]:
    return Counter(map(favourite, history))
