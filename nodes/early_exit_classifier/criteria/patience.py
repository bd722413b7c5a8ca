"""`patience`: a row leaves where several exits in a row say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History, favourite


class Patience(Criterion):
    """Leave where `threshold` exits in a row have kept the label of the one before (PABEE, arXiv 2006.04152,
    section 3.1)."""

    name: ClassVar[str] = "patience"
    summary: ClassVar[str] = "exits in a row that kept the label of the one before, at least"

    def highest(self, labels: int, layers: Sequence[int]) -> float:
        return float(len(layers))

    def score(self, history: History, layer: int) -> float:
        return float(kept(history))


def kept(history: History) -> int:
    """How many exits up to this one have, without a break, kept the label of the exit before."""
    label = favourite(history[-1])
    count = 0
    for shares in reversed(history[:-1]):
        if favourite(shares) != label:
            break
        count += 1
    return count
