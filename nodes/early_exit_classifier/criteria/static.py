"""`static`: every row leaves at the same layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History


class Static(Criterion):
    """Leave at the first exit after at least `threshold` layers, whatever it says: the honest baseline."""

    name: ClassVar[str] = "static"
    summary: ClassVar[str] = "layers, at least, whatever the exit says"

    def highest(self, labels: int, layers: Sequence[int]) -> float:
        return float(layers[-1])

    def score(self, history: History, layer: int) -> float:
        return float(layer)

    def reads(self, layer: int) -> bool:
        return layer >= self.threshold
