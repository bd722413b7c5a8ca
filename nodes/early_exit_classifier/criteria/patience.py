"""`patience`: a row leaves where several exits in a row say the same."""

from __future__ import annotations

from typing import ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History


class Patience(Criterion):
    """Leave where the label has not changed for `threshold` exits after the first that gave it (PABEE, arXiv
    2006.04152, section 3.1)."""

    name: ClassVar[str] = "patience"
    summary: ClassVar[str] = "exits in a row that kept the label, at least"
    unit: ClassVar[str] = "exits"

    def score(self, history: History, layer: int) -> float:
        labels = [shares.index(max(shares)) for shares in history]
        same = 0
        while same + 1 < len(labels) and labels[-2 - same] == labels[-1]:
            same += 1
        return float(same)
