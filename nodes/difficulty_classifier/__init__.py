"""`difficulty_classifier`: how much a request needs the strong model, as a score from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from dynflow.language.types import PortType, enum, number, record
from dynflow.learning.node import HeadNode
from dynflow.node import Call, NodeOptions, Output

if TYPE_CHECKING:
    from dynflow.nodes.difficulty_classifier.artefact import Prediction, Predictor
    from dynflow.request import Request


class DifficultyClassifier(HeadNode["Predictor"]):
    """Predict what the strong model would gain."""

    type = "difficulty_classifier"
    summary = "scores how much a request needs the strong model, 0 (easy) to 1 (hard), without calling one"

    class Options(NodeOptions):
        """Which estimator, on what text."""

        static: ClassVar[frozenset[str]] = frozenset({"estimator", "conversation"})

        estimator: str = Field(
            default="embedding",
            description="`embedding` (MiniLM), `surface` (no model), or a trained folder",
        )
        text: str | None = Field(default=None, description="what to judge; default: the last user turn")
        conversation: bool = Field(
            default=False, description="judge the end of the whole conversation, where `text` is not given"
        )

    ports: ClassVar[Mapping[str, PortType]] = {
        "score": number("0…1: share of the estimator's reference traffic that gains less from the strong model"),
        "label": enum(("easy", "hard"), "hard where the score is 0.5 or more"),
        "quality": record(None, "calibrated probability of a good answer, by route of the training data"),
        "confidence": number("how far the score is from undecided, 0…1"),
    }

    @classmethod
    def load_head(cls, name_or_path: str) -> Predictor:
        from dynflow.nodes.difficulty_classifier.artefact import load

        return load(name_or_path)

    def trained_on(self, request: Request) -> bool:
        return self.head.trained_on(_read(request, self.options.conversation))

    def run(self, call: Call) -> Output:
        return _output(self.head.predict([_text(call)])[0])

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        return [_output(prediction) for prediction in self.head.predict([_text(call) for call in calls])]


def _text(call: Call) -> str:
    given = call.options.text
    return _read(call.request, call.options.conversation) if given is None else str(given)


def _read(request: Request, whole: bool) -> str:
    if not whole:
        return request.text
    from dynflow.nodes.difficulty_classifier.features import conversation

    return conversation([str(message.text) for message in request.messages])


def _output(prediction: Prediction) -> Output:
    return Output(
        {
            "score": prediction.score,
            "label": prediction.label,
            "quality": prediction.quality,
            "confidence": prediction.confidence,
        }
    )
