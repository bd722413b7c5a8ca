"""`encoder` over the encoder of an early-exit model: one encoder classifies texts and tells how hard they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dynflow.learning.shared_encoder import PREFIX, SharedEncoder, shared_encoder
from dynflow.nodes.difficulty_classifier import kernel
from dynflow.nodes.difficulty_classifier.embedding import EmbeddingEstimator
from dynflow.nodes.difficulty_classifier.encoder import EncoderEstimator
from dynflow.nodes.difficulty_classifier.estimator import Estimator
from dynflow.nodes.difficulty_classifier.features import ENDING_WORDS, ending, normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Array


class OverEncoder(Estimator):
    """Half a pass of an encoder that may be at hand already, none of whose weights it changes. The settings are those
    of `embedding`, which this is but for the encoder.

    It reads the states a quarter and half of the way up: what lies above was trained for the other task, and tells less
    of this one.
    """

    kind = EncoderEstimator.kind
    grid = EmbeddingEstimator.grid
    _shared: ClassVar[SharedEncoder]

    @classmethod
    def features_of(cls) -> str:
        return f"{cls._shared.digest} {cls._layers()} of the last {ENDING_WORDS} words"

    @classmethod
    def _layers(cls) -> tuple[int, ...]:
        depth = cls._shared.depth
        return tuple(sorted({max(1, depth // 4), max(1, depth // 2)}))

    def features(self, texts: Sequence[str]) -> Array:
        return self._shared.states([ending(normalise(text)) for text in texts], self._layers())

    def fit_features(self, features: Array, quality: Array) -> None:
        self.tensors = kernel.fit(features, quality, *self.settings)

    def predict_features(self, features: Array) -> Array:
        return kernel.predict(self.tensors, features)


def over(encoder: str, folder: Path | None = None) -> type[OverEncoder]:
    """The kind that reads with the encoder of an early-exit model, a relative path counted from `folder`. Cheap.

    Raises ArtefactError where there is none.
    """
    shared = shared_encoder(encoder, folder)
    made_of = (
        "ridge regression with a Gaussian kernel, one per route, on 64 principal components of the states a quarter "
        f"and half of the way up the encoder of the early-exit model `{encoder}`, on the last {ENDING_WORDS} words"
    )
    return type(OverEncoder.__name__, (OverEncoder,), {"_shared": shared, "encoder": encoder, "made_of": made_of})


def seen_from(folder: Path, encoder: str) -> str:
    """The encoder's name as an artefact in `folder` keeps it, so that both may move together."""
    return encoder if encoder.startswith(PREFIX) else os.path.relpath(Path(encoder).expanduser(), folder)
