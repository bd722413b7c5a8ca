"""`similarity_weighted`: what the routes reached on similar requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.nodes.difficulty_classifier.estimator import Estimator
from dynflow.nodes.difficulty_classifier.features import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Array


class SimilarityWeightedEstimator(Estimator):
    """RouteLLM's similarity-weighted ranking (arXiv 2406.18665 §4.2), on the local encoder. The setting is its gamma.

    A training row counts gamma^(1 + S), S being its cosine similarity to the request over the largest of all rows. The
    weighted Bradley-Terry model of two routes has a closed form: P(strong wins) is the weighted mean of
    (1 + strong - weak) / 2. So each route is given the weighted mean of its qualities; ties count half on both sides.
    """

    kind = "similarity_weighted"
    grid = ((10.0,),)
    made_of = (
        "RouteLLM's similarity-weighted Bradley-Terry ranking (arXiv 2406.18665 §4.2), with the all-MiniLM-L6-v2 "
        "embedding for similarity"
    )

    @classmethod
    def features_of(cls) -> str:
        from dynflow.models.encoder import SHA256

        return f"{SHA256} embedding"

    def features(self, texts: Sequence[str]) -> Array:
        from dynflow.models.encoder import Encoder

        return Encoder.shared().embed([reading(text) for text in texts])

    def fit_features(self, features: Array, quality: Array) -> None:
        import numpy as np

        self.tensors = {"embeddings": features.astype(np.float16), "quality": quality.astype(np.float32)}

    def predict_features(self, features: Array) -> Array:
        import numpy as np

        similarity = features @ self.tensors["embeddings"].astype(np.float32).T
        weights = self.settings[0] ** (1 + similarity / np.maximum(similarity.max(1, keepdims=True), 1e-6))
        predicted: Array = (weights @ self.tensors["quality"]) / weights.sum(1, keepdims=True)
        return predicted
