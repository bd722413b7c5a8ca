"""`entropy`: a row leaves where the probabilities leave little open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History


class Entropy(Criterion):
    """Leave where the entropy of the probabilities is at most the threshold (DeeBERT, arXiv 2004.12993, section 3.2).

    In nats: 0 is certainty, and ln(labels) is not knowing at all, 0.69 for two labels.
    """

    name: ClassVar[str] = "entropy"
    summary: ClassVar[str] = "entropy of the probabilities at most, nats: 0 is certainty, ln(labels) ignorance"
    falling: ClassVar[bool] = True

    def highest(self, labels: int, layers: Sequence[int]) -> float:
        return math.log(labels)

    def score(self, history: History, layer: int) -> float:
        return -sum(share * math.log(share) for share in history[-1] if share > 0)
