"""`difficulty_classifier`: how much a request needs the strong model, as a score from 0 to 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dynflow.errors import DynflowError
from dynflow.language.types import PortType, enum, number, record
from dynflow.learning.heads import located
from dynflow.node import BuildScope, Call, Finding, Node, NodeOptions, Output

if TYPE_CHECKING:
    from dynflow.nodes.difficulty_classifier.artefact import Prediction, Predictor
    from dynflow.request import Request


class DifficultyClassifier(Node):
    """Predict what the strong model would gain."""

    type = "difficulty_classifier"
    summary = "scores how much a request needs the strong model, 0 (easy) to 1 (hard), without calling one"
    extra = "quickstart"
    can_answer: ClassVar[bool] = False
    batches: ClassVar[bool] = True

    class Options(NodeOptions):
        """Which estimator, on what text."""

        static: ClassVar[frozenset[str]] = frozenset({"estimator", "conversation"})

        estimator: str = Field(
            default="embedding",
            description="`embedding` (MiniLM), `surface` (no model), or a trained folder",
        )
        text: str | None = Field(default=None, description="what to judge; default: the last user turn")
        conversation: bool = Field(
            default=False, description="judge the whole conversation, newest turn first, where `text` is not given"
        )

    ports: ClassVar[Mapping[str, PortType]] = {
        "score": number("0…1: share of the estimator's reference traffic that gains less from the strong model"),
        "label": enum(("easy", "hard"), "hard where the score is 0.5 or more"),
        "quality": record(None, "calibrated probability of a good answer, by route of the training data"),
        "confidence": number("how far the score is from undecided, 0…1"),
    }

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        from dynflow.nodes.difficulty_classifier.artefact import load

        folder = scope.file.parent if scope.file is not None else scope.base
        try:
            load(located(options.estimator, folder))
        except DynflowError as error:
            yield Finding("bad_value", str(error), ("estimator",))

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._predictor: Predictor | None = None

    @property
    def _loaded(self) -> Predictor:
        if self._predictor is None:
            from dynflow.nodes.difficulty_classifier.artefact import load

            self._predictor = load(located(self.options.estimator, self.resources.folder))
        return self._predictor

    def trained_on(self, request: Request) -> bool:
        return self._loaded.trained_on(_read(request, self.options.conversation))

    def fingerprint(self) -> str | None:
        return self._loaded.digest

    def warm_up(self) -> None:
        self._loaded.warm_up()

    def close(self) -> None:
        self._predictor = None

    def run(self, call: Call) -> Output:
        return _output(self._loaded.predict([_text(call)])[0])

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        return [_output(prediction) for prediction in self._loaded.predict([_text(call) for call in calls])]


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
