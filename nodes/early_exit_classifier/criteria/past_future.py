"""`past_future`: a row leaves where its past layers, and its later ones as imagined, make one label likely enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dynflow.nodes.early_exit_classifier.criteria.criterion import History
from dynflow.nodes.early_exit_classifier.criteria.learnt import Learnt, LearntCriterion, Lesson

if TYPE_CHECKING:
    from dynflow.nodes.early_exit_classifier.past_future import PastFuture as PastFutureReadout


class PastFuture(LearntCriterion):
    """Leave where the likeliest label's probability is at least the threshold, as it is told from the states at all
    exits so far and imitations of those to come (GPFEE, NAACL 2021, 2021.naacl-main.162, section 3)."""

    name: ClassVar[str] = "past_future"
    summary: ClassVar[str] = "probability of the likeliest label by past and imitated future layers, at least"
    most: ClassVar[float] = 1.0

    def score(self, history: History, layer: int) -> float:
        return max(history[-1])

    @classmethod
    def learn(cls, lesson: Lesson) -> Learnt:
        from dynflow.nodes.early_exit_classifier.training.past_future import learn

        return learn(lesson)

    @classmethod
    def readout(cls, learnt: Learnt) -> PastFutureReadout:
        from dynflow.nodes.early_exit_classifier.past_future import PastFuture

        return PastFuture.of(learnt)
