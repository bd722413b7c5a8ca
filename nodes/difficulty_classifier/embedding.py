"""`embedding`: kernel ridge regression on the middle layers of the sentence encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.nodes.difficulty_classifier import kernel
from dynflow.nodes.difficulty_classifier.estimator import Estimator
from dynflow.nodes.difficulty_classifier.features import ENDING_WORDS, ending, normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Array


class EmbeddingEstimator(Estimator):
    """Some milliseconds a text: one pass of the encoder. The settings are the kernel's sharpness and the ridge penalty.

    The encoder's middle layers tell what kind of task a text is, which its last one, trained for similar meaning,
    gives up. It reads the last words alone: a whole text's mean vector is moved by any preamble.
    """

    kind = "embedding"
    grid = ((1.5, 10.0), (1.5, 40.0))
    made_of = (
        "ridge regression with a Gaussian kernel, one per route, on 64 principal components of the vectors that "
        f"layers 3 and 5 of all-MiniLM-L6-v2 give of the last {ENDING_WORDS} words"
    )

    @classmethod
    def features_of(cls) -> str:
        from dynflow.models.encoder import MIDDLE_LAYERS, SHA256

        return f"{SHA256} {MIDDLE_LAYERS} of the last {ENDING_WORDS} words"

    def features(self, texts: Sequence[str]) -> Array:
        from dynflow.models.encoder import Encoder

        return Encoder.shared().middle([ending(normalise(text)) for text in texts])

    def fit_features(self, features: Array, quality: Array) -> None:
        self.tensors = kernel.fit(features, quality, *self.settings)

    def predict_features(self, features: Array) -> Array:
        return kernel.predict(self.tensors, features)
