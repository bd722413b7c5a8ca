"""`patience_and_confidence`: a row leaves where several exits in a row are sure."""

from __future__ import annotations

from typing import ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History


class PatienceAndConfidence(Criterion):
    """Leave where each of the last `patience` exits gives its own likeliest label a probability of the threshold at
    least (PCEE-BERT, Findings of NAACL 2022, section 3, which measures confidence by entropy)."""

    name: ClassVar[str] = "patience_and_confidence"
    summary: ClassVar[str] = "probability of the likeliest label at each of the last `patience` exits, at least"
    most: ClassVar[float] = 1.0
    settings: ClassVar[tuple[str, ...]] = ("patience",)

    def __init__(self, threshold: float, patience: int = 2) -> None:
        super().__init__(threshold)
        if not isinstance(patience, int) or patience < 1:
            raise ValueError(f"a patience is 1 or more, whole exits, not {patience!r}")
        self.patience = patience

    def score(self, history: History, layer: int) -> float:
        if len(history) < self.patience:
            return -1.0
        return min(max(shares) for shares in history[-self.patience :])
