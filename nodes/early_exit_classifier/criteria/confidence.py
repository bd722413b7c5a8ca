"""`confidence`: a row leaves where one label is likely enough."""

from __future__ import annotations

from typing import ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History


class Confidence(Criterion):
    """Leave where the likeliest label's probability is at least the threshold (CALM, arXiv 2207.07061, section 3.5)."""

    name: ClassVar[str] = "confidence"
    summary: ClassVar[str] = "probability of the likeliest label, at least"
    most: ClassVar[float] = 1.0

    def score(self, history: History, layer: int) -> float:
        return max(history[-1])
