"""`margin`: a row leaves where one label is far ahead of the next."""

from __future__ import annotations

from typing import ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History


class Margin(Criterion):
    """Leave where the likeliest label's probability is at least the threshold above the second's.

    As CALM's softmax response (arXiv 2207.07061, section 3.5). With two labels it is `confidence` on another scale.
    """

    name: ClassVar[str] = "margin"
    summary: ClassVar[str] = "probability of the likeliest label less that of the second, at least"
    most: ClassVar[float] = 1.0

    def score(self, history: History, layer: int) -> float:
        second, first = sorted(history[-1])[-2:]
        return first - second
