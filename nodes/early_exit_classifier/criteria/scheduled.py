"""`scheduled`: a row leaves by a learnt schedule, under which texts take a given number of layers on average."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import History, favourite
from dynflow.nodes.early_exit_classifier.criteria.learnt import Learnt, LearntCriterion, Lesson


class Scheduled(LearntCriterion):
    """Leave where a learnt score of the exit is at least what the schedule of this budget asks there (EENet, arXiv
    2301.07099, sections 3.2 and 3.3).

    What an exit is worth is a logistic regression of its being right, on `features`. The schedule holds, for some
    budgets, the least log-odds to leave with at each exit; between two of them it is interpolated. As these only rise
    with the budget, they are read backwards: `score` is the highest budget under which the row would leave.
    """

    name: ClassVar[str] = "scheduled"
    summary: ClassVar[str] = "the budget: layers that a text may take on average, on texts like those learnt from"

    def __init__(self, threshold: float, facts: Mapping[str, Any]) -> None:
        """`facts`: `layers` of the exits but the last; `weights` [exits, features and 1]; ascending `budgets`, layers;
        and `least` [exits, budgets], log-odds."""
        super().__init__(threshold, facts)
        self._budgets: list[float] = facts["budgets"]
        of_exits = zip(facts["weights"], facts["least"], strict=True)
        self._exits: dict[int, tuple[list[float], list[float]]] = dict(zip(facts["layers"], of_exits, strict=True))

    def highest(self, labels: int, layers: Sequence[int]) -> float:
        return self._budgets[-1]

    def score(self, history: History, layer: int) -> float:
        if layer not in self._exits:  # the last one
            return self._budgets[-1]
        weights, least = self._exits[layer]
        odds = log_odds(weights, features(history))
        place = bisect_right(least, odds) - 1
        if place < 0:
            return 0.0
        if place + 1 == len(least):  # a budget of all layers is for running them
            return math.nextafter(self._budgets[-1], 0.0)
        share = (odds - least[place]) / (least[place + 1] - least[place])
        return self._budgets[place] + share * (self._budgets[place + 1] - self._budgets[place])

    @classmethod
    def learn(cls, lesson: Lesson) -> Learnt:
        from dynflow.nodes.early_exit_classifier.training.schedule import learn

        return learn(lesson)


def features(history: History) -> list[float]:
    """What tells how right an exit is, each 0…1: its likeliest label's probability, its certainty by entropy, and the
    share of the exits so far that say the same (EENet, section 3.2)."""
    shares = history[-1]
    label = favourite(shares)
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    agreeing = sum(favourite(each) == label for each in history)
    return [shares[label], 1 - entropy / math.log(len(shares)), agreeing / len(history)]


def log_odds(weights: Sequence[float], given: Sequence[float]) -> float:
    """Of being right: a weighted sum, whose last weight stands alone."""
    return weights[-1] + sum(weight * each for weight, each in zip(weights, given, strict=False))
