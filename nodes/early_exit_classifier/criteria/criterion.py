"""Criterion: says after each exit whether a row is sure enough to leave."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from dynflow.errors import ArtefactError

History = Sequence[Sequence[float]]
"""A row's probabilities of each label, at each exit that it has passed so far; the last is the present one."""


class Criterion(ABC):
    """Reads a row's history at each exit and gives one number; the row leaves once that reaches the threshold.

    It keeps nothing: a batch may drop rows at will, and a record of whole runs tells what any threshold would have
    done. Its numbers are plain floats, which at one row are quicker than tensors.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """What the threshold is of, in words."""
    falling: ClassVar[bool] = False
    """Whether the score falls as a row grows surer, so that it leaves at or below the threshold."""
    most: ClassVar[float] = math.inf
    """The highest threshold that makes sense; the lowest is 0."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Names of what a graph may set besides the threshold; the constructor takes them by name, each with a default."""

    def __init__(self, threshold: float) -> None:
        """Raises ValueError for a threshold that can be none."""
        if not 0 <= threshold <= self.most:
            range_ = "0 or more" if self.most == math.inf else f"0 to {self.most:g}"
            raise ValueError(f"a threshold of {self.name} is {range_}, not {threshold:g}")
        self.threshold = threshold

    @abstractmethod
    def score(self, history: History, layer: int) -> float:
        """How sure the row is at the exit after `layer` layers."""

    def reads(self, layer: int) -> bool:
        """Whether the exit after `layer` layers matters: its head need not run otherwise, and the history lacks it."""
        return True

    def highest(self, labels: int, layers: Sequence[int]) -> float:
        """The highest threshold that differs from lower ones, of so many labels and exits after these layers."""
        return self.most

    def leaves(self, history: History, layer: int) -> bool:
        """Whether the row leaves here."""
        score = self.score(history, layer)
        return score <= self.threshold if self.falling else score >= self.threshold

    def answer(self, history: History) -> tuple[int, Sequence[float]]:
        """The label's place, and the probability of each label, of a row that leaves with this history."""
        return favourite(history[-1]), history[-1]


def shares_at(layer: int, logits: Sequence[float]) -> list[float]:
    """Probabilities at the exit after `layer` layers. Raises `ArtefactError` where they are no numbers."""
    shares = probabilities(logits)
    if shares[0] != shares[0]:  # which one weight that is none makes of all
        raise ArtefactError(f"the exit after layer {layer} gives no numbers: its weights are damaged")
    return shares


def probabilities(logits: Sequence[float]) -> list[float]:
    """Softmax of one row."""
    most = max(logits)
    powers = [math.exp(logit - most) for logit in logits]
    total = sum(powers)
    return [power / total for power in powers]


def favourite(shares: Sequence[float]) -> int:
    """The place of the likeliest label, the first of several."""
    return shares.index(max(shares))
