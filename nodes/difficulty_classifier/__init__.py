"""`difficulty_classifier`: how much a request needs the strong model, as a score from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from dynflow.language.types import PortType, enum, number, record
from dynflow.node import Call, Node, NodeOptions, Output

if TYPE_CHECKING:
    from dynflow.nodes.difficulty_classifier.artefact import Prediction, Predictor


class DifficultyClassifier(Node):
    """Predict what the strong model would gain."""

    type = "difficulty_classifier"
    summary = "scores how much a request needs the strong model, 0 (easy) to 1 (hard), without calling one"
    extra = "quickstart"
    batches: ClassVar[bool] = True

    class Options(NodeOptions):
        """Which estimator, on what text."""

        static: ClassVar[frozenset[str]] = frozenset({"estimator"})

        estimator: str = Field(
            default="embedding",
            description="`embedding` (MiniLM and surface features), `surface` (no model), or the folder of a trained one",
        )
        text: str | None = Field(default=None, description="what to judge; default: the last user turn")

    ports: ClassVar[Mapping[str, PortType]] = {
        "score": number("0…1: share of the estimator's reference traffic that gains less from the strong model"),
        "label": enum(("easy", "hard"), "hard where the score is 0.5 or more"),
        "quality": record(None, "calibrated probability of a good answer, by route of the training data"),
        "confidence": number("how far the score is from undecided, 0…1"),
    }

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._predictor: Predictor | None = None

    @property
    def _loaded(self) -> Predictor:
        if self._predictor is None:
            from dynflow.nodes.difficulty_classifier.artefact import load

            name, folder = self.options.estimator, self.resources.folder
            local = "/" in name and folder is not None and not Path(name).is_absolute()
            self._predictor = load(str(folder / name) if local else name)
        return self._predictor

    def warm_up(self) -> None:
        self._loaded.warm_up()

    def close(self) -> None:
        self._predictor = None

    def run(self, call: Call) -> Output:
        return _output(self._loaded.predict([_text(call)])[0])

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        return [_output(prediction) for prediction in self._loaded.predict([_text(call) for call in calls])]


def _text(call: Call) -> str:
    return call.request.text if call.options.text is None else str(call.options.text)


def _output(prediction: Prediction) -> Output:
    return Output(
        {
            "score": prediction.score,
            "label": prediction.label,
            "quality": prediction.quality,
            "confidence": prediction.confidence,
        }
    )
